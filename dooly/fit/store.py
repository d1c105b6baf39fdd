"""Formulas as JSON: expressions as text of the IR's grammar, numbers as numbers; nothing read is evaluated."""

import json
from collections.abc import Mapping
from math import inf, isfinite
from typing import Any

from dooly.errors import FitError
from dooly.fit.formula import Formula, Held, Parameter, Range
from dooly.fit.observation import Observation
from dooly.fit.residual import Curve, Field, Residual
from dooly.fit.terms import PARAMETERS, Contribution
from dooly.ir.expr import Expr, format_expr
from dooly.ir.expr_parser import ExprSyntaxError, parse_expr

__all__ = ["FORMAT", "from_json", "to_json"]

FORMAT = 6
"""Version of the form.  1: first.  2: curves over their axis.  3: time of planning.  4: what terms count for.
5: time of queueing.  6: planning of decodes and of prompts apart."""


def to_json(formula: Formula) -> dict[str, Any]:
    """A JSON value; `from_json` gives an equal formula back."""
    return {
        "format": FORMAT,
        "signature": formula.signature,
        "name": formula.name,
        "flops": format_expr(formula.flops),
        "bytes": format_expr(formula.bytes),
        "terms": [
            [
                {"parameter": c.parameter, "quantity": format_expr(c.quantity), "within": format_expr(c.within)}
                for c in term
            ]
            for term in formula.structure
        ],
        "parameters": [
            {
                "name": p.name,
                "value": p.value,
                "low": p.low,
                "high": p.high if isfinite(p.high) else None,
                "unit": p.unit,
            }
            for p in formula.parameters
        ],
        "residual": _residual_to_json(formula.residual),
        "domain": [{"quantity": format_expr(r.quantity), "low": r.low, "high": r.high} for r in formula.domain],
        "held_out": {
            "mape": formula.held.mape,
            "symbolic_mape": formula.held.symbolic_mape,
            "worst_point": formula.held.worst_point,
            "worst_error": formula.held.worst_error,
            "noise": formula.held.noise,
            "disturbed": formula.held.disturbed,
            "points": formula.held.points,
        },
        "plan_us": list(formula.plan_us),
        "queued_us": formula.queued_us,
        "lenders": formula.lenders,
        **({"source": formula.source} if formula.source else {}),
    }


def _residual_to_json(residual: Residual | None) -> dict[str, Any] | None:
    if isinstance(residual, Curve):
        return {
            "kind": "curve",
            "axis": residual.axis,
            "at": list(residual.at),
            "latency_us": list(residual.latency_us),
            "ends_us": list(residual.ends_us),
        }
    if isinstance(residual, Field):
        return {
            "kind": "field",
            "coordinates": [format_expr(e) for e in residual.coordinates],
            "anchors": [list(anchor) for anchor in residual.anchors],
            "weights": list(residual.weights),
            "length": residual.length,
        }
    return None


def from_json(content: Mapping[str, Any] | str) -> Formula:
    """Inverse of `to_json`, from the value or its text.

    Raises:
        FitError: not a formula, or one of a newer form.
    """
    try:
        value = json.loads(content) if isinstance(content, str) else content
        if value["format"] != FORMAT:
            raise FitError(f"formula: form {value['format']} of the file, this dooly reads {FORMAT}; fit again")
        return _formula(value)
    except FitError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, ExprSyntaxError, RecursionError, OverflowError) as error:
        raise FitError(f"formula: not readable ({type(error).__name__}: {error}); fit again") from error


def _formula(value: Mapping[str, Any]) -> Formula:
    held = value["held_out"]
    return Formula(
        signature=_text(value["signature"]),
        name=_text(value["name"]),
        flops=_expr(value["flops"]),
        bytes=_expr(value["bytes"]),
        structure=tuple(
            tuple(Contribution(_text(c["parameter"]), _expr(c["quantity"]), _expr(c["within"])) for c in term)
            for term in value["terms"]
        ),
        parameters=tuple(_parameter(p) for p in value["parameters"]),
        residual=_residual_from_json(value["residual"]),
        domain=tuple(Range(_expr(r["quantity"]), _number(r["low"]), _number(r["high"])) for r in value["domain"]),
        held=Held(
            _number(held["mape"]),
            _number(held["symbolic_mape"]),
            Observation.read(_text(held["worst_point"]), 1.0).point,
            _number(held["worst_error"]),
            _number(held["noise"]),
            int(_number(held["disturbed"])),
            int(_number(held["points"])),
        ),
        plan_us=_pair(value["plan_us"]),
        queued_us=_number(value["queued_us"]),
        lenders=int(_number(value["lenders"])),
        source=_text(value.get("source", "")),
    )


def _parameter(value: Mapping[str, Any]) -> Parameter:
    name = _text(value["name"])
    if name not in PARAMETERS:
        raise ValueError(f"unknown parameter {name!r}")
    high = inf if value["high"] is None else _number(value["high"])
    return Parameter(name, _number(value["value"]), _number(value["low"]), high, _text(value["unit"]))


def _residual_from_json(value: Mapping[str, Any] | None) -> Residual | None:
    if value is None:
        return None
    if value["kind"] == "curve":
        return Curve(
            _text(value["axis"]), _numbers(value["at"]), _numbers(value["latency_us"]), _pair(value["ends_us"])
        )
    if value["kind"] == "field":
        return Field(
            tuple(_expr(e) for e in value["coordinates"]),
            tuple(_numbers(anchor) for anchor in value["anchors"]),
            _numbers(value["weights"]),
            _number(value["length"]),
        )
    raise ValueError(f"unknown residual {value['kind']!r}")


def _expr(text: object) -> Expr:
    return parse_expr(_text(text))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, found {value!r}")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise TypeError(f"expected a finite number, found {value!r}")
    return float(value)


def _pair(values: list[object]) -> tuple[float, float]:
    first, second = _numbers(values)
    return first, second


def _numbers(values: list[object]) -> tuple[float, ...]:
    return tuple(_number(value) for value in values)
