"""Mixture of experts, through the engine's fused layer: routing and experts, hidden states and router logits given."""

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from dooly.database import Point
from dooly.executor.runners.packed_linear import fill_packed, quantization, weight_bytes
from dooly.executor.session import Session, Unsupported
from dooly.executor.tensors import copies_for, dtype_of, need_memory, shape_of
from dooly.executor.trial import Trial
from dooly.ir import Operation
from dooly.ir.expr import Expr

__all__ = ["MoeRunner", "activated_bounds", "fullest_bounds", "routing"]


_MOST_TURNS = 32


def activated_bounds(tokens: int, experts: int, top_k: int) -> tuple[int, int]:
    """Fewest and most experts that `tokens` tokens can activate."""
    return top_k, min(experts, tokens * top_k)


def fullest_bounds(tokens: int, top_k: int, activated: int) -> tuple[int, int]:
    """Fewest and most tokens that the fullest of `activated` experts can get."""
    return -(-tokens * top_k // activated), min(tokens, tokens * top_k - (activated - 1))


def routing(
    tokens: int, experts: int, top_k: int, activated: int, shift: int = 0, fullest: int | None = None
) -> npt.NDArray[np.int64]:
    """Experts of each token, [tokens, top_k]: exactly `activated` are hit, all equally likely.

    As with a router that has no favourites some get more tokens than others, and so fill another tile of the kernel.

    Args:
        shift: which experts: `shift`, `shift + 1`, ... modulo `experts`; 0 or more, also the seed.
        fullest: tokens that the first of them gets; the others share the rest equally.

    Raises:
        ValueError: no routing hits exactly so many, or so often.
    """
    low, high = activated_bounds(tokens, experts, top_k)
    if not low <= activated <= high:
        raise ValueError(f"{tokens} tokens of top {top_k} activate {low} to {high} experts, not {activated}")
    if fullest is None:
        return (_any_of(activated, tokens, top_k, np.random.default_rng(shift)) + shift) % experts
    low, high = fullest_bounds(tokens, top_k, activated)
    if not low <= fullest <= high or (activated == top_k and fullest < tokens):
        raise ValueError(f"the fullest of {activated} experts gets {low} to {high} of {tokens} tokens, not {fullest}")
    others = itertools.cycle(range(1, activated))
    chosen: list[list[int]] = []
    for token in range(tokens):
        first = [0] if token < fullest else []
        chosen.append(first + list(itertools.islice(others, top_k - len(first))))
    return (np.array(chosen, dtype=np.int64) + shift) % experts


def _any_of(activated: int, tokens: int, top_k: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Choose any `top_k` of so many experts for each token, [tokens, top_k]; the first tokens take each expert once."""
    liking = random.random((tokens, activated))
    every = np.arange(activated)
    liking[every // top_k, every] += 1.0
    return np.argsort(-liking, axis=1)[:, :top_k]


class MoeRunner:
    """``moe(x[T, H], router_logits[T, E])`` with `A` activated experts, on several layers in turn.

    Where a point has `M`, the fullest expert gets so many tokens and the others share the rest; else all are equally
    likely.

    Raises:
        Unsupported: attributes that the engine's layer needs are missing, or it has no kernel for them.
        MemoryError: the layers would not fit.
    """

    def __init__(self, operation: Operation, session: Session) -> None:
        self._operation, self._session = operation, session
        self._experts, self._top_k, self._intermediate = (
            _integer(operation, name) for name in ("experts", "top_k", "intermediate")
        )
        self._dtype = operation.operands[0].dtype
        (_, self._hidden) = shape_of(operation.operands[0], {"T": 1})
        # A decode step activates few experts; only their weights are read, but all of them must exist.
        layer_bytes = weight_bytes(operation)
        copies = min(copies_for(self._top_k * layer_bytes // self._experts, session.machine), 8)
        while copies > 1 and (copies + 1) * layer_bytes > session.machine.memory_bytes // 4:
            copies -= 1
        need_memory((copies + 1) * layer_bytes, session.machine)
        self.weight_bytes = copies * layer_bytes
        self._layers = [self._layer(seed) for seed in range(copies)]

    def _layer(self, seed: int) -> Any:
        activation, renormalize = self._operation.attr("activation"), self._operation.attr("renormalize")
        scoring, config = self._operation.attr("scoring"), quantization(self._operation)
        try:
            with self._session.building(self._dtype):
                layer = _factory()(
                    num_experts=self._experts,
                    top_k=self._top_k,
                    hidden_size=self._hidden,
                    intermediate_size=self._intermediate,
                    params_dtype=dtype_of(self._dtype),
                    renormalize=renormalize is not False,
                    activation=activation if isinstance(activation, str) else "silu",
                    scoring_func=scoring if isinstance(scoring, str) else "softmax",
                    has_bias=self._operation.attr("bias") is True,
                    quant_config=config,
                    prefix=self._session.layer_name(),
                )
                if config is not None:
                    fill_packed(layer, self._session, seed)
                for index, parameter in enumerate(layer.parameters() if config is None else ()):
                    values = self._session.random(tuple(parameter.shape), self._dtype, 2 * seed + index)
                    parameter.data.copy_(values).div_(math.sqrt(parameter.shape[-1]))
                experts = layer.routed_experts
                experts.quant_method.process_weights_after_loading(experts)
        except NotImplementedError as error:
            raise Unsupported(f"the engine has no MoE kernel for this: {error}") from error
        return layer

    def trial(self, point: Point) -> Trial:
        """One call with T tokens that activate A experts; each layer in turn gets other experts."""
        sizes = point.axes
        activated = sizes["A"]
        hidden = self._session.random((sizes["T"], self._hidden), self._dtype)
        turns: list[tuple[Any, Any]] = []
        for index in range(max(len(self._layers), min(_MOST_TURNS, math.ceil(self._experts / activated)))):
            routed = routing(sizes["T"], self._experts, self._top_k, activated, index * activated, sizes.get("M"))
            turns.append((self._layers[index % len(self._layers)], self.logits(routed)))
        rotation = itertools.cycle(turns)

        def call() -> Any:
            layer, logits = next(rotation)
            return layer(hidden, logits)

        return Trial(call, inputs=(hidden, turns[0][1]), turns=len(turns), fresh=(hidden,))

    def logits(self, routed: npt.NDArray[np.int64]) -> Any:
        """Router logits [T, E] whose top k are the wanted experts, with distinct weights."""
        import torch

        logits_type = self._operation.operands[1].dtype
        device = self._session.device
        logits = self._session.random((len(routed), self._experts), "f32").clamp_(-4.0, 4.0)
        wanted = torch.from_numpy(routed).to(device)
        offsets = 10.0 + 0.5 * torch.arange(self._top_k, dtype=torch.float32, device=device).expand(len(routed), -1)
        return logits.scatter_(1, wanted, offsets).to(dtype_of(logits_type))


def _factory() -> Any:
    """Return what builds the engine's fused layer; it was renamed in vLLM 0.32."""
    from vllm.model_executor.layers.fused_moe import layer

    module: Any = layer
    return module.FusedMoEFactory if hasattr(module, "FusedMoEFactory") else module.FusedMoE


def _integer(operation: Operation, name: str) -> int:
    value = operation.attr(name)
    if not isinstance(value, Expr):
        raise Unsupported(f"a mixture of experts without the attribute {name}")
    return int(value)
