"""Graph-wide rules.  The pass runner checks them on the input and on the result of every pass."""

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import count, islice

from dooly.errors import VerifyError
from dooly.ir.expr import Expr, evaluate, format_expr, symbols_of
from dooly.ir.graph import Block, Graph, Op
from dooly.ir.operation import Operation
from dooly.ir.opset import Kind, kind_of
from dooly.ir.program import Program
from dooly.ir.types import TensorType, origin_of

__all__ = ["verify", "verify_graph"]

_MAX_SIZE = 2**63 - 1


def verify(program: Program) -> None:
    """Check every graph, that no two share a name, and that the operation table accounts for all work of each.

    A model that the table does not know yet (before ``lower``) has nothing to account for.

    Raises:
        VerifyError: naming the graph, the place and the rule.
    """
    names = [graph.name for graph in program.graphs]
    if len(set(names)) != len(names):
        raise VerifyError(f"two graphs have one name: {', '.join(sorted(names))}")
    for operation in program.operations:
        if operation.body is not None:
            _verify_body(f"body of @{operation.name}", operation.operands, operation.results, operation.body)
    for graph in program.graphs:
        verify_graph(graph)
        _verify_table(graph, program.for_model(graph.name))


def verify_graph(graph: Graph) -> None:
    """Check one graph.

    Raises:
        VerifyError: see the messages below; each rule has its own.
    """
    where = f"graph {graph.name!r}"
    config, request = frozenset(graph.config_values), frozenset(graph.request)
    if config & request:
        raise VerifyError(
            f"{where}: {', '.join(sorted(config & request))} is both a configuration and a request symbol"
        )
    for kind, names in (("configuration", [name for name, _ in graph.config]), ("request", graph.request)):
        if len(set(names)) != len(names):
            raise VerifyError(f"{where}: a {kind} symbol is declared twice: {', '.join(names)}")
    for name, value in graph.config:
        if not 1 <= value <= _MAX_SIZE:
            bound = "not positive" if value < 1 else f"larger than a size can be, {_MAX_SIZE}"
            raise VerifyError(f"{where}: configuration symbol {name} = {value} is {bound}")
    for fact in graph.facts:
        try:
            holds = evaluate(fact.dividend, graph.config_values) % evaluate(fact.divisor, graph.config_values) == 0
        except KeyError as error:
            raise VerifyError(f"{where}: fact uses undeclared symbol {error.args[0]}") from None
        except ZeroDivisionError:
            raise VerifyError(f"{where}: a fact divides by {format_expr(fact.divisor)}, which is zero") from None
        if not holds:
            raise VerifyError(f"{where}: {format_expr(fact.divisor)} does not divide {format_expr(fact.dividend)}")
    defined = _verify_ops(where, graph.ops, {})
    for name in graph.outputs:
        if name not in defined:
            raise VerifyError(f"{where}: returns %{name}, which nothing defines")
    for op, e in graph.expressions():
        _verify_expression(where, op, e, config, request, graph.config_values)
    for op, e in graph.attribute_expressions():
        _verify_declared(where, op, e, config | request)
    for op in graph.ops:
        _verify_facts(where, op, config, request, graph.config_values)
    _verify_partition(where, graph)


def _verify_ops(where: str, ops: Iterable[Op], defined: Mapping[str, TensorType]) -> dict[str, TensorType]:
    known = dict(defined)
    for op in ops:
        if op.operands and kind_of(op.target) is Kind.SOURCE:
            raise VerifyError(f"{where}: %{op.name} stands for {op.target} and reads %{op.operands[0]}; sources read nothing")
        for name in op.operands:
            if name not in known:
                raise VerifyError(f"{where}: %{op.name} reads %{name} before it is defined")
        for value in op.results:
            if value.name in known:
                raise VerifyError(f"{where}: %{value.name} is defined twice")
            known[value.name] = value.type
        if op.body is not None:
            given, made = (known[name] for name in op.operands), (value.type for value in op.results)
            _verify_body(f"{where}: body of %{op.name}", tuple(given), tuple(made), op.body)
    return known


def _verify_body(
    where: str, operands: tuple[TensorType, ...], results: tuple[TensorType, ...], body: Block
) -> None:
    if operands != tuple(value.type for value in body.args):
        raise VerifyError(f"{where}: argument types differ from the operands'")
    inner = _verify_ops(where, body.ops, {value.name: value.type for value in body.args})
    for name in body.outputs:
        if name not in inner:
            raise VerifyError(f"{where}: returns %{name}, which nothing defines")
    if tuple(inner[name] for name in body.outputs) != results:
        raise VerifyError(f"{where}: returned types differ from the results'")


def _verify_expression(
    where: str, op: Op, e: Expr, config: frozenset[str], request: frozenset[str], values: Mapping[str, int]
) -> None:
    _verify_declared(where, op, e, config | request)
    if not symbols_of(e) & request:
        try:
            number = evaluate(e, values)
        except ZeroDivisionError:
            raise VerifyError(f"{where}: {format_expr(e)} of %{op.name} divides by zero") from None
        if not isinstance(number, int) or not 0 <= number <= _MAX_SIZE:
            shown = str(number) if abs(number) <= _MAX_SIZE else f"more than {_MAX_SIZE}"
            raise VerifyError(f"{where}: {format_expr(e)} of %{op.name} is {shown}, not a size")


def _verify_declared(where: str, op: Op, e: Expr, declared: frozenset[str]) -> None:
    unknown = symbols_of(e) - declared
    if unknown:
        raise VerifyError(
            f"{where}: {format_expr(e)} of %{op.name} at {op.path or 'unknown module'} has an unknown origin: "
            f"{', '.join(sorted(unknown))} is declared neither as config nor as request"
        )


def _verify_facts(
    where: str, op: Op, config: frozenset[str], request: frozenset[str], values: Mapping[str, int]
) -> None:
    if symbols_of(op.count) & request:
        raise VerifyError(f"{where}: the count of %{op.name} depends on the request")
    if evaluate(op.count, values) < 1:
        raise VerifyError(f"{where}: the count of %{op.name} is {evaluate(op.count, values)}")
    for value in op.results:
        if value.origins is None:
            continue
        for dim, origin in zip(value.type.shape, value.origins, strict=True):
            expected = origin_of(dim, config, request)
            if origin is not expected:
                found = expected.value if expected else "unknown"
                raise VerifyError(f"{where}: {format_expr(dim)} of %{value.name} is {found}, not {origin.value}")


def _verify_partition(where: str, graph: Graph) -> None:
    claims = [(node, f"%{op.name}") for op in graph.ops for node in op.nodes]
    claims += [(node, f"free {entry.reason}") for entry in graph.free for node in entry.nodes]
    owner: dict[int, str] = {}
    for node, name in claims:
        if node in owner:
            raise VerifyError(f"{where}: captured node {node} is counted twice, in {owner[node]} and in {name}")
        owner[node] = name
    extra = sorted(node for node in owner if node >= graph.captured)
    if extra:
        raise VerifyError(f"{where}: nodes {', '.join(map(str, extra[:10]))} were never captured")
    if len(owner) < graph.captured:  # counted, not listed: the number captured is whatever the text says
        missing = islice((node for node in count() if node not in owner), min(10, graph.captured - len(owner)))
        raise VerifyError(f"{where}: captured nodes {', '.join(map(str, missing))} are in no operation and not free")

    for op in graph.ops:
        if op.body is not None and sorted(node for each in op.body.ops for node in each.nodes) != list(op.nodes):
            raise VerifyError(f"{where}: the body of %{op.name} stands for other captured nodes than %{op.name}")


def _verify_table(graph: Graph, operations: Iterable[Operation]) -> None:
    """Counts in the table, by module path and target, are those of the graph's work: nothing dropped or doubled."""
    listed: Counter[tuple[str, str]] = Counter()
    for operation in operations:
        for use in operation.uses:
            listed[use.path, operation.target] += use.count
    if not listed:
        return
    needed: Counter[tuple[str, str]] = Counter()
    for op in graph.work():
        needed[op.path, op.target] += int(evaluate(op.count, graph.config_values))
    for path, target in sorted(needed | listed):
        if needed[path, target] != listed[path, target]:
            raise VerifyError(
                f"graph {graph.name!r}: {target} at {path or 'unknown module'} runs {needed[path, target]} times, "
                f"the operation table counts {listed[path, target]}"
            )
