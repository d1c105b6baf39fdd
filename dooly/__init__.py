"""Compiler-style analysis of LLM inference, from a config.json to simulated serving latencies.

The packages, in the order of the flow: `capture`, `ir`, `passes`, `executor`, `database`, `fit`, `predict`, `simulate`.
Importing this package imports none of them.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
