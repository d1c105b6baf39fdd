"""canonicalize: one spelling for each piece of work, whatever platform or layer wrote it."""

import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import ClassVar

from dooly.ir import Free, Graph, Kind, Op, Program, Value, kind_of, well_formed
from dooly.passes.facts import CANONICAL, Fact
from dooly.passes.rotary import fold_rotary
from dooly.passes.rules import RULES, Context

__all__ = ["Canonicalize"]


@dataclass(frozen=True)
class Canonicalize:
    """Apply each of ``dooly.passes.rules`` until none fires, drop what nothing reads, name values after their module.

    Nodes of what is dropped become free, so the partition of captured nodes stays exact.
    Needs ``annotate-shapes`` and ``expand-opaque``.  Keeps shapes, taint, counts and module paths.  Idempotent.

    >>> from dooly.ir import parse_program
    >>> text = '''graph "g" { config H = 4, I = 8
    ...   request T
    ...   captured 2
    ...   %x = input() : f32[T, H]
    ...   %w = weight() : f32[I, H] at "m.weight"
    ...   %t = aten.t(%w) : f32[H, I] nodes 0 at "m"
    ...   %y = aten.mm(%x, %t) : f32[T, I] nodes 1 at "m"
    ...   return %y }'''
    >>> print(Canonicalize().run(parse_program(text)).graphs[0].ops[-1].target)
    linear
    """

    name: ClassVar[str] = "canonicalize"
    requires: ClassVar[tuple[Fact, ...]] = ()
    establishes: ClassVar[tuple[Fact, ...]] = (CANONICAL,)

    def run(self, program: Program, /) -> Program:
        return program.map_graphs(_graph)


def _graph(graph: Graph) -> Graph:
    rewritten = _drop_dead(_rewrite(graph))
    folded = fold_rotary(rewritten)
    return _rename(rewritten if folded is rewritten else _drop_dead(_rewrite(folded)))


def _rewrite(graph: Graph) -> Graph:
    uses = Counter(name for op in graph.ops for name in op.operands)
    uses.update(graph.outputs)
    defs: dict[str, Op] = {}
    alias: dict[str, str] = {}
    absorbed: set[str] = set()
    kept: list[Op] = []
    free: list[Free] = []
    context = Context(defs, uses)
    for original in graph.ops:
        op = replace(original, operands=tuple(alias.get(name, name) for name in original.operands))
        result = _apply(op, context)
        if isinstance(result, str):
            alias[op.name] = result
            uses[result] += uses[op.name] - 1
            free.append(Free("view", op.nodes))
            continue
        kept.append(result)
        defs |= {value.name: result for value in result.results}
        if len(result.nodes) > len(op.nodes):
            absorbed |= {
                name for name in op.operands if defs[name].nodes and set(defs[name].nodes) <= set(result.nodes)
            }
    outputs = tuple(alias.get(name, name) for name in graph.outputs)
    return replace(graph.with_ops([op for op in kept if op.name not in absorbed], free), outputs=outputs)


def _apply(op: Op, context: Context) -> Op | str:
    """Rules in turn until none fires.  Each makes the op strictly simpler, so this ends.

    Raises:
        VerifyError: the op lacks an operand, a result or an attribute that every op of its target has.
    """
    while True:
        for rule in RULES:
            with well_formed(op.target, op.place):
                result = rule(op, context)
                if isinstance(result, str) and len(op.results) > 1:
                    raise ValueError(f"it repeats its operand in {len(op.results)} results")
            if isinstance(result, str):
                return result
            if result is not None and result != op:
                op = result
                break
        else:
            return op


def _drop_dead(graph: Graph) -> Graph:
    live = set(graph.outputs)
    kept: list[Op] = []
    free: list[Free] = []
    for op in reversed(graph.ops):
        if kind_of(op.target) is Kind.SOURCE and op.target == "input":
            kept.append(op)
        elif any(value.name in live for value in op.results):
            kept.append(op)
            live.update(op.operands)
        elif op.nodes:
            reason = {Kind.VIEW: "view", Kind.SOURCE: "constant"}.get(kind_of(op.target), "dead")
            free.append(Free(reason, op.nodes))
    return graph.with_ops(reversed(kept), free)


def _rename(graph: Graph) -> Graph:
    """Names from the last words of the module path, numbered from the second on."""
    taken: Counter[str] = Counter()
    names: dict[str, str] = {}
    for op in graph.ops:
        for value in op.results:
            words = [word for word in op.path.split(".") if word and not word.isdigit()]
            base = "_".join(words[-2:] if op.target == "weight" else words[-1:]) or op.target
            base = re.sub(r"\W", "_", base)
            taken[base] += 1
            names[value.name] = base if taken[base] == 1 else f"{base}.{taken[base]}"

    def renamed(value: Value) -> Value:
        return replace(value, name=names[value.name])

    ops = tuple(
        replace(op, operands=tuple(names[n] for n in op.operands), results=tuple(map(renamed, op.results)))
        for op in graph.ops
    )
    return replace(graph, ops=ops, outputs=tuple(names[n] for n in graph.outputs))
