"""vLLM's set-up and its private names: settings, platforms, the engine in this process or in its own, a step probe.

Importing this package imports neither torch nor vLLM.
"""

from dooly.engine.settings import EngineSettings

__all__ = ["EngineSettings"]
