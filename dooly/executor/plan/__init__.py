"""Plans of measuring: the plan with its cost, the sweeps that choose points, and the fixed grid to compare with."""

from dooly.executor.plan.plan import Plan, Row, make_plan

__all__ = ["Plan", "Row", "make_plan"]
