"""Formulas that a person can read, fitted to measured latencies, with how far to trust them."""

from dooly.fit.family import ENOUGH, Families, Family, family_key, fit_families
from dooly.fit.formula import Formula, Held, Parameter, Range
from dooly.fit.latency import typical_us
from dooly.fit.observation import Observation, experts_reached
from dooly.fit.roofline import reached
from dooly.fit.select import fewest_points, fit, fit_host

__all__ = [
    "ENOUGH",
    "Families",
    "Family",
    "Formula",
    "Held",
    "Observation",
    "Parameter",
    "Range",
    "experts_reached",
    "family_key",
    "fewest_points",
    "fit",
    "fit_families",
    "fit_host",
    "reached",
    "typical_us",
]
