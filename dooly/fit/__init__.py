"""Formulas that a person can read, fitted to measured latencies, with how far to trust them."""

from dooly.fit.formula import Formula, Held, Parameter, Range
from dooly.fit.observation import Observation, experts_reached
from dooly.fit.select import fit, fit_host
from dooly.fit.typical import typical_us

__all__ = ["Formula", "Held", "Observation", "Parameter", "Range", "experts_reached", "fit", "fit_host", "typical_us"]
