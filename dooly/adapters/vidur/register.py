"""Registering a model with the Vidur that is installed, whichever of the two lineages it is."""

import re
from dataclasses import field, make_dataclass
from importlib import import_module
from typing import Any

from dooly.adapters.shape import Shape, peak_tflops, shape_of
from dooly.adapters.vidur.slots import Slots
from dooly.errors import PredictError
from dooly.predict import SavedModel

__all__ = ["device_name", "native_lineage", "register"]

_KNOWN = ("a40", "a100", "h100", "l40")
_KEPT: list[type] = []


def native_lineage() -> bool:
    """Whether this is the package `vidur` (compiled entities) and not microsoft/vidur.

    Raises:
        PredictError: neither is installed.
    """
    try:
        import_module("vidur.config")
    except ImportError as error:
        raise PredictError(
            f"Vidur cannot be imported ({error}); install vidur==0.0.26 or put microsoft/vidur on PYTHONPATH"
        ) from error
    try:
        import_module("vidur._native")
    except ImportError:
        return False
    return True


def device_name(model: SavedModel) -> str:
    """A short name of the measured device as a flag's value: ``h200``, ``cpu``.

    >>> from types import SimpleNamespace
    >>> device_name(SimpleNamespace(device="NVIDIA H200 141GB HBM3"))
    'h200'
    """
    gpu = re.search(r"NVIDIA\s+(?:\w+\s+)*?([A-Z]+\d+\w*)", model.device)
    return gpu[1].lower() if gpu else "cpu"


def register(model: SavedModel) -> Slots:
    """Make model, device and predictor known to Vidur.

    They answer to ``--replica_config_model_name NAME``, ``--replica_config_device DEVICE`` and
    ``--execution_time_predictor_config_type dummy``, the one key that Vidur declares and does not use.

    Raises:
        PredictError: the model is a pipeline stage; or Vidur cannot be imported or has other interfaces than the two
            lineages known here.
    """
    model.check_whole("Vidur on dooly's step times")
    native = native_lineage()
    slots = Slots(model, cpu_fields=not native)
    try:
        config = import_module("vidur.config")
        types = import_module("vidur.types")
        predictors = import_module("vidur.execution_time_predictor")
        module = "vidur._native.entities" if native else "vidur.entities"
        execution_time = import_module(module).ExecutionTime
        _check_sum(execution_time, 1 if native else 6)
        _register_model(types, model.name, shape_of(model), native)
        _register_device(model)
        key = types.ExecutionTimePredictorType.DUMMY
        base = config.BaseExecutionTimePredictorConfig
        _subclass(base, "DummyExecutionTimePredictorConfig", {}, "get_type", key)
        predictor = _predictor(
            predictors.BaseExecutionTimePredictor, execution_time, slots, "num_q_tokens" if native else "num_tokens"
        )
        predictors.ExecutionTimePredictorRegistry.register(key, predictor)
    except (ImportError, AttributeError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise PredictError(
            f"this Vidur is none that dooly knows ({reason}); expected vidur 0.0.26 or microsoft/vidur of 2024-11"
        ) from error
    return slots


def _check_sum(execution_time: Any, per_step: int) -> None:
    """Whether this ExecutionTime takes the fields that `Slots` fills, and adds them up as it takes for granted.

    Raises:
        TypeError: it does not.
    """
    layer = [float(1 << i) for i in range(13)]
    layer[1] = 0.0
    step = [float(1 << i) for i in range(13, 13 + per_step)]
    found, expected = execution_time(2, *layer, *step).total_time, (2 * (sum(layer) + layer[12]) + sum(step)) * 1e-3
    if abs(found / expected - 1) > 1e-9:
        raise TypeError("its ExecutionTime adds up other fields")


def _predictor(base: Any, execution_time: Any, slots: Slots, new_tokens: str) -> Any:
    """The class that Vidur instantiates.

    Args:
        new_tokens: attribute of a batch that lists the new tokens of its requests.
    """
    model = slots.model

    class DoolyExecutionTimePredictor(base):
        """Answers the one call that Vidur's simulator makes."""

        def __init__(self, predictor_config: Any, replica_config: Any, *others: Any, **named: Any) -> None:
            super().__init__(predictor_config, replica_config, *others, **named)
            asked = replica_config.model_name, replica_config.tensor_parallel_size, replica_config.num_pipeline_stages
            if asked != (model.name, model.tensor_parallel, 1):
                raise PredictError(
                    f"Vidur asks for {asked[0]} on {asked[1]} tensor-parallel ranks in {asked[2]} pipeline stages; the "
                    f"step times are of {model.name} on {model.tensor_parallel} in 1; "
                    f"write others with `dooly export steps {asked[0]} --tp {asked[1]}`"
                )

        def get_execution_time(self, batch: Any, pipeline_stage: int) -> Any:
            """The step's ExecutionTime."""
            del pipeline_stage
            return execution_time(*slots.fields(self.requests_of(batch)))

        @staticmethod
        def requests_of(batch: Any) -> tuple[tuple[int, int], ...]:
            """(new, cached) tokens of each request.

            Vidur counts the token that a step produced as processed; its keys enter the cache one step later.
            """
            pairs = zip(getattr(batch, new_tokens), batch.requests, strict=True)
            return tuple([(q, r.num_processed_tokens - r.is_prefill_complete) for q, r in pairs])

    # What it declares abstract are the parts from which its own `get_execution_time` is put together.
    DoolyExecutionTimePredictor.__abstractmethods__ = frozenset()
    return DoolyExecutionTimePredictor


def _register_model(types: Any, name: str, shape: Shape, native: bool) -> None:
    """Vidur counts weights as gated feed-forward layers: all experts of a mixture stand side by side in one."""
    values: dict[str, Any] = {
        "num_layers": shape.layers,
        "num_q_heads": shape.heads,
        "num_kv_heads": shape.kv_heads,
        "embedding_dim": shape.hidden,
        "mlp_hidden_dim": shape.intermediate * max(shape.experts, 1),
        "max_model_len" if native else "max_position_embeddings": shape.context,
        "use_gated_mlp": True,
        "use_bias": False,
        "use_qkv_bias": False,
        "activation": types.ActivationType.SILU,
        "norm": types.NormType.RMS_NORM,
        "post_attn_norm": True,
        "vocab_size": shape.vocabulary,
    }
    base = import_module("vidur.config.model_config").BaseModelConfig
    _subclass(base, "DoolyModelConfig", values, "get_name", name)


def _register_device(model: SavedModel) -> None:
    """Vidur's utilization metric divides by the device's peak: the fastest measured GEMM stands for it."""
    name = device_name(model)
    if name in _KNOWN:
        return
    values = {"fp16_tflops": peak_tflops(model), "total_memory_gb": round(model.memory_bytes / 2**30)}
    base = import_module("vidur.config.device_sku_config").BaseDeviceSKUConfig
    _subclass(base, "DoolyDeviceSKUConfig", values, "get_type", name)


def _subclass(base: Any, name: str, values: dict[str, Any], getter: str, answer: Any) -> None:
    """A dataclass that Vidur finds by scanning the subclasses of `base`; Python keeps only a weak reference."""
    fields = [(key, type(value), field(default=value)) for key, value in values.items()]
    _KEPT.append(make_dataclass(name, fields, bases=(base,), namespace={getter: staticmethod(lambda: answer)}))
