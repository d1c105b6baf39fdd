"""A captured graph at the numbers of a witness beside what ran there: every dimension, attribute and count."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import sympy

from dooly.ir import Attribute, Graph, Op, Owner, evaluate, format_expr
from dooly.ir.expr import Expr
from dooly.provenance.observed import Call, Observed, Tensor
from dooly.provenance.witness import Witness

__all__ = ["Comparison", "Counterexample", "Key"]

Key = tuple[Hashable, ...]
"""The subject of a claim: ``("dimension", operation, result, axis)``, ``("attribute", ...)`` or ``("count", ...)``."""


@dataclass(frozen=True)
class Counterexample:
    """A claim of the graph that a witness refutes.

    Attributes:
        path: module path; operation: its target; what: dimension, attribute or count; claim: the expression.
        predicted: its value at the witness; found: what the engine really has there.
        values: the witness.
    """

    path: str
    operation: str
    what: str
    claim: str
    predicted: str
    found: str
    values: Mapping[str, int]

    def __str__(self) -> str:
        at = ", ".join(f"{name} = {value}" for name, value in sorted(self.values.items()))
        return (
            f"{self.path or 'no module'}: {self.operation}: {self.what}: claimed {self.claim}, "
            f"predicted {self.predicted}, found {self.found}, at {at}"
        )


class Comparison:
    """Compares a captured graph with what ran at a witness.

    Attributes:
        counterexamples: why.
        refuted: claims that do not hold.
        calls: what ran, by the captured node that stands for it.
    """

    def __init__(self, graph: Graph, observed: Observed, witness: Witness) -> None:
        self.graph, self.observed, self.witness = graph, observed, witness
        self.counterexamples: list[Counterexample] = []
        self.calls: dict[int, Call] = {}
        self._held: set[Key] = set()
        self.refuted: set[Key] = set()
        self._known: dict[Expr, Any] = {}
        found = self._aligned()
        values = graph.values()
        made = {op.name: (i, op) for i, op in enumerate(graph.ops) if op.target == "insert"}
        for index, call in found.items():
            op = graph.ops[index]
            for name, tensor in zip(op.operands, call.reads):
                if name in made:
                    self._dimensions(*made[name], 0, tensor)
            self.calls |= dict.fromkeys(op.nodes, call)
            self._results(index, op, call)
            self._operands(op, [self.at(values[name].type.shape) for name in op.operands], call)
            self._arguments(index, op, call)
        self._counts(found)
        self._owners()

    @property
    def confirmed(self) -> set[Key]:
        """Claims that hold."""
        return self._held - self.refuted

    def at(self, claim: Attribute) -> Any:
        """A claim in numbers."""
        if isinstance(claim, tuple):
            return tuple(map(self.at, claim))
        if not isinstance(claim, Expr):
            return claim
        if claim not in self._known:
            self._known[claim] = evaluate(claim, self.witness.values)
        return self._known[claim]

    def check(self, key: Key, subject: Op | Owner, what: str, claim: Attribute, found: object) -> None:
        """Hold one claim against what was found."""
        predicted = self.at(claim)
        if type(predicted) is type(found) and predicted == found:
            self._held.add(key)
        else:
            text = format_expr(claim) if isinstance(claim, Expr) else str(claim)
            self.refute(key, subject, what, text, predicted, found)

    def refute(self, key: Key, subject: Op | Owner, what: str, claim: str, predicted: object, found: object) -> None:
        """Note a counterexample."""
        self.refuted.add(key)
        operation = subject.target if isinstance(subject, Op) else subject.kind
        values = self.witness.values
        self.counterexamples.append(
            Counterexample(subject.path, operation, what, claim, str(predicted), str(found), values)
        )

    def _aligned(self) -> dict[int, Call]:
        """The call behind each operation.  In one module both are in order; the first that differs is refuted."""
        ran: defaultdict[str, list[Call]] = defaultdict(list)
        for call in self.observed.calls:
            ran[_place(call.path, call.target)].append(call)
        claimed: defaultdict[str, list[int]] = defaultdict(list)
        for index, op in enumerate(self.graph.ops):
            if op.target not in _SYNTHETIC:
                claimed[_place(op.path, op.target)].append(index)
        found: dict[int, Call] = {}
        for place, indices in claimed.items():
            for index, call in zip(indices, [*ran[place], *[None] * len(indices)]):
                op = self.graph.ops[index]
                if call is None or not _is(op, call):
                    self.refute((index,), op, "operation", op.target, op.target, call.target if call else "nothing")
                    break
                found[index] = call
        return found

    def _results(self, index: int, op: Op, call: Call) -> None:
        """Leave out results that an operation writes beside what it returns, unless something reads them."""
        found = list(call.results)
        while len(found) > max(len(op.results), call.returned):
            claimed = [self.at(value.type.shape) for value in op.results[call.returned :]]
            unread = [i for i in range(call.returned, len(found)) if found[i].shape not in claimed]
            del found[unread[-1] if unread else -1]
        for position in range(len(op.results)):
            self._dimensions(index, op, position, found[position] if position < len(found) else None)

    def _dimensions(self, index: int, op: Op, position: int, tensor: Tensor | None) -> None:
        type_ = op.results[position].type
        if tensor is None or (tensor.dtype, len(tensor.shape)) != (type_.dtype, len(type_.shape)):
            self.refute((index,), op, f"result {position}", str(type_), self.at(type_.shape), tensor)
            return
        for axis, dim in enumerate(type_.shape):
            what = f"dimension {axis} of result {position}"
            self.check(("dimension", index, position, axis), op, what, dim, tensor.shape[axis])

    def _operands(self, op: Op, claimed: list[Any], call: Call) -> None:
        found = [tensor.shape for tensor in call.reads]
        if claimed != found:
            self.refute(("operands", op.name), op, "operands", ", ".join(op.operands), claimed, found)

    def _arguments(self, index: int, op: Op, call: Call) -> None:
        stated = dict(op.attrs)
        if "ranks" in stated:  # a collective says what its group is
            self.check(
                ("attribute", index, "ranks"), op, "attribute ranks", stated["ranks"], self._ranks(stated["group"])
            )
            stated = {name: value for name, value in stated.items() if name not in ("group", "ranks")}
        elif op.target == call.target:
            for name in call.arguments.keys() - stated.keys() - call.defaults:
                self.refute(
                    ("attribute", index, name), op, f"attribute {name}", "its default", None, call.arguments[name]
                )
        given = call.arguments
        if (op.target, call.target) == _WHOLE_SLICE:
            axis = self.at(stated.get("dim", sympy.S.Zero))
            given = {"dim": axis, "start": 0, "end": call.reads[0].shape[axis]}
        for name, claim in stated.items():
            self._attribute(("attribute", index, name), op, name, claim, given.get(name))

    def _attribute(self, key: Key, subject: Op | Owner, name: str, claim: Attribute, found: object) -> None:
        """Fractions, and kernels by name, are those of the model's own configuration; elsewhere they may differ."""
        if not isinstance(claim, float) and name not in _CHOSEN:
            self.check(key, subject, f"attribute {name}", claim, found)
        elif self.witness.stated and claim != found:
            self.refute(key, subject, f"attribute {name}", str(claim), claim, found)

    def _ranks(self, group: Attribute) -> int:
        return self.witness.parallel.group(str(group))[0]

    def _counts(self, found: Mapping[int, Call]) -> None:
        """Each kind of call, over all layers, as often as the operations that stand for it say."""
        claimed: defaultdict[Hashable, list[int]] = defaultdict(list)
        for index, call in found.items():
            claimed[_kind(call)].append(index)
        ran = Counter(_kind(call) for call in self.observed.calls)
        self._tally("operation", {kind: [(i, self.graph.ops[i]) for i in each] for kind, each in claimed.items()}, ran)
        for call in self.observed.calls:
            if _kind(call) not in claimed and call.target != "buffer" and ran.pop(_kind(call), 0):
                subject = Op(call.target, (), self.graph.ops[0].results, path=call.path)
                self.refute(("extra", call.path), subject, "operation", "nothing", "nothing", call.target)

    def _tally(self, what: str, claimed: Mapping[Hashable, list[tuple[int, Op]]], ran: Mapping[Hashable, int]) -> None:
        for kind, ops in claimed.items():
            predicted, total = sum(self.at(op.count) for _, op in ops), ran.get(kind, 0)
            for index, op in ops:
                key = ("count", what, index)
                if predicted == total:
                    self._held.add(key)
                else:
                    claim = " + ".join(format_expr(each.count) for _, each in ops)
                    self.refute(key, op, f"count of this {what}", claim, predicted, total)
                    break

    def _owners(self) -> None:
        """Compare what the modules of opaque operations say, layer by layer, and how many of them say it."""
        found = {owner.path: owner for owner in self.observed.owners}
        users = {op.attr("layer_name"): (index, op) for index, op in enumerate(self.graph.ops)}
        shapes = {call.arguments.get("layer_name"): call for call in self.observed.calls}
        claimed: defaultdict[Hashable, list[tuple[int, Op]]] = defaultdict(list)
        for owner in self.graph.owners:
            other = found.get(owner.path)
            if other is None:
                self.refute(("owner", owner.path), owner, "module", owner.path, owner.path, "nothing")
                continue
            said = {name: self.at(value) for name, value in other.attrs}
            said |= _implied(owner.kind, shapes.get(owner.path))
            for name, claim in owner.attrs:
                self._attribute(("owner", owner.path, name), owner, name, claim, said.get(name))
            claimed[_said(other)].append(users[owner.path])
        self._tally("owner", claimed, Counter(map(_said, self.observed.owners)))


_CHOSEN = frozenset(("backend", "prefill_backend"))
"""Kernels that the engine picks by sizes."""


def _place(path: str, target: str) -> str:
    """Parameters are found by name, operations by the module that runs them."""
    return f"weight {path}" if target in ("weight", "buffer") else path


def _is(op: Op, call: Call) -> bool:
    return op.target == call.target or (op.target, call.target) in (("weight", "buffer"), _WHOLE_SLICE)


_SYNTHETIC = frozenset(("input", "insert"))
"""Not operations that run: what a step is given, and memory after a part of it was written in place."""

_WHOLE_SLICE = ("aten.slice", "aten.alias")
"""A slice of a whole vocabulary, which needs no padding, as PyTorch writes it."""


def _implied(kind: str, call: Call | None) -> dict[str, int]:
    """Return what the tensors of an opaque operation say about its module, whatever the module says."""
    if call is None or kind != "attention":
        return {}
    (_, heads, size), (_, kv_heads, _) = (tensor.shape for tensor in call.reads[:2])
    return {"heads": heads, "head_size": size, "kv_heads": kv_heads}


def _any_layer(text: str) -> str:
    return re.sub(r"\.\d+(?=\.|$)", ".*", text)


def _kind(call: Call) -> Hashable:
    """Equal for the calls that layers of one kind have in common."""
    given = tuple((name, _anywhere(call.arguments[name])) for name in sorted(call.arguments))
    return call.target, _any_layer(call.path), call.reads, call.results, given


def _said(owner: Owner) -> Hashable:
    return owner.kind, _any_layer(owner.path), _anywhere(owner.attrs)


def _anywhere(value: Any) -> Any:
    """A value in which layers are not told apart."""
    if isinstance(value, tuple):
        return tuple(map(_anywhere, cast("tuple[Any, ...]", value)))
    return _any_layer(value) if isinstance(value, str) else value
