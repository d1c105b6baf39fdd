"""The engine's calls for each small operation of a region: its own kernels, or its code in plain torch."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import sympy

from dooly.executor.session import Session, Unsupported
from dooly.executor.tensors import DTYPES, dtype_of
from dooly.ir import Attribute, Op, TensorType
from dooly.ir.expr import Expr

__all__ = ["callable_for"]

Sizes: TypeAlias = Mapping[str, int]
Call: TypeAlias = Callable[..., Any]


def callable_for(op: Op, session: Session, *, native: bool = False) -> Call:
    """The function that does `op`: sizes of the request symbols first, then its operands.

    Args:
        native: the engine's code in plain torch, which its compiler fuses, instead of its custom kernels.

    Raises:
        Unsupported: the engine's function for it is not known.
    """
    if op.target in _SHAPED:
        return _SHAPED[op.target](op, session)
    if native and op.target in _NATIVE:
        return _without_sizes(_NATIVE[op.target](op, session))
    if op.target in _ENGINE:
        return _without_sizes(_ENGINE[op.target](op, session))
    if "." in op.target and not op.target.startswith("aten."):
        raise Unsupported(f"no function is known for {op.target}")
    return _without_sizes(_aten(op))


def _without_sizes(function: Call) -> Call:
    return lambda _sizes, *operands: function(*operands)


def _dims(type_: TensorType) -> Callable[[Sizes], list[int]]:
    """The shape as a function of the sizes; symbolic sizes of a compiler pass through it."""
    functions = [_dim(dim) for dim in type_.shape]
    return lambda sizes: [function(sizes) for function in functions]


def _dim(dim: Expr) -> Callable[[Sizes], int]:
    names = sorted(map(str, dim.free_symbols))
    if not names:
        value = int(dim)
        return lambda _sizes: value
    if dim.is_Symbol:
        (name,) = names
        return lambda sizes: sizes[name]
    function: Call = sympy.lambdify(names, dim, modules=[{"floor": int}])
    return lambda sizes: function(*[sizes[name] for name in names])


def _integer(op: Op, name: str) -> int:
    value = op.attr(name)
    if not isinstance(value, Expr):
        raise Unsupported(f"{op.target} without the integer attribute {name}")
    return int(value)


def _number(op: Op, name: str) -> float:
    value = op.attr(name)
    if isinstance(value, bool) or not isinstance(value, float | Expr):
        raise Unsupported(f"{op.target} without the number {name}")
    return float(value)


# -- views and constants ---------------------------------------------------------------------------------------------


def _reshape(op: Op, _session: Session) -> Call:
    shape = _dims(op.results[0].type)
    return lambda sizes, x: x.reshape(shape(sizes))


def _slice(op: Op, _session: Session) -> Call:
    dim, start = _integer(op, "dim"), _integer(op, "start")
    length = _dim(op.results[0].type.shape[dim])
    return lambda sizes, x: x.narrow(dim, start, length(sizes))


def _split(op: Op, _session: Session) -> Call:
    dim = _integer(op, "dim")
    parts = [_dim(value.type.shape[dim]) for value in op.results]
    return lambda sizes, x: x.split([part(sizes) for part in parts], dim)


def _transpose(op: Op, _session: Session) -> Call:
    order = _plain(op.attr("order"))
    return lambda _sizes, x: x.permute(order)


def _expand(op: Op, _session: Session) -> Call:
    shape = _dims(op.results[0].type)
    return lambda sizes, x: x.expand(shape(sizes))


def _fill(op: Op, session: Session) -> Call:
    import torch

    type_ = op.results[0].type
    shape, dtype = _dims(type_), dtype_of(type_.dtype)
    return lambda sizes: torch.zeros(shape(sizes), dtype=dtype, device=session.device)


_SHAPED: Mapping[str, Callable[[Op, Session], Call]] = {
    "reshape": _reshape,
    "slice": _slice,
    "split": _split,
    "transpose": _transpose,
    "expand": _expand,
    "fill": _fill,
}


# -- the engine's own functions --------------------------------------------------------------------------------------


def _embedding(_op: Op, _session: Session) -> Call:
    from torch.nn.functional import embedding

    return lambda table, ids: embedding(ids, table)


def _index_select(_op: Op, _session: Session) -> Call:
    return lambda x, rows: x[rows]


def _rms_norm(op: Op, _session: Session) -> Call:
    from vllm import ir

    function, eps = ir.ops.rms_norm, _number(op, "eps")
    return lambda x, weight=None: function(x, weight, eps, None)


def _add_rms_norm(op: Op, _session: Session) -> Call:
    from vllm import ir

    function, eps = ir.ops.fused_add_rms_norm.maybe_inplace, _number(op, "eps")
    return lambda x, residual, weight=None: function(x, residual, weight, eps, None)


def _rotary_embedding(op: Op, _session: Session) -> Call:
    from vllm._custom_ops import rotary_embedding

    head_size, neox = _integer(op, "head_size"), op.attr("is_neox") is not False

    def call(positions: Any, query: Any, key: Any, table: Any) -> tuple[Any, Any]:
        rotary_embedding(positions, query, key, head_size, table, neox)
        return query, key

    return call


def _silu_and_mul(_op: Op, session: Session) -> Call:
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.layers.activation import SiluAndMul

    with set_current_vllm_config(session.config("bf16")):
        return SiluAndMul()


def _cast(op: Op, _session: Session) -> Call:
    dtype = dtype_of(op.results[0].type.dtype)
    return lambda x: x.to(dtype)


def _copy(_op: Op, _session: Session) -> Call:
    return lambda x: x.clone()


def _vocab_parallel_embedding(op: Op, session: Session) -> Call:
    """The engine's embedding on one of several ranks: rows of other ranks count as zero."""
    from torch.nn.functional import embedding
    from vllm.model_executor.layers.vocab_parallel_embedding import get_masked_input_and_mask

    if session.device == "cpu":
        raise Unsupported("no function is known for vocab_parallel_embedding on the CPU")
    bounds = [_integer(op, name) for name in _VOCABULARY]

    def call(ids: Any, table: Any) -> Any:
        inside, outside = get_masked_input_and_mask(ids, *bounds)
        return embedding(inside.long(), table).masked_fill_(outside.unsqueeze(-1), 0)

    return call


_VOCABULARY = (
    "org_vocab_start_index",
    "org_vocab_end_index",
    "num_org_vocab_padding",
    "added_vocab_start_index",
    "added_vocab_end_index",
)


def _gelu_tanh_and_mul(_op: Op, session: Session) -> Call:
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.layers.activation import GeluAndMul

    with set_current_vllm_config(session.config("bf16")):
        return GeluAndMul(approximate="tanh")


def _argmax(op: Op, session: Session) -> Call:
    """Greedy sampling over the last axis is the engine's own kernel on the CPU; an explicit axis is ATen's."""
    import torch

    if op.attr("dim") is not None:
        return _aten(op)
    return torch.ops._C.greedy_argmax if session.device == "cpu" else lambda x: x.argmax(-1)


_ENGINE: Mapping[str, Callable[[Op, Session], Call]] = {
    "embedding": _embedding,
    "index_select": _index_select,
    "rms_norm": _rms_norm,
    "add_rms_norm": _add_rms_norm,
    "rotary_embedding": _rotary_embedding,
    "silu_and_mul": _silu_and_mul,
    "cast": _cast,
    "copy": _copy,
    "vocab_parallel_embedding": _vocab_parallel_embedding,
    "gelu_tanh_and_mul": _gelu_tanh_and_mul,
    "argmax": _argmax,
}


# -- the same in plain torch -----------------------------------------------------------------------------------------


def _native_rms_norm(op: Op, _session: Session) -> Call:
    from vllm import ir

    function, eps = ir.ops.rms_norm.impls["native"].impl_fn, _number(op, "eps")
    return lambda x, weight=None: function(x, weight, eps, None)


def _native_add_rms_norm(op: Op, _session: Session) -> Call:
    from vllm import ir

    function, eps = ir.ops.fused_add_rms_norm.impls["native"].impl_fn, _number(op, "eps")
    return lambda x, residual, weight=None: function(x, residual, weight, eps, None)


def _native_rotary_embedding(op: Op, _session: Session) -> Call:
    from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding

    head_size, neox = _integer(op, "head_size"), op.attr("is_neox") is not False
    function = RotaryEmbedding.forward_static

    def call(positions: Any, query: Any, key: Any, table: Any) -> tuple[Any, Any]:
        return function(positions, query, key, head_size, table.shape[-1], table, neox)

    return call


def _native_silu_and_mul(_op: Op, _session: Session) -> Call:
    from vllm.model_executor.layers.activation import SiluAndMul

    return SiluAndMul.forward_native


def _native_gelu_tanh_and_mul(op: Op, session: Session) -> Call:
    layer: Any = _gelu_tanh_and_mul(op, session)
    return layer.forward_native


_NATIVE: Mapping[str, Callable[[Op, Session], Call]] = {
    "rms_norm": _native_rms_norm,
    "add_rms_norm": _native_add_rms_norm,
    "rotary_embedding": _native_rotary_embedding,
    "silu_and_mul": _native_silu_and_mul,
    "gelu_tanh_and_mul": _native_gelu_tanh_and_mul,
}


# -- anything else is ATen's, by its own schema ----------------------------------------------------------------------


def _aten(op: Op) -> Call:
    import torch

    packet = getattr(torch.ops.aten, op.target.removeprefix("aten."), None)
    if packet is None:
        raise Unsupported(f"ATen has no function {op.target}")
    attrs = {name: value for name, value in op.attrs if value is not None}
    for overload in packet.overloads():
        function = getattr(packet, overload)
        schema = function._schema  # pyright: ignore[reportPrivateUsage]
        listed = bool(schema.arguments) and str(schema.arguments[0].type) == "List[Tensor]"
        leading, tensors = (schema.arguments[1:], 0) if listed else (schema.arguments, len(op.operands))
        arguments = _bind(leading, tensors, attrs)
        if arguments is not None and len(schema.returns) == len(op.results):
            if listed:
                return lambda *operands: function(operands, **arguments)
            return lambda *operands: function(*operands, **arguments)
    raise Unsupported(f"no overload of aten.{packet.__name__} takes {len(op.operands)} tensors and {sorted(attrs)}")


def _bind(schema: Any, operands: int, attrs: Mapping[str, Attribute]) -> dict[str, Any] | None:
    """Keyword arguments if the schema starts with just so many tensors and takes every attribute; None otherwise."""
    leading = 0
    while leading < len(schema) and str(schema[leading].type) == "Tensor" and not schema[leading].kwarg_only:
        leading += 1
    if leading != operands:
        return None
    rest = {argument.name: argument for argument in schema[leading:]}
    if any(name not in rest for name in attrs):
        return None
    if any(not argument.has_default_value() and name not in attrs for name, argument in rest.items()):
        return None
    return {name: _plain(value) for name, value in attrs.items()}


def _plain(value: Attribute) -> Any:
    """An attribute as torch takes it."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return dtype_of(value) if value in DTYPES else value
    return int(value) if isinstance(value, Expr) else value
