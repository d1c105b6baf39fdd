"""Witnesses: valid configurations in which every value differs from the model's own, and from every other.

Needs neither torch nor vLLM.  Whether the engine accepts a witness is only known when it is built.
"""

from __future__ import annotations

import math
import random
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from dooly.capture.config import FIELDS, STRETCH, TIED, config_values, stretch
from dooly.capture.layers import plan_layers, shorten
from dooly.capture.parallel import Parallel
from dooly.errors import CaptureError
from dooly.ir import Graph, evaluate, symbols_of

__all__ = ["Witness", "original", "witnesses"]


@dataclass(frozen=True)
class Witness:
    """Numbers at which a graph is compared with what the engine really does.

    Attributes:
        tokens, rows: the batch, T and L.
        values: of all configuration and request symbols.
        stated: whether it is the model's own configuration, where attributes that are no integers hold too.
    """

    config: Mapping[str, Any]
    parallel: Parallel
    tokens: int
    rows: int
    values: Mapping[str, int]
    stated: bool = False


def original(config: Mapping[str, Any], parallel: Parallel, graph: Graph) -> Witness:
    """The configuration itself, in plain numbers and with all its layers."""
    tokens, rows = 1021, 17
    return Witness(config, parallel, tokens, rows, {**graph.config_values, "T": tokens, "L": rows}, stated=True)


def witnesses(
    config: Mapping[str, Any], parallel: Parallel, kinds: tuple[Hashable, ...], thin: bool, graph: Graph, seed: int
) -> Iterator[Witness]:
    """Endless random witnesses for which what the model asserts (the facts of ``graph``) holds.

    Args:
        kinds: of the layers; a witness has so many of the first ones that all kinds occur as in the model.
        thin: whether capture may leave out layers in between.
    """
    rng = random.Random(seed)
    depths = _depths(kinds, thin)
    while True:
        draw = _Draw(graph, rng)
        layers = rng.choice(sorted(depths))
        changed = draw.config(config, layers)
        spread = replace(parallel, tp=draw.values.get("TP", 1))
        values = {**graph.config_values, **config_values(changed), **depths[layers], **spread.symbols}
        try:
            spread.check(changed, "witness")
        except CaptureError:
            continue
        if all(evaluate(fact.dividend, values) % evaluate(fact.divisor, values) == 0 for fact in graph.facts):
            rows = draw.fresh(1, 2, 40)
            tokens = draw.fresh(1, rows + 1, 4000)
            yield Witness(changed, spread, tokens, rows, {**values, "T": tokens, "L": rows})


def _depths(kinds: tuple[Hashable, ...], thin: bool) -> dict[int, Mapping[str, int]]:
    """Numbers of layers that the same expressions count, with the values of their symbols; else the model's own."""
    own = plan_layers(kinds, thin=thin)
    found: dict[int, Mapping[str, int]] = {}
    for depth in range(own.layers[-1] + 1, min(own.layers[-1] + 1 + _DEEPER, len(kinds))):
        plan = plan_layers(kinds[:depth], thin=thin)
        if plan.counts == own.counts:
            found[depth] = plan.values
    return found or {len(kinds): own.values}


_DEEPER = 12
"""Layers of a witness beyond those that capture needs."""

_HEAD_SIZES = (64, 80, 96, 112, 128, 160, 192, 256)
_SMALL = {"G": (5, 9), "Kg": (2, 4), "K": (2, 7), "Es": (1, 5), "Fp": (2, 60)}
_GROUPS = ("G", "Kg")


class _Draw:
    """Values for the symbols of a graph, all different, none as in the graph."""

    def __init__(self, graph: Graph, rng: random.Random) -> None:
        self.values: dict[str, int] = {}
        self._old, self._rng = graph.config_values, rng
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
        changed = shorten(config, range(layers))
        changed |= {
            field: self.values[letter]
            for field, letter in FIELDS.items()
            if letter in self.values and isinstance(config.get(field), int)
        }
        changed |= {
            field: int(evaluate(rule, {**symbols, **self.values})) for field, rule in TIED.items() if field in config
        }
        changed |= {
            field: min(token, self.values["V"] - 1) for field, token in config.items() if _is_token(field, token)
        }
        changed = _resized(changed, int(symbols.get("D", 0)), self.values.get("D", 0))
        if stretched := {field: self.values[STRETCH[field]] for field in stretch(config)}:
            changed["rope_scaling"] = {**changed["rope_scaling"], **stretched}
        return changed

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
        if "Nkv" in old:
            self.values["Nkv"] = kv_heads
        if "Nq" in old:
            self.values["Nq"] = self.fresh(math.lcm(kv_heads, ranks), 2 * ranks, 9 * math.lcm(kv_heads, ranks))

    def _value(self, name: str) -> int:
        old, ranks = self._old[name], self.values.get("TP", 1)
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
        step = 1 if name == "W" else math.gcd(old, 32)
        if name == "Nm":
            return 3 * self.values["H"] // self.values["D"]  # of a Mamba-2 mixer: whole heads make up the inner width
        if name == "Nv":
            return self.fresh(self.values["Nk"], 2 * self.values["Nk"], 5 * self.values["Nk"])
        if name == "H":
            step = math.lcm(step, self.values.get("Nq", 1), self.values["D"] if "Nm" in self._old else 1)
        elif name in self._split:
            step = math.lcm(step, ranks)
        return self.fresh(step, max(9, 2 * step), 60 * step)


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
