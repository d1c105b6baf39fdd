"""The engine's surroundings in which a single layer can run: configuration, process groups, operation priorities."""

import functools
import gc
import json
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from dooly.database import Samples
from dooly.engine.settings import EngineSettings, engine_config, one_line, prepare_vllm
from dooly.errors import ProfileError
from dooly.executor.ranks import Ranks
from dooly.executor.tensors import DTYPES, dtype_of, random_tensor
from dooly.executor.timing.cpu import ALONE, Peers, Precision, measure
from dooly.executor.trial import Trial, Unsupported
from dooly.hardware.gpu import Slowed
from dooly.hardware.machine import Machine

if TYPE_CHECKING:
    import torch

__all__ = ["Place", "Session", "Unsupported", "open_session"]

_MAX_CONTEXT = 1 << 17
_MAX_REQUESTS = {"cpu": 1, "cuda": 512}
"""Buffers of metadata builders are made for so many requests; on the CPU they have none."""


_PAUSES_S = (5.0, 20.0)
"""Seconds that a GPU that is too hot gets to cool down before it is tried again."""


@dataclass(frozen=True)
class Place:
    """Which of several processes this is.

    Fields:
        rank, of: this one, and how many there are.
        rendezvous: a file by which they find each other; None for one of the session's own.
    """

    rank: int = 0
    of: int = 1
    rendezvous: str | None = None


class Session:
    """One process's use of the engine's layers.  Made by `open_session`.

    Attributes:
        machine: where it runs.
        device: where tensors live, as torch calls it.
        layers: the engine's registry of layers by name, shared by all configurations of this session.
        forward: the engine's ForwardContext, in force while the session is open; runners put their metadata there.
    """

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.machine = machine
        self.device: str = machine.torch_device
        self.layers: dict[str, Any] = {}
        self.forward: Any = None
        self._folder = folder
        self._configs: dict[str, Any] = {}
        self._names = 0
        self._ranks: Ranks | None = None

    def config(
        self,
        dtype: str,
        *,
        backend: str | None = None,
        block_size: int | None = None,
        family: Mapping[str, object] = MappingProxyType({}),
        **model: int,
    ) -> Any:
        """A vllm.config.VllmConfig for layers of this element type (IR name), made once.

        Args:
            backend: attention backend by the engine's name; its own choice by default.
            block_size: tokens in one KV-cache block; by default that of the machine.
            family: fields of config.json that make it a model of another kind.
            model: fields of config.json that a layer takes from there and not from its arguments.

        Raises:
            Unsupported: the engine has no model of this type.
        """
        if dtype not in ("bf16", "f16", "f32"):
            raise Unsupported(f"the engine runs no layers in {dtype}")
        kind, block_size = str(family.get("model_type", "")), block_size or self.machine.block_size
        sizes = (f"{name}={value}" for name, value in sorted(model.items()))
        key = "-".join([dtype, kind, backend or "", f"{block_size}", *sizes])
        if key not in self._configs:
            folder = self._folder / key
            folder.mkdir()
            fields = {**_MODEL, **family, **model, "torch_dtype": DTYPES[dtype]}
            (folder / "config.json").write_text(json.dumps(fields))
            settings = EngineSettings(
                max_num_seqs=_MAX_REQUESTS[self.device],
                max_num_batched_tokens=_MAX_CONTEXT,
                max_model_len=_MAX_CONTEXT,
                block_size=block_size,
            )
            config = engine_config(folder, settings, enforce_eager=self.machine.mode == "eager", backend=backend)
            config.compilation_config.static_forward_context = self.layers
            self._configs[key] = config
        return self._configs[key]

    @contextmanager
    def building(self, dtype: str, config: Any = None) -> Generator[Any]:
        """Surroundings in which the engine builds layers of this element type; gives the configuration in force.

        Raises:
            Unsupported: the engine has no model of this type.
        """
        import torch
        from vllm.config import set_current_vllm_config

        config = config or self.config(dtype)
        default_dtype = torch.get_default_dtype()
        torch.set_default_dtype(dtype_of(dtype))
        try:
            with torch.device(self.device), set_current_vllm_config(config):
                yield config
        finally:
            torch.set_default_dtype(default_dtype)

    def random(self, shape: tuple[int, ...], dtype: str, seed: int = 0) -> "torch.Tensor":
        """A random tensor where this session's tensors live."""
        return random_tensor(shape, dtype, seed, self.device)

    def measure(self, trial: Trial, precision: Precision, peers: Peers = ALONE) -> Samples:
        """Time one trial with the clock of this device.

        Raises:
            Slowed: the GPU is slower than it should be, and still is after a while.
        """
        if trial.elsewhere is not None:
            return trial.elsewhere(precision)
        if self.device == "cuda":
            from dooly.executor.timing.gpu import measure_on_gpu

            graph = self.machine.mode == "graph" and trial.captured
            how = functools.partial(measure_on_gpu, graph=graph, cache_bytes=self.machine.cache_bytes, peers=peers)
            for pause_s in _PAUSES_S:
                with suppress(Slowed):
                    return how(trial, precision)
                time.sleep(pause_s)
            return how(trial, precision)
        return measure(trial.call, precision, trial.aside, peers)

    def recover(self) -> None:
        """After a failure: give memory back, and see whether the device still answers.

        Raises:
            ProfileError: it does not, so everything after this would fail too.
        """
        gc.collect()
        if self.device == "cuda":
            import torch

            try:
                torch.cuda.synchronize()
                torch.cuda.empty_cache()
            except RuntimeError as error:
                raise ProfileError(
                    f"the GPU is lost to this process after a kernel failed ({one_line(error)}); the point is recorded "
                    "as failed, and the same command goes on after it"
                ) from error

    def ranks(self, count: int) -> Ranks:
        """Processes that do collectives together; those of another number are ended."""
        if self._ranks is None or self._ranks.count != count:
            self.end_ranks()
            self._ranks = Ranks(self.machine, count)
        return self._ranks

    def end_ranks(self) -> None:
        """End the processes that `ranks` has started."""
        if self._ranks is not None:
            self._ranks.close()
            self._ranks = None

    def layer_name(self) -> str:
        """A layer name not used before; the engine keeps its layers by name."""
        self._names += 1
        return f"model.layers.{self._names}.measured"


_MODEL: dict[str, object] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 256,
    "max_position_embeddings": _MAX_CONTEXT,
    "rms_norm_eps": 1e-5,
}
"""The model that a configuration object must belong to.  Layers take their sizes from the operation, not from here."""


@contextmanager
def open_session(machine: Machine, place: Place = Place()) -> Generator[Session]:
    """Set up what a worker of the engine sets up before it builds layers, and take it down at the end.

    Args:
        place: which rank this process is, where several work together.

    Raises:
        ProfileError: kernels would use another number of threads than the environment says.
    """
    prepare_vllm()
    import torch
    import vllm.ir
    from vllm.config import set_current_vllm_config
    from vllm.distributed import (
        cleanup_dist_env_and_memory,
        init_distributed_environment,
        initialize_model_parallel,
    )
    from vllm.forward_context import create_forward_context, override_forward_context

    if machine.torch_device == "cuda":
        torch.cuda.set_device(place.rank)
    if torch.get_num_threads() != machine.threads:
        torch.set_num_threads(machine.threads)
    if torch.get_num_threads() != machine.threads:  # an engine that ran here before has frozen the number
        raise ProfileError(
            f"torch uses {torch.get_num_threads()} threads but this machine is recorded with {machine.threads}; "
            "set OMP_NUM_THREADS before starting"
        )
    cleanup_dist_env_and_memory()  # whatever ran before in this process may have left its groups
    with tempfile.TemporaryDirectory(prefix="dooly-") as folder, torch.inference_mode():
        session = Session(machine, Path(folder))
        config = session.config("bf16")
        with set_current_vllm_config(config):
            backend = "nccl" if session.device == "cuda" and place.of > 1 else "gloo"
            rendezvous = place.rendezvous or f"{folder}/rendezvous"
            init_distributed_environment(place.of, place.rank, f"file://{rendezvous}", place.rank, backend)
            initialize_model_parallel(1, 1)
        if session.device == "cuda":
            from vllm.v1.worker.workspace import init_workspace_manager

            init_workspace_manager(torch.device("cuda"))
        config.kernel_config.ir_op_priority.set_default()
        vllm.ir.set_default_torch_wrap(config.compilation_config.ir_enable_torch_wrap)
        session.forward = create_forward_context({}, config, slot_mapping={})
        session.forward.all_moe_layers = None  # layers are called by name, as often as it takes
        try:
            with override_forward_context(session.forward), set_current_vllm_config(config):
                yield session
        finally:
            session.end_ranks()
            cleanup_dist_env_and_memory()
