"""One operation that stands for all of equal cost: numbers that are only passed on, rows of tables, rows of products.

What may differ between two operations of equal cost, and why it cannot change the cost:

- A number that a kernel is merely passed (``Spec.passed``: the eps of a norm, a scale, a cap, a fill value): the same
  instructions run on it.  Whether it is there at all stays, and so does every other attribute.
- How many rows a table has from which one row per index is read (a vocabulary, the positions of a rotary cache): the
  rows read are as many as there are indices.  Only where an argument holds the indices; where the region computes them
  from the bounds of the table (a vocabulary over several ranks), rows and bounds belong together and stay.
- How the rows of a product are nested: a GEMM over ``[R, T, H]`` is one over ``[R*T, H]``.
"""

from math import prod

import sympy

from dooly.ir import Attribute, Attributes, Block, TensorType, spec_of
from dooly.ir.expr import Expr
from dooly.ir.opset import TABLE_ROWS

__all__ = ["flat_rows", "standard_numbers", "table_arguments", "with_table_rows"]


def standard_numbers(target: str, attrs: Attributes) -> Attributes:
    """Attributes with one number for all that are merely passed.

    >>> from dooly.ir import attributes
    >>> standard_numbers("attention", attributes(heads=8, scale=0.125, soft_cap=30.0))
    (('heads', 8), ('soft_cap', 50.0))
    """
    passed = spec_of(target).passed
    kept = ((name, value) for name, value in attrs if name not in passed or passed[name] is not None)
    return tuple((name, passed[name] if _stands_for(passed.get(name), value) else value) for name, value in kept)


def _stands_for(standard: Attribute, value: Attribute) -> bool:
    if isinstance(standard, float):
        return isinstance(value, float)
    return isinstance(standard, sympy.Integer) and isinstance(value, sympy.Integer)


def table_arguments(block: Block) -> frozenset[str]:
    """Arguments of a region that are tables of fixed size, read by nothing but gathers whose indices are arguments."""
    given = {value.name for value in block.args}
    fixed = {value.name for value in block.args if value.type.shape and not value.type.shape[0].free_symbols}
    tables: set[str] = set()
    others = set(block.outputs)
    for op in block.ops:
        gathers = spec_of(op.target).gathers
        for slot, name in enumerate(op.operands):
            if slot in gathers and len(op.operands) > gathers[slot] and op.operands[gathers[slot]] in given:
                tables.add(name)
            else:
                others.add(name)
    return frozenset(tables & fixed - others)


def with_table_rows(type_: TensorType) -> TensorType:
    """The type with the standard number of rows."""
    return TensorType(type_.dtype, (TABLE_ROWS, *type_.shape[1:]))


def flat_rows(type_: TensorType) -> TensorType:
    """All axes but the last as one.

    >>> from dooly.ir import symbol
    >>> flat_rows(TensorType("bf16", (symbol("R"), symbol("T"), sympy.Integer(8)))).shape
    (R*T, 8)
    """
    rows: Expr = prod(type_.shape[:-1], start=sympy.Integer(1))
    return TensorType(type_.dtype, (rows, type_.shape[-1])) if len(type_.shape) > 2 else type_
