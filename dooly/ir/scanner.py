"""Characters to tokens: words, numbers, strings, lists and expressions of a text, with errors that name the place."""

import json
import re
from collections.abc import Callable
from typing import NoReturn, TypeVar

from dooly.errors import ParseError
from dooly.ir.expr import Expr
from dooly.ir.expr_parser import ExprSyntaxError, parse_expr

__all__ = ["Scanner"]

T = TypeVar("T")
_SPACE = re.compile(r"(?:\s+|#[^\n]*)*")
_NAME = re.compile(r"[\w.]+")
_INTEGER = re.compile(r"-?\d{1,30}(?![\w.])")
_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"')


class Scanner:
    """A place in a text, and what can be taken from there; white space and remarks are skipped after each token."""

    def __init__(self, text: str) -> None:
        self.text, self.position = text, 0
        self.skip()

    def skip(self) -> None:
        """Pass over white space and remarks."""
        match = _SPACE.match(self.text, self.position)
        self.position = match.end() if match else self.position

    def fail(self, message: str, at: int | None = None) -> NoReturn:
        """Raise an error at a place, by default here."""
        at = min(self.position if at is None else at, len(self.text))
        line = self.text.count("\n", 0, at) + 1
        start = self.text.rfind("\n", 0, at) + 1
        end = self.text.find("\n", at)
        raise ParseError(message, line, at - start + 1, self.text[start : end if end >= 0 else None])

    def found(self) -> str:
        """Describe what stands here, for messages."""
        rest = self.text[self.position : self.position + 20].split("\n")[0]
        return f"found {rest!r}" if rest else "found the end of the text"

    def match(self, pattern: re.Pattern[str]) -> str | None:
        """Take what a pattern matches, if it does."""
        match = pattern.match(self.text, self.position)
        if match is None:
            return None
        self.position = match.end()
        self.skip()
        return match[0]

    def take(self, token: str) -> bool:
        """Take a token if it stands here; a word must end where the token ends."""
        if not self.text.startswith(token, self.position):
            return False
        end = self.position + len(token)
        if token[-1].isalnum() and re.match(r"[\w.]", self.text[end : end + 1]):
            return False
        self.position = end
        self.skip()
        return True

    def expect(self, token: str) -> None:
        """Take a token that must stand here."""
        if not self.take(token):
            self.fail(f"expected {token!r}, {self.found()}")

    def need(self, pattern: re.Pattern[str], what: str) -> str:
        """Take what a pattern must match here."""
        text = self.match(pattern)
        if text is None:
            self.fail(f"expected {what}, {self.found()}")
        return text

    def checked(self, build: Callable[[], T], at: int) -> T:
        """Nodes check themselves; say where the offending text is."""
        try:
            return build()
        except (ValueError, TypeError) as error:
            self.fail(str(error), at)

    def string(self) -> str:
        """A quoted string."""
        at = self.position
        quoted = self.need(_STRING, "a quoted string")
        return self.checked(lambda: str(json.loads(quoted)), at)

    def integer(self) -> int:
        """A whole number."""
        return int(self.need(_INTEGER, "an integer"))

    def value_name(self) -> str:
        """The name after a percent sign."""
        self.expect("%")
        return self.need(_NAME, "a value name")

    def separated(self, item: Callable[[], T], close: str) -> tuple[T, ...]:
        """Items up to a closing token, which is consumed."""
        items: list[T] = []
        if self.take(close):
            return ()
        while True:
            items.append(item())
            if self.take(close):
                return tuple(items)
            self.expect(",")

    def listed(self, item: Callable[[], T]) -> tuple[T, ...]:
        """One or more items between commas."""
        items = [item()]
        while self.take(","):
            items.append(item())
        return tuple(items)

    def expression(self, stops: str) -> Expr:
        """Text up to one of the stop characters outside parentheses."""
        start, depth = self.position, 0
        while self.position < len(self.text):
            c = self.text[self.position]
            if (depth == 0 and c in stops) or c in "#\n":
                break
            depth += (c == "(") - (c == ")")
            self.position += 1
        try:
            result = parse_expr(self.text[start : self.position])
        except ExprSyntaxError as error:
            self.fail(str(error), start + error.offset)
        self.skip()
        return result
