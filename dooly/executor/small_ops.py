"""What the engine calls for each small operation of a region on the CPU platform."""

from collections.abc import Callable, Mapping
from typing import Any

from dooly.executor.session import Session, Unsupported
from dooly.executor.tensors import DTYPES, dtype_of, shape_of
from dooly.ir import Attribute, Op
from dooly.ir.expr import Expr

__all__ = ["callable_for"]

Call = Callable[..., Any]


def callable_for(op: Op, sizes: Mapping[str, int], session: Session, *, check_only: bool = False) -> Call:
    """The function that does `op` on its operands, shapes taken at `sizes`.

    Args:
        check_only: only look whether there is one; `sizes` may then be empty.

    Raises:
        Unsupported: the engine's function for it is not known.
    """
    if op.target in _VIEWS:
        return _nothing if check_only else _VIEWS[op.target](op, sizes)
    if op.target in _ENGINE:
        return _ENGINE[op.target](op, session)
    if op.target == "fill":
        return _nothing if check_only else _fill(op, sizes)
    if "." in op.target and not op.target.startswith("aten."):
        raise Unsupported(f"no function is known for {op.target}")
    return _aten(op)


def _nothing(*_operands: Any) -> None:
    return None


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


def _reshape(op: Op, sizes: Mapping[str, int]) -> Call:
    shape = shape_of(op.results[0].type, sizes)
    return lambda x: x.reshape(shape)


def _slice(op: Op, sizes: Mapping[str, int]) -> Call:
    dim, start = _integer(op, "dim"), _integer(op, "start")
    length = shape_of(op.results[0].type, sizes)[dim]
    return lambda x: x.narrow(dim, start, length)


def _split(op: Op, sizes: Mapping[str, int]) -> Call:
    dim = _integer(op, "dim")
    parts = [shape_of(value.type, sizes)[dim] for value in op.results]
    return lambda x: x.split(parts, dim)


def _transpose(op: Op, _sizes: Mapping[str, int]) -> Call:
    order = _plain(op.attr("order"))
    return lambda x: x.permute(order)


def _expand(op: Op, sizes: Mapping[str, int]) -> Call:
    shape = shape_of(op.results[0].type, sizes)
    return lambda x: x.expand(shape)


def _fill(op: Op, sizes: Mapping[str, int]) -> Call:
    import torch

    type_ = op.results[0].type
    shape, dtype = shape_of(type_, sizes), dtype_of(type_.dtype)
    return lambda: torch.zeros(shape, dtype=dtype)


_VIEWS: Mapping[str, Callable[[Op, Mapping[str, int]], Call]] = {
    "reshape": _reshape,
    "slice": _slice,
    "split": _split,
    "transpose": _transpose,
    "expand": _expand,
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


def _argmax(op: Op, _session: Session) -> Call:
    """Greedy sampling over the last axis is the engine's own kernel; an explicit axis is ATen's."""
    import torch

    return _aten(op) if op.attr("dim") is not None else torch.ops._C.greedy_argmax


_ENGINE: Mapping[str, Callable[[Op, Session], Call]] = {
    "embedding": _embedding,
    "index_select": _index_select,
    "rms_norm": _rms_norm,
    "add_rms_norm": _add_rms_norm,
    "rotary_embedding": _rotary_embedding,
    "silu_and_mul": _silu_and_mul,
    "cast": _cast,
    "copy": _copy,
    "argmax": _argmax,
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
        arguments = _bind(function._schema.arguments, len(op.operands), attrs)  # pyright: ignore[reportPrivateUsage]
        if arguments is not None and len(function._schema.returns) == len(op.results):  # pyright: ignore[reportPrivateUsage]
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
