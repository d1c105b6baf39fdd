"""One measured latency with the batch that it belongs to."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING, Any

from dooly.batch import Batch
from dooly.database.latency import LESS
from dooly.errors import FitError, PredictError
from dooly.host import OPTIONAL_AXES

if TYPE_CHECKING:
    from dooly.database import Measurement

__all__ = ["Mixture", "Observation", "Routing", "experts_reached"]

Routing = Callable[[Any, int, int], Any]
"""(tokens, experts, chosen per token) to the number of experts that get a token; for a float or a numpy column."""


@dataclass(frozen=True)
class Observation:
    """A point and its latency.

    Attributes:
        sizes: (axis, value) of a stateless operation, sorted; empty for a stateful one.
        batch: requests of a stateful operation, else None.
        latency_us: time of one call (`Measurement.latency`), positive.
        spread: of its samples, as interquartile range over median; points that scatter count less.
        plan_us: what the host took to plan it, once for all layers; 0 where nothing is planned.
        queued_us: what the host took to queue one call; 0 where that is not known.
        less_us: what is to be taken from the latency, which is of two things together.

    Raises:
        FitError: the latency is not a positive number, or a size is not.
    """

    sizes: tuple[tuple[str, int], ...]
    batch: Batch | None
    latency_us: float
    spread: float = 0.0
    plan_us: float = 0.0
    queued_us: float = 0.0
    less_us: float = 0.0

    def __post_init__(self) -> None:
        if not (isfinite(self.latency_us) and self.latency_us > 0):
            raise FitError(
                f"point {self.point}: latency of {self.latency_us} us; expected a positive time, measure it again"
            )
        if not (isfinite(self.spread) and self.spread >= 0):
            raise FitError(
                f"point {self.point}: spread of {self.spread}; expected a fraction of the latency, 0 or more"
            )
        for name, value in self.sizes:
            if value < 1:
                raise FitError(f"point {self.point}: {name} = {value}; expected at least 1")

    @classmethod
    def read(cls, point: str, latency_us: float, spread: float = 0.0) -> "Observation":
        """From the database's point text: ``{"T": 64}`` or ``{"requests": [[new, cached, alike], ...]}``.

        Raises:
            FitError: the text is not a point.
        """
        try:
            content = json.loads(point)
            if "requests" in content:
                return cls((), Batch.from_point(content), latency_us, spread)
            sizes = tuple(sorted((str(name), int(value)) for name, value in content.items()))
            if dict(sizes) != content:
                raise ValueError("not whole numbers")
        except PredictError as error:
            raise FitError(str(error)) from error
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise FitError(
                f'point: expected {{"axis": number, ...}} or {{"requests": ...}}, found {point[:80]}'
            ) from error
        return cls(sizes, None, latency_us, spread)

    @classmethod
    def of(cls, measurement: "Measurement") -> "Observation":
        """From a measured point by its latency.

        Raises:
            FitError: its samples do not say one, or not a positive one.
        """
        try:
            latency = measurement.latency
        except ValueError as error:
            raise FitError(str(error)) from error
        aside = dict(measurement.samples.aside)
        less_us = aside.get(LESS, 0.0)
        found = cls.read(measurement.point.json, latency.us + less_us, latency.spread)
        return replace(
            found, plan_us=aside.get("metadata_us", 0.0), queued_us=aside.get("queued_us", 0.0), less_us=less_us
        )

    @property
    def point(self) -> str:
        """Canonical text of the point, as in the database."""
        value: Mapping[str, object] = self.batch.point() if self.batch else dict(self.sizes)
        return json.dumps(value, separators=(",", ":"))

    def values(self, symbols: Sequence[str], window: int | None, mixture: "Mixture | None") -> dict[str, float]:
        """Values of `symbols`.

        A point of R requests and T tokens that does not say how many of the requests are prompts, Rp, is one of a step
        that only decodes (T = R) or that has nothing but prompts.

        Args:
            symbols: names needed.
            window: of windowed attention.
            mixture: gives A under uniform routing where the point has none.

        Raises:
            FitError: the point does not say one of them.
        """
        known: dict[str, float] = dict(self.sizes)
        if self.batch is not None:
            known = {name: float(value) for name, value in self.batch.attention(window).items()}
        elif mixture is not None and "A" not in known and "T" in known:
            known["A"] = mixture.reached(known["T"])
        known = {**dict.fromkeys(OPTIONAL_AXES, 0.0), **known}
        if "Rp" in symbols and "Rp" not in known and {"R", "T"} <= known.keys():
            known["Rp"] = 0.0 if known["T"] == known["R"] else known["R"]
        missing = [name for name in symbols if name not in known]
        if missing:
            raise FitError(
                f"point {self.point}: does not give {', '.join(missing)}; expected values of {', '.join(symbols)}"
            )
        return {name: float(known[name]) for name in symbols}


def experts_reached(tokens: float, experts: int, chosen: int) -> float:
    """Expected number of experts that get at least one of `tokens` under uniform routing: E * (1 - (1 - K/E)**T)."""
    return experts * (1.0 - (1.0 - chosen / experts) ** tokens)


@dataclass(frozen=True)
class Mixture:
    """A mixture of experts, of which a rank may hold a part.

    Attributes:
        experts: of all ranks.
        chosen: per token.
        here: experts of this rank.
        sources: data-parallel ranks whose tokens come here.
    """

    experts: int
    chosen: int
    here: int
    sources: int = 1

    def reached(self, tokens: Any, routing: Routing = experts_reached) -> Any:
        """Experts of this rank that get a token where each source has `tokens`, a float or a numpy column.

        >>> Mixture(8, 2, here=4, sources=2).reached(1.0)
        1.75
        """
        return routing(self.sources * tokens, self.experts, self.chosen) * (self.here / self.experts)
