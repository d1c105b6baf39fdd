"""An operation as its cost rule sees it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dooly.errors import VerifyError
from dooly.ir.expr import Expr
from dooly.ir.types import ITEM_BYTES, Attribute, TensorType

__all__ = ["Call", "Rule"]


@dataclass(frozen=True)
class Call:
    """Types and attributes of an operation."""

    operands: Sequence[TensorType]
    results: Sequence[TensorType]
    attrs: Mapping[str, Attribute]

    def integer(self, name: str) -> Expr:
        """An attribute that is an integer expression.

        Raises:
            VerifyError: it is missing or something else.
        """
        value = self.attrs.get(name)
        if not isinstance(value, Expr):
            raise VerifyError(f"attribute {name} must be an integer expression, found {value!r}")
        return value

    def item_bytes(self, name: str, default: str) -> int:
        """Bytes of an element whose type an attribute names.

        Raises:
            VerifyError: the attribute is no element type.
        """
        dtype = str(self.attrs.get(name) or default)
        if dtype not in ITEM_BYTES:
            raise VerifyError(f"attribute {name} must be one of {', '.join(ITEM_BYTES)}, found {dtype!r}")
        return ITEM_BYTES[dtype]


Rule = Callable[[Call], Expr]
