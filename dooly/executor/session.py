"""The engine's surroundings in which a single layer can run: configuration, process groups, operation priorities."""

import json
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dooly.engine import EngineSettings, engine_config, prepare_vllm
from dooly.errors import ProfileError
from dooly.executor.machine import Machine
from dooly.executor.tensors import DTYPES

__all__ = ["Session", "Unsupported", "open_session"]

_MAX_CONTEXT = 1 << 17


class Unsupported(Exception):
    """No code here can run this operation as the engine would; the text says why."""


class Session:
    """One process's use of the engine's layers.  Made by `open_session`.

    Attributes:
        machine: where it runs.
        layers: the engine's registry of layers by name, shared by all configurations of this session.
        forward: the engine's ForwardContext, in force while the session is open; runners put their metadata there.
    """

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.machine = machine
        self.layers: dict[str, Any] = {}
        self.forward: Any = None
        self._folder = folder
        self._configs: dict[str, Any] = {}
        self._names = 0

    def config(self, dtype: str) -> Any:
        """A vllm.config.VllmConfig for layers of this element type (IR name), made once.

        Raises:
            Unsupported: the engine has no model of this type.
        """
        if dtype not in ("bf16", "f16", "f32"):
            raise Unsupported(f"the engine runs no layers in {dtype}")
        if dtype not in self._configs:
            folder = self._folder / dtype
            folder.mkdir()
            (folder / "config.json").write_text(json.dumps(_MODEL | {"torch_dtype": DTYPES[dtype]}))
            settings = EngineSettings(
                max_num_seqs=1,
                max_num_batched_tokens=_MAX_CONTEXT,
                max_model_len=_MAX_CONTEXT,
                block_size=self.machine.block_size,
            )
            config = engine_config(folder, settings)
            config.compilation_config.static_forward_context = self.layers
            self._configs[dtype] = config
        return self._configs[dtype]

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
def open_session(machine: Machine) -> Generator[Session]:
    """Set up what a worker of the engine sets up before it builds layers, and take it down at the end.

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
            init_distributed_environment(1, 0, f"file://{folder}/rendezvous", 0, "gloo")
            initialize_model_parallel(1, 1)
        config.kernel_config.ir_op_priority.set_default()
        vllm.ir.set_default_torch_wrap(config.compilation_config.ir_enable_torch_wrap)
        session.forward = create_forward_context({}, config, slot_mapping={})
        session.forward.all_moe_layers = None  # layers are called by name, as often as it takes
        try:
            with override_forward_context(session.forward):
                yield session
        finally:
            cleanup_dist_env_and_memory()
