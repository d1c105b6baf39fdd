"""Plans for tests, and how they are carried out at once."""

from dooly.executor import Precision, Ranges, run_plan

RANGES = Ranges(max_tokens=64, max_requests=4, max_context=128)
_QUICK = Precision(sample_us=1.0, min_samples=3, max_samples=3, floor_s=0.0, cap_s=0.01)


def go(plan, database, **options):
    """Carry a plan out."""
    return run_plan(plan, database, **({"budget_s": 60.0, "precision": _QUICK} | options))
