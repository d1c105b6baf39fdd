"""Linear layers, through the engine's linear class and the GEMM that it dispatches to after weight loading."""

import itertools
import math
from typing import Any

from dooly.database import Point
from dooly.executor.session import Session, Unsupported
from dooly.executor.tensors import copies_for, dtype_of, need_memory, shape_of
from dooly.executor.trial import Trial
from dooly.ir import Operation
from dooly.ir.types import ITEM_BYTES

__all__ = ["LinearRunner"]


class LinearRunner:
    """``linear(x[T, k], w[n, k](, bias))`` on several copies of the weight in turn.

    Raises:
        Unsupported: element types that the engine's unquantized linear layer does not take.
        MemoryError: the copies would not fit.
    """

    def __init__(self, operation: Operation, session: Session) -> None:
        x, weight = operation.operands[:2]
        if x.dtype != weight.dtype:
            raise Unsupported(f"a linear layer of {weight.dtype} weights on {x.dtype} input")
        self._operation, self._session = operation, session
        n, k = shape_of(weight, {})
        layer_bytes = n * k * ITEM_BYTES[weight.dtype]
        copies = copies_for(layer_bytes, session.machine)
        self.weight_bytes = copies * layer_bytes
        # One more for the layer being packed: it exists twice for a moment.
        need_memory((copies + 1) * layer_bytes, session.machine)
        bias = len(operation.operands) > 2
        self._layers = [self._layer(n, k, bias, weight.dtype, seed) for seed in range(copies)]

    def _layer(self, n: int, k: int, bias: bool, dtype: str, seed: int) -> Any:
        from vllm.model_executor.layers.linear import ReplicatedLinear

        with self._session.building(dtype):
            layer = ReplicatedLinear(k, n, bias=bias, params_dtype=dtype_of(dtype))
            for parameter in layer.parameters():
                scale = 1.0 / math.sqrt(k)
                parameter.data.copy_(self._session.random(tuple(parameter.shape), dtype, seed)).mul_(scale)
            layer.quant_method.process_weights_after_loading(layer)
        return layer

    def trial(self, point: Point) -> Trial:
        """One call with T rows."""
        x_type = self._operation.operands[0]
        x = self._session.random(shape_of(x_type, point.axes), x_type.dtype)
        turns = itertools.cycle([(layer, layer.quant_method.apply, layer.bias) for layer in self._layers])

        def call() -> Any:
            layer, apply, bias = next(turns)
            return apply(layer, x, bias)

        return Trial(call, inputs=(x,), turns=len(self._layers))
