"""Reads the text that ``dooly.ir.printer`` writes.  Nothing in it is evaluated."""

import re
from collections.abc import Callable
from math import nan
from pathlib import Path
from typing import TypeVar

import sympy

from dooly.files import read_text
from dooly.errors import DoolyError
from dooly.ir.expr import Expr
from dooly.ir.graph import Block, Divides, Fixed, Free, Graph, Op, Owner, Value
from dooly.ir.operation import Operation, Use
from dooly.ir.program import Program
from dooly.ir.scanner import Scanner
from dooly.ir.types import Attribute, Attributes, Origin, TensorType

__all__ = ["parse_program", "read_program"]

T = TypeVar("T")
_WORD = re.compile(r"[A-Za-z_][\w.]*")
_NAME = re.compile(r"[\w.]+")
_FLOAT = re.compile(r"-?(?:\d+\.\d*(?:e[+-]?\d+)?|\d+e[+-]?\d+|inf)")
_LITERALS: dict[str, Attribute] = {"none": None, "true": True, "false": False, "nan": nan}
"""The one nan of `math` equals itself inside of tuples, a new one does not."""
_MAX_DEPTH, _MAX_NODES = 20, 1_000_000


def parse_program(text: str) -> Program:
    """Read graphs and operations.

    Raises:
        ParseError: with line, column and a caret.
    """
    return _Parser(text).program()


def read_program(path: Path) -> Program:
    """Read a file of graphs and operations.

    Raises:
        DoolyError: not UTF-8 text, or not IR; names the file.
        OSError: the file cannot be opened.
    """
    try:
        return parse_program(read_text(path))
    except UnicodeDecodeError as error:
        raise DoolyError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except DoolyError as error:
        raise DoolyError(f"{path}: {error}") from None


class _Parser(Scanner):
    """Tokens to nodes."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.nodes_read = 0

    # --- types and attributes

    def type(self) -> TensorType:
        at = self.position
        dtype = self.need(_WORD, "an element type such as bf16")
        self.expect("[")
        shape = self.separated(lambda: self.expression(",]"), "]")
        return self.checked(lambda: TensorType(dtype, shape), at)

    def attributes(self) -> Attributes:
        if not self.take("{"):
            return ()
        return self.separated(self.named_attribute, "}")

    def named_attribute(self) -> tuple[str, Attribute]:
        name = self.need(_WORD, "an attribute name")
        self.expect("=")
        return name, self.attribute()

    def attribute(self) -> Attribute:
        if self.text.startswith('"', self.position):
            return self.string()
        if self.take("["):
            self.depth += 1
            if self.depth > _MAX_DEPTH:
                self.fail("lists nested too deeply")
            items = self.separated(self.attribute, "]")
            self.depth -= 1
            return items
        for word, value in _LITERALS.items():
            if self.take(word):
                return value
        start = self.position
        number = self.match(_FLOAT)
        if number is not None and self.text[self.position : self.position + 1] in (",", "}", "]"):
            return float(number)
        self.position = start
        return self.expression(",}]")

    def origins(self) -> tuple[Origin, ...] | None:
        if self.take("none"):
            return None
        self.expect("[")
        return self.separated(self.origin, "]")

    def origin(self) -> Origin:
        at = self.position
        word = self.need(_WORD, "an origin")
        try:
            return Origin(word)
        except ValueError:
            self.fail(f"unknown origin {word!r}, expected one of {', '.join(o.value for o in Origin)}", at)

    def nodes(self) -> tuple[int, ...]:
        return tuple(node for run in self.listed(self.node_run) for node in run)

    def node_run(self) -> range:
        at = self.position
        first = int(self.need(re.compile(r"\d{1,7}"), "a node index"))
        last = int(self.need(re.compile(r"\d{1,7}"), "a node index")) if self.take("-") else first
        if last < first:
            self.fail(f"bad run of nodes {first}-{last}", at)
        self.nodes_read += last - first + 1
        if self.nodes_read > _MAX_NODES:
            self.fail(f"more than {_MAX_NODES} captured nodes", at)
        return range(first, last + 1)

    # --- operations of a graph

    def op(self) -> Op:
        at = self.position
        names = self.listed(self.value_name)
        self.expect("=")
        target = self.need(_WORD, "a target")
        self.expect("(")
        operands = self.separated(self.value_name, ")")
        attrs = self.attributes()
        self.expect(":")
        types = self.listed(self.type)
        if len(types) != len(names):
            self.fail(f"{len(names)} results but {len(types)} types", at)
        origins = self.listed(self.origins) if self.take("from") else (None,) * len(names)
        if len(origins) != len(names):
            self.fail(f"{len(names)} results but {len(origins)} lists of origins", at)
        count = self.count() if self.take("x") else sympy.Integer(1)
        nodes = self.nodes() if self.take("nodes") else ()
        path = self.string() if self.take("at") else ""
        source = self.string() if self.take("source") else ""
        body = self.body() if self.take("=") else None
        return self.checked(
            lambda: Op(
                target, operands, tuple(map(Value, names, types, origins)), attrs, count, path, source, nodes, body
            ),
            at,
        )

    def count(self) -> Expr:
        if not self.take("("):
            return self.expression(" \t:,{}")
        result = self.expression(")")
        self.expect(")")
        return result

    def body(self) -> Block:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            self.fail("regions nested too deeply")
        self.expect("{")
        block = self.block()
        self.expect("}")
        self.depth -= 1
        return block

    def block(self) -> Block:
        self.expect("args")
        args = self.listed(self.argument) if self.text.startswith("%", self.position) and self.is_argument() else ()
        ops: list[Op] = []
        while not self.take("return"):
            ops.append(self.op())
        return Block(args, tuple(ops), self.outputs())

    def is_argument(self) -> bool:
        """Whether the next value is followed by its type rather than by a definition."""
        return re.compile(r"%[\w.]+\s*:").match(self.text, self.position) is not None

    def argument(self) -> Value:
        name = self.value_name()
        self.expect(":")
        return Value(name, self.type())

    def outputs(self) -> tuple[str, ...]:
        return self.listed(self.value_name) if self.text.startswith("%", self.position) else ()

    # --- top level

    def graph(self) -> Graph:
        at = self.position
        name = self.string()
        self.expect("{")
        config = self.optional("config", self.config_value)
        request = self.optional("request", lambda: self.need(_WORD, "a request symbol"))
        facts = self.optional("where", self.fact)
        settings = self.optional("settings", self.setting)
        fixed: list[Fixed] = []
        while self.take("fixed"):
            fixed.append(self.fixed())
        owners: list[Owner] = []
        while self.take("owner"):
            owners.append(self.owner())
        captured = self.integer() if self.take("captured") else 0
        ops: list[Op] = []
        while not self.take("return"):
            ops.append(self.op())
        outputs = self.outputs()
        free: list[Free] = []
        while self.take("free"):
            free.append(Free(self.string(), self.nodes()))
        self.expect("}")
        return self.checked(
            lambda: Graph(
                name,
                config,
                request,
                tuple(ops),
                outputs,
                facts,
                settings,
                tuple(owners),
                captured,
                tuple(free),
                tuple(fixed),
            ),
            at,
        )

    def optional(self, keyword: str, item: Callable[[], T]) -> tuple[T, ...]:
        """A header line, whose list may be empty."""
        at = self.position
        if not self.take(keyword):
            return ()
        return () if "\n" in self.text[at : self.position] else self.listed(item)

    def config_value(self) -> tuple[str, int]:
        name = self.need(_WORD, "a configuration symbol")
        self.expect("=")
        return name, self.integer()

    def setting(self) -> tuple[str, str]:
        name = self.need(_WORD, "a setting")
        self.expect("=")
        return name, self.string()

    def fact(self) -> Divides:
        divisor = self.expression("|")
        self.expect("|")
        return Divides(divisor, self.expression(",\n"))

    def fixed(self) -> Fixed:
        path = self.string()
        size = self.expression("=")
        self.expect("=")
        return Fixed(path, size, self.expression("\n"))

    def owner(self) -> Owner:
        path = self.string()
        self.expect("=")
        kind = self.need(_WORD, "the kind of an owner")
        return Owner(path, kind, self.attributes())

    def operation(self) -> Operation:
        self.expect("@")
        at = self.position
        name = self.need(_NAME, "an operation name")
        self.expect("=")
        target = self.need(_WORD, "a target")
        self.expect("(")
        operands = self.separated(self.type, ")")
        attrs = self.attributes()
        self.expect("->")
        results = self.listed(self.type)
        status = next((word for word in ("covered", "uncovered", "unsupported") if self.take(word)), "")
        body: Block | None = None
        uses: list[Use] = []
        if self.take("{"):
            if self.text.startswith("args", self.position):
                body = self.block()
            while not self.take("}"):
                uses.append(self.use())
        operation = self.checked(lambda: Operation(target, operands, results, attrs, body, tuple(uses), status), at)
        if operation.name != name:
            self.fail(f"the name does not match the work described: expected @{operation.name}", at)
        return operation

    def use(self) -> Use:
        at = self.position
        self.expect("use")
        model = self.string()
        self.expect("x")
        count = self.integer()
        bind = self.listed(self.binding) if self.take("with") else ()
        self.expect("at")
        path = self.string()
        return self.checked(lambda: Use(model, path, count, bind), at)

    def binding(self) -> tuple[str, str]:
        axis = self.need(_WORD, "an axis")
        self.expect("=")
        return axis, self.need(_WORD, "a request symbol")

    def program(self) -> Program:
        graphs: list[Graph] = []
        operations: list[Operation] = []
        while self.position < len(self.text) or not (graphs or operations):
            if self.take("graph"):
                graphs.append(self.graph())
            elif self.take("operation"):
                operations.append(self.operation())
            else:
                self.fail(f"expected 'graph' or 'operation', {self.found()}")
        return Program(tuple(graphs), tuple(operations))
