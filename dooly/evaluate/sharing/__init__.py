"""How much of one model's work other models have too: shares, what a model adds, and the heat map."""

from dooly.evaluate.sharing.heatmap import heat_map
from dooly.evaluate.sharing.matrix import Sharing

__all__ = ["Sharing", "heat_map"]
