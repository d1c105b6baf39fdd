"""One pass over a block of small operations, and the same pass compiled as the engine compiles a model."""

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dooly.executor.runners.small_ops import callable_for
from dooly.executor.session import Session, Unsupported
from dooly.ir import Block, Op

__all__ = ["Pass", "compile_pass", "symbols_of"]


@dataclass(frozen=True)
class _Step:
    """One operation: what to call, where its operands stand, where its results go."""

    call: Callable[..., Any]
    operands: tuple[int, ...]
    results: tuple[int, ...]


class Pass:
    """The operations of a block, called one after the other on the arguments of the block.

    Args:
        native: the engine's code in plain torch instead of its custom kernels.

    Raises:
        Unsupported: an operation has no counterpart here.
    """

    def __init__(self, block: Block, session: Session, *, native: bool = False) -> None:
        self.block = block
        slots: dict[str, int] = {arg.name: index for index, arg in enumerate(block.args)}
        steps: list[_Step] = []
        for op in block.ops:
            operands = tuple(slots[name] for name in op.operands)
            for value in op.results:
                slots[value.name] = len(slots)
            results = tuple(slots[value.name] for value in op.results)
            steps.append(_Step(callable_for(op, session, native=native), operands, results))
        outputs = tuple(slots[name] for name in block.outputs)
        places, empty = _places(block), [None] * (len(slots) - len(block.args))

        def run(*inputs: Any) -> tuple[Any, ...]:
            sizes = {name: inputs[slot].shape[dim] for name, (slot, dim) in places.items()}
            values = [*inputs, *empty]
            for step in steps:
                made = step.call(sizes, *[values[slot] for slot in step.operands])
                if len(step.results) == 1:
                    values[step.results[0]] = made
                else:
                    for slot, value in zip(step.results, made, strict=True):
                        values[slot] = value
            return tuple([values[slot] for slot in outputs])

        self.run: Callable[..., tuple[Any, ...]] = run

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        return self.run(*inputs)


def _places(block: Block) -> Mapping[str, tuple[int, int]]:
    """Return where each request symbol can be read off: argument and dimension."""
    places: dict[str, tuple[int, int]] = {}
    for slot, arg in enumerate(block.args):
        for index, dim in enumerate(arg.type.shape):
            if dim.is_Symbol:
                places.setdefault(str(dim), (slot, index))
    lacking = {name for op in block.ops for name in symbols_of(op)} - places.keys()
    if lacking:
        raise Unsupported(f"no argument has the dimension {', '.join(sorted(lacking))} by itself")
    return places


def symbols_of(op: Op) -> set[str]:
    """Request symbols in the shapes of an operation's results."""
    return {str(symbol) for value in op.results for dim in value.type.shape for symbol in dim.free_symbols}


def compile_pass(part: Pass, example: tuple[Any, ...], session: Session) -> None:
    """Compile the pass in place, with the engine's options and, as the engine does, without guards.

    Args:
        example: arguments to trace with; dimensions that depend on the batch stay free.
    """
    import torch

    options: dict[str, Any] = dict(session.config("bf16").compilation_config.inductor_compile_config)
    options["guard_filter_fn"] = torch.compiler.skip_all_guards_unsafe
    for arg, tensor in zip(part.block.args, example, strict=True):
        for index, dim in enumerate(arg.type.shape):
            if dim.free_symbols:
                torch._dynamo.mark_dynamic(tensor, index)  # pyright: ignore[reportPrivateUsage]
    compiled: Callable[..., Any] = torch.compile(_apart(part.run), fullgraph=True, dynamic=False, options=options)
    compiled(*example)
    part.run = compiled


def _apart(function: Any) -> Any:
    """The function with a code object of its own: the compiler keeps there what it has compiled, and has no guards."""
    return types.FunctionType(
        function.__code__.replace(), function.__globals__, function.__name__, None, function.__closure__
    )
