"""Products of fp8 matrices, through the kernel that the engine's quantized linear layers choose."""

import itertools
import math
from types import SimpleNamespace
from typing import Any

import sympy

from dooly.database import Point
from dooly.executor.session import Session
from dooly.executor.tensors import copies_for, dtype_of, need_memory, shape_of
from dooly.executor.trial import Trial, Unsupported
from dooly.ir import Operation

__all__ = ["ScaledLinearRunner"]


class ScaledLinearRunner:
    """``scaled_linear(x[T, k], w[n, k], x_scale, w_scale(, bias))``.

    One scale of the weight or one per row; one of the activations per token or in all.

    The activations are quantized before; that is an operation of its own.

    Raises:
        Unsupported: scales of groups, or the engine has no kernel for this here.
        MemoryError: the copies of the weight would not fit.
    """

    def __init__(self, operation: Operation, session: Session) -> None:
        from vllm.model_executor.kernels.linear import init_fp8_linear_kernel
        from vllm.model_executor.layers.quantization.utils import quant_utils

        x, weight, x_scale, w_scale = operation.operands[:4]
        self._operation, self._session = operation, session
        self._out = operation.results[0].dtype
        self._per_token = x_scale.shape == (x.shape[0], sympy.Integer(1))
        self._n, k = shape_of(weight, {})
        self._per_row = w_scale.shape == (sympy.Integer(self._n), sympy.Integer(1))
        scaled = (self._per_row or w_scale.numel == 1) and (self._per_token or x_scale.numel == 1)
        if weight.dtype != "f8e4m3" or not scaled:
            raise Unsupported(f"a product of {weight.dtype} matrices with scales {x_scale} and {w_scale}")
        copies = copies_for(self._n * k, session.machine)
        self.weight_bytes = copies * self._n * k
        need_memory(self.weight_bytes + 4 * self._n * k, session.machine)  # one weight exists before it is quantized
        asked = quant_utils.kFp8DynamicTokenSym if self._per_token else quant_utils.kFp8DynamicTensorSym
        try:
            with session.building(self._out):
                self._kernel: Any = init_fp8_linear_kernel(
                    activation_quant_key=asked,
                    weight_quant_key=(
                        quant_utils.kFp8StaticChannelSym if self._per_row else quant_utils.kFp8StaticTensorSym
                    ),
                    input_dtype=dtype_of(self._out),
                    out_dtype=dtype_of(self._out),
                    weight_shape=(self._n, k),
                )
                self._layers = [self._layer(k, seed) for seed in range(copies)]
        except (NotImplementedError, ValueError) as error:  # as kernels say what they do not run
            raise Unsupported(f"the engine has no fp8 kernel here: {error}") from error

    def _layer(self, k: int, seed: int) -> Any:
        """Return the layer whose parameters the kernel takes."""
        import torch

        values = self._session.random((self._n, k), self._out, seed).div_(math.sqrt(k))
        quantized, scale = self._quantized(values, per_token=self._per_row)
        layer = torch.nn.Module()
        layer.weight = torch.nn.Parameter(quantized.t(), requires_grad=False)
        layer.weight_scale = torch.nn.Parameter(scale, requires_grad=False)
        self._kernel.process_weights_after_loading(layer)
        bias = len(self._operation.operands) > 4
        return SimpleNamespace(
            weight=layer.weight,
            scale=layer.weight_scale,
            bias=self._session.random((self._n,), self._out, seed) if bias else None,
        )

    def _quantized(self, values: Any, *, per_token: bool) -> tuple[Any, Any]:
        from vllm import _custom_ops

        return _custom_ops.scaled_fp8_quant(values, use_per_token_if_dynamic=per_token)

    def trial(self, point: Point) -> Trial:
        """One call with T rows."""
        rows, k = shape_of(self._operation.operands[0], point.axes)
        values = self._session.random((rows, k), self._out)
        x, scale = self._quantized(values, per_token=self._per_token)
        turns, product, out = itertools.cycle(self._layers), self._kernel.apply_scaled_mm, dtype_of(self._out)
        shape = [rows, self._n]

        def call() -> Any:
            layer = next(turns)
            return product(
                A=x, B=layer.weight, out_dtype=out, As=scale, Bs=layer.scale, bias=layer.bias, output_shape=shape
            )

        return Trial(call, inputs=(values, x, scale), turns=len(self._layers))
