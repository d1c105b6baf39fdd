"""Witnesses: valid configurations in which every value differs from the model's own, and from every other.

Needs neither torch nor vLLM.  Whether the engine accepts a witness is only known when it is built.
"""

from __future__ import annotations

import copy
import functools
import math
import random
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from dooly.capture.config import FIELDS, TIED, config_values, fields_of
from dooly.capture.layers import plan_layers, shorten
from dooly.capture.parallel import Parallel
from dooly.capture.stages import Stage, distinct_stages
from dooly.errors import CaptureError
from dooly.ir import Graph, evaluate, symbols_of

__all__ = ["ModelWitness", "Witness", "module_witnesses", "original", "witnesses"]


@dataclass(frozen=True, kw_only=True)
class Witness:
    """Numbers at which a graph is compared with what really runs.

    Attributes:
        values: of all configuration and request symbols.
        parallel: how the model is spread over devices.
        stated: whether it is the model's own configuration, where attributes that are no integers hold too.
    """

    values: Mapping[str, int]
    parallel: Parallel = field(default_factory=Parallel)
    stated: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelWitness(Witness):
    """A witness that is a model's configuration; the batch has ``T`` tokens and ``L`` rows of logits.

    Attributes:
        stage: the pipeline stage that the graph is compared with.
    """

    config: Mapping[str, Any]
    stage: Stage


def original(config: Mapping[str, Any], parallel: Parallel, stage: Stage, graph: Graph) -> ModelWitness:
    """The configuration itself, in plain numbers and with all its layers."""
    values = {**graph.config_values, "T": 1021, "L": 17}
    return ModelWitness(config=config, parallel=parallel, values=values, stage=stage, stated=True)


def witnesses(
    config: Mapping[str, Any],
    kinds: tuple[Hashable, ...],
    parallel: Parallel,
    stage: Stage,
    graph: Graph,
    seed: int,
    fixed: frozenset[str] = frozenset(),
) -> Iterator[ModelWitness]:
    """Random witnesses for which what the model asserts (the facts of ``graph``) holds; ends where none is found.

    Args:
        config: as its class takes it; kinds: of all layers of the model.
        fixed: symbols that keep their value, where the engine runs no other.
        stage: of ``graph``; a witness has so many of the first layers that its kinds of layers occur as in the model.
    """
    rng = random.Random(seed)
    fixed |= {name for each in graph.fixed if each.value.is_Integer for name in symbols_of(each.size)}
    depths = _depths(kinds, stage)
    for _ in range(_DRAWS):
        draw = _Draw(graph, config, rng, fixed)
        layers, stages = rng.choice(sorted(depths))
        changed = draw.config(config, layers)
        spread = replace(parallel, tp=draw.values.get("TP", 1), dp=draw.values.get("DP", 1), pp=stages)
        counts, same = depths[layers, stages]
        values = {**graph.config_values, **config_values(changed), **counts, **spread.symbols}
        try:
            spread.check(changed, "witness")
        except CaptureError:
            continue
        if _holds(graph, values):
            rows = draw.fresh(1, 2, 40)
            tokens = draw.fresh(1, rows + 1, 4000)
            values |= {"T": tokens, "L": rows}
            yield ModelWitness(config=changed, parallel=spread, values=values, stage=same)


def module_witnesses(graph: Graph, seed: int) -> Iterator[Witness]:
    """The values of ``graph`` itself, then random ones for which its facts hold; ends where none is found."""
    rng = random.Random(seed)
    known = {**graph.config_values, **dict(zip(graph.request, (1021, 17, 211, 31)))}
    yield Witness(values=known, stated=True)
    for _ in range(_DRAWS):
        values: dict[str, int] = {}
        for name, value in known.items():
            step = 1 if name in graph.request else math.gcd(value, 32)
            values[name] = step * rng.choice([n for n in range(2, 60) if n * step not in (value, *values.values())])
        if _holds(graph, values):
            yield Witness(values=values)


def _holds(graph: Graph, values: Mapping[str, int]) -> bool:
    return all(evaluate(fact.dividend, values) % evaluate(fact.divisor, values) == 0 for fact in graph.facts)


_DRAWS = 20_000
"""Configurations that are drawn at most; nearly all of them break no rule."""


def _depths(kinds: tuple[Hashable, ...], stage: Stage) -> dict[tuple[int, int], tuple[Mapping[str, int], Stage]]:
    """Numbers of layers and of stages with a stage that the same expressions count; else the model's own.

    Returns the values of the symbols of those counts, and that stage.
    """
    plan_of = functools.cache(plan_layers)
    own = plan_of(stage.kinds)
    needed = own.layers[-1] + 1
    found: dict[tuple[int, int], tuple[Mapping[str, int], Stage]] = {}
    for stages in range(2, 6) if stage.of > 1 else (1,):
        for layers in range(needed, min(stages * (needed + _DEEPER), len(kinds))):
            for other in distinct_stages(kinds[:layers], stages) if layers >= stages else ():
                if other.layers != stage.layers or other.kinds[:needed] != stage.kinds[:needed]:
                    continue
                plan = plan_of(other.kinds)
                if (plan.layers, plan.counts) == (own.layers, own.counts):
                    found[layers, stages] = plan.values, other
    return found or {(len(kinds), stage.of): (own.values, stage)}


_DEEPER = 12
"""Layers of a witness's stage beyond those that capture needs."""

_HEAD_SIZES = (64, 80, 96, 112, 128, 160, 192, 256)
_SMALL = {"G": (5, 9), "Kg": (2, 4), "K": (2, 7), "Es": (1, 5), "Fp": (2, 60)}
_GROUPS = ("G", "Kg")
_FEW = 16
"""Below this, a number without a short name is taken for a number of things, which stays small."""


class _Draw:
    """Values for the symbols of a graph, all different, none as in the graph."""

    def __init__(self, graph: Graph, config: Mapping[str, Any], rng: random.Random, fixed: frozenset[str]) -> None:
        self.values: dict[str, int] = {}
        self._fixed = fixed
        self._one_kind_of_heads = "Nkv" not in graph.config_values and "Nq" in graph.config_values
        blocks = (config.get("quantization_config") or {}).get("weight_block_size")
        self._unit = math.lcm(*blocks) if blocks else 32  # sizes keep what they have in common with this
        self._old, self._rng = {**config_values(config), **graph.config_values}, rng
        self._named = graph.config_values.keys() | ({"Nkv"} if self._one_kind_of_heads else set())
        self._tied = "head_dim" in config and "D" not in self._named and {"H", "Nq"} <= self._named
        self._facts = {(str(fact.divisor), str(fact.dividend)) for fact in graph.facts}
        self._split = {name for fact in graph.facts if str(fact.divisor) == "TP" for name in symbols_of(fact.dividend)}
        self._heads()

    def fresh(self, step: int, low: int, high: int) -> int:
        """A multiple of ``step`` from ``low`` to about ``high`` that nothing else has or had."""
        while True:
            value = step * self._rng.randint(-(-low // step), max(-(-low // step) + 9, high // step))
            if value not in (*self.values.values(), *self._old.values()):
                return value

    def config(self, config: Mapping[str, Any], layers: int) -> dict[str, Any]:
        """The configuration with all symbols at new values."""
        symbols = config_values(config)
        for name in sorted(symbols, key=lambda name: (name not in _SMALL, name)):
            if name not in self.values and name != "Nl":
                self.values[name] = self._value(name)
        changed = copy.deepcopy(shorten(config, layers))
        for each in fields_of(config):
            if each.symbol in self.values and each.symbol in self._named:
                _put(changed, each.place, self.values[each.symbol])
        changed |= {
            name: int(evaluate(rule, {**symbols, **self.values})) for name, rule in TIED.items() if name in config
        }
        if self._tied:
            changed["head_dim"] = self.values["H"] // self.values["Nq"]
        changed |= {name: min(token, self.values["V"] - 1) for name, token in config.items() if _is_token(name, token)}
        return _resized(changed, int(symbols.get("D", 0)), changed.get("head_dim", 0))

    def _heads(self) -> None:
        """Ranks, KV heads and heads, which keep the order of ranks and KV heads: the engine branches on it."""
        old, rng = self._old, self._rng
        ranks = rng.choice([n for n in (2, 3, 4, 5, 6) if n != old.get("TP")]) if "TP" in old else 1
        kv_heads = ranks * rng.randint(2, 6) if "TP" in old else rng.randint(3, 11)
        if ("Nkv", "TP") in self._facts:
            kv_heads = ranks
            if ("TP", "Nkv") not in self._facts:
                kv_heads = rng.randint(2, 3)
                ranks = kv_heads * rng.randint(2, 3)
        if "TP" in old:
            self.values["TP"] = ranks
        if "DP" in old:
            self.values["DP"] = rng.choice([n for n in (2, 3, 4, 5) if n not in (old["DP"], ranks)])
        if "Nkv" in old:
            self.values["Nkv"] = kv_heads
        if "Nq" in old:
            self.values["Nq"] = self.fresh(math.lcm(kv_heads, ranks), 2 * ranks, 9 * math.lcm(kv_heads, ranks))
        if self._one_kind_of_heads:
            self.values["Nkv"] = self.values["Nq"]

    def _value(self, name: str) -> int:
        old, ranks = self._old[name], self.values.get("TP", 1)
        if name in self._fixed:
            return old
        if name == "D":
            return self._rng.choice([size for size in _HEAD_SIZES if size not in (old, *self.values.values())])
        if name in _GROUPS:
            return old if old == 1 else self.fresh(1, *_SMALL[name])  # one group is another branch of the engine
        if name == "E":
            step = math.lcm(math.gcd(old, 32), self.values.get("G", 1), ranks if "E" in self._split else 1)
            return self.fresh(step, 9 * step, 40 * step)
        if name in _SMALL:
            return self.fresh(1, *_SMALL[name])
        if name == "V":
            padded = 64 * ranks * self._rng.randint(5, 90)
            return padded - self._rng.randint(1, 63)
        if name == "Np":
            return self.fresh(1, old // 2 + 1, old)  # more than what a stretched rotary embedding was trained with
        step = 1 if name == "W" else math.gcd(old, self._unit)
        if name == "Nm":
            return 3 * self.values["H"] // self.values["D"]  # of a Mamba-2 mixer: whole heads make up the inner width
        if name == "Nv":
            return self.fresh(self.values["Nk"], 2 * self.values["Nk"], 5 * self.values["Nk"])
        if name == "H" and self._tied:
            return self.values["Nq"] * self._rng.choice(_HEAD_SIZES)
        if name == "H":
            step = math.lcm(step, self.values.get("Nq", 1), self.values["D"] if "Nm" in self._old else 1)
        elif name in self._split:
            step = math.lcm(step, ranks)
        if name not in FIELDS.values() and old < _FEW:
            return self.fresh(step, 2, _FEW)
        return self.fresh(step, max(9, 2 * step), 60 * step)


def _put(config: Any, place: tuple[str | int, ...], value: int) -> None:
    """Put a number where it stands, if that is in the first layers."""
    *before, last = place
    for part in before:
        config = config[part]
    if isinstance(config, dict) or (isinstance(last, int) and last < len(config)):
        config[last] = value


def _is_token(field: str, value: object) -> bool:
    return field.endswith("_token_id") and isinstance(value, int)


def _resized(config: dict[str, Any], old: int, new: int) -> dict[str, Any]:
    """Lists of the rotary embedding with an entry for each pair of features, as long as the new head size asks for."""
    scaling = cast("dict[str, Any] | None", config.get("rope_scaling"))
    if scaling is None or not old:
        return config
    resized = {
        key: [value[0]] * (len(value) * new // old) if isinstance(value, list) and value else value
        for key, value in scaling.items()
    }
    return {**config, "rope_scaling": resized}
