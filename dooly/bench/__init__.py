"""`vllm bench serve` without a server: its loads and its result, on a simulated clock.

Importing this package imports neither torch nor vLLM.
"""

from dooly.bench.datasets import Dataset, RandomPrompts
from dooly.bench.load import Arrivals, RampUp
from dooly.bench.result import Asked, Bench, measure

__all__ = ["Arrivals", "Asked", "Bench", "Dataset", "RampUp", "RandomPrompts", "measure"]
