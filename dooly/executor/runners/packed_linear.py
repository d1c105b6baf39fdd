"""Linear layers of quantized checkpoints, through the layer that the engine builds from what such a checkpoint says."""

import itertools
import json
import math
from typing import Any

from dooly.database import Point
from dooly.executor.session import Session, Unsupported
from dooly.executor.tensors import copies_for, dtype_of, need_memory, shape_of
from dooly.executor.trial import Trial
from dooly.ir import Operation
from dooly.ir.expr import symbols_of

__all__ = ["PackedLinearRunner", "fill_packed", "quantization", "weight_bytes"]


class PackedLinearRunner:
    """``packed_linear(x[T, k], ...)``: its weights loaded as the engine loads them, on several copies in turn.

    Raises:
        Unsupported: the engine builds no such layer here, or another kernel's.
        MemoryError: the copies would not fit.
    """

    def __init__(self, operation: Operation, session: Session) -> None:
        self._operation, self._session = operation, session
        self._out = operation.results[0].dtype
        layer_bytes = weight_bytes(operation)
        copies = copies_for(layer_bytes, session.machine)
        self.weight_bytes = copies * layer_bytes
        need_memory((copies + 2) * layer_bytes, session.machine)  # the one that is loaded exists more than once
        try:
            self._layers = [self._layer(seed) for seed in range(copies)]
        except (NotImplementedError, ValueError, RuntimeError) as error:  # as kernels say what they do not run
            raise Unsupported(f"the engine has no such kernel here: {error}") from error

    def _layer(self, seed: int) -> Any:
        from vllm.model_executor.layers.linear import ReplicatedLinear

        k, n = (int(type_.shape[-1]) for type_ in (self._operation.operands[0], self._operation.results[0]))
        with self._session.building(self._out):
            layer: Any = ReplicatedLinear(
                k,
                n,
                bias=False,
                params_dtype=dtype_of(self._out),
                quant_config=quantization(self._operation),
                prefix=self._session.layer_name(),
            )
            fill_packed(layer, self._session, seed)
            layer.quant_method.process_weights_after_loading(layer)
        return layer

    def trial(self, point: Point) -> Trial:
        """One call with T rows."""
        x_type = self._operation.operands[0]
        x = self._session.random(shape_of(x_type, point.axes), x_type.dtype)
        turns = itertools.cycle([(layer, layer.quant_method.apply) for layer in self._layers])

        def call() -> Any:
            layer, apply = next(turns)
            return apply(layer, x, None)

        return Trial(call, inputs=(x,), turns=len(self._layers))


def quantization(operation: Operation) -> Any:
    """The engine's configuration object for the scheme of an operation; None for plain weights.

    Raises:
        Unsupported: the engine does not know the scheme here.
    """
    from vllm.model_executor.layers.quantization import get_quantization_config

    scheme = operation.attr("scheme")
    if not isinstance(scheme, str):
        return None
    said: dict[str, Any] = {"ignore": [], **json.loads(scheme)}
    try:
        return get_quantization_config(said["quant_method"]).from_config(said)
    except (KeyError, ValueError, TypeError) as error:
        raise Unsupported(f"the engine does not read the scheme {scheme} here: {error}") from error


def weight_bytes(operation: Operation) -> int:
    """Bytes of the operands that are the same at every step."""
    constant = (type_ for type_ in operation.operands if not any(symbols_of(dim) for dim in type_.shape))
    return sum(int(type_.bytes) for type_ in constant)


def fill_packed(layer: Any, session: Session, seed: int) -> None:
    """Give parameters as a checkpoint has them random values: any bits where numbers are packed, small scales."""
    import torch

    generator = torch.Generator(session.device).manual_seed(seed)
    for name, parameter in layer.named_parameters():
        values = parameter.data
        if not values.dtype.is_floating_point:
            limits = torch.iinfo(values.dtype)
            values.random_(limits.min, limits.max, generator=generator)
        elif "scale" in name:
            values.fill_(1.0 / math.sqrt(max(values.shape[-1:] or (1,))))
        else:
            wide = torch.randn(values.shape, generator=generator, device=session.device)
            values.copy_(wide.div_(math.sqrt(max(values.shape[-1:] or (1,)))))
