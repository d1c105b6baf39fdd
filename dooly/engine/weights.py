"""Weights of an engine that loads none: those that vLLM draws, with routers that spread tokens over the experts."""

import functools
import math
from typing import Any

__all__ = ["NAME", "register_loader"]

NAME = "dooly-random"
"""Name of the load format."""
_DRAWN = 1e-3 / math.sqrt(3.0)
"""Root mean square of the weights that vLLM draws, those of norms included."""


@functools.cache
def register_loader() -> str:
    """The load format of such weights, made known to the vLLM of this process."""
    from vllm.model_executor.model_loader import register_model_loader
    from vllm.model_executor.model_loader.dummy_loader import DummyModelLoader

    class RandomLoader(DummyModelLoader):
        def load_weights(self, model: Any, model_config: Any) -> None:
            super().load_weights(model, model_config)
            _spread_routing(model)

    register_model_loader(NAME)(RandomLoader)
    return NAME


def _spread_routing(model: Any) -> None:
    """Scale the routers of experts until their logits differ by something like one.

    As they are drawn, the scores of all experts may round to one number in 16 bits, and every token goes to the same
    few.  A trained router spreads tokens over all.
    """
    for module in model.modules():
        weight = getattr(getattr(module, "gate", None) or getattr(module, "router", None), "weight", None)
        if hasattr(module, "experts") and weight is not None:
            weight.data.mul_(1.0 / (_DRAWN**2 * math.sqrt(weight.shape[-1])))
