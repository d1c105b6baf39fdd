"""One kind of published table: which columns tell the operation, and which the point."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import polars as pl
import sympy

from dooly.database import Environment, StoredOperation, Times
from dooly.ir import Operation, TensorType, attributes, format_operation, symbol

__all__ = ["Table", "operation", "tensor"]


@dataclass(frozen=True)
class Table:
    """A kind of table.

    Attributes:
        folder, file: where it lies among those of a system.
        shape: columns that tell the operation; `work` takes them by name.
        work: the operation, or None for rows that are none of dooly's.
        sizes: columns that tell the point.
        point: its text, from all columns.
        usual: values of columns that some files lack.
        kept: rows that are read.
    """

    folder: str
    file: str
    shape: tuple[str, ...]
    work: Callable[..., Operation | None]
    sizes: tuple[str, ...]
    point: pl.Expr
    usual: Mapping[str, int] = field(default_factory=dict[str, int])
    kept: Callable[[pl.DataFrame], pl.DataFrame] = lambda rows: rows

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that must be there."""
        return tuple(name for name in (*self.shape, *self.sizes, "latency") if name not in self.usual)

    def read(self, rows: pl.DataFrame, environment: Environment) -> Iterator[Times]:
        """Times of each operation, from times in ms; those of equal points by their median, none without a time."""
        missing = [pl.lit(value).alias(name) for name, value in self.usual.items() if name not in rows.columns]
        timed = self.kept(rows.with_columns(missing)).filter(pl.col("latency").is_finite() & (pl.col("latency") > 0))
        shapes = timed.select(self.shape).unique(maintain_order=True)
        works = ((row, self.work(**dict(zip(self.shape, row)))) for row in shapes.iter_rows())
        found = {row: _stored(work) for row, work in works if work is not None}
        named = [(*row, each.signature) for row, each in found.items()]
        signatures = pl.DataFrame(named, schema={**shapes.schema, "signature": pl.String}, orient="row")
        points = timed.join(signatures, on=list(self.shape), nulls_equal=True).select(
            "signature", self.point.alias("point"), us=1e3 * pl.col("latency")
        )
        typical = points.group_by("signature", "point", maintain_order=True).agg(pl.col("us").median().round(4))
        operations = {each.signature: each for each in found.values()}
        for signature, of in typical.group_by("signature", maintain_order=True):
            yield Times(operations[str(signature[0])], environment, of["point"].to_list(), of["us"].to_list())


def tensor(dtype: str, *shape: int | str) -> TensorType:
    """The type of a tensor; texts in its shape are request symbols."""
    return TensorType(dtype, tuple(symbol(each) if isinstance(each, str) else sympy.Integer(each) for each in shape))


def operation(target: str, *operands: TensorType, result: TensorType, **facts: object) -> Operation:
    """An operation with attributes, as captures give it."""
    return Operation(target, operands, (result,), attributes(**facts))


def _stored(work: Operation) -> StoredOperation:
    return StoredOperation(work.signature, work.target, format_operation(work, name=work.name))
