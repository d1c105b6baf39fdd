"""Formulas that a person can read, fitted to measured latencies, with how far to trust them."""

from dooly.fit.family import ENOUGH, Families, Family, family_key, fit_families
from dooly.fit.formula import Formula, Held, Parameter, Range
from dooly.fit.host import fit_host
from dooly.fit.observation import Observation, experts_reached
from dooly.fit.roofline import reached
from dooly.fit.select import fit

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
    "fit",
    "fit_families",
    "fit_host",
    "reached",
]
