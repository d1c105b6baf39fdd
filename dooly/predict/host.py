"""Time of the host around, between and behind the operations of a step."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from dooly import host
from dooly.errors import PredictError
from dooly.fit.formula import Formula
from dooly.host import HostPart, Phase
from dooly.predict.sizes import Number, Sizes

__all__ = ["HostModel", "knows_host", "needed_parts"]


def needed_parts(*, on_gpu: bool) -> tuple[str, ...]:
    """Parts of the host's time without which none of it is known."""
    device = "cuda" if on_gpu else "cpu"
    return tuple(part.name for part in host.PARTS if part.on in (None, device) and not part.optional)


@dataclass(frozen=True)
class HostModel:
    """Host work, measured once per host and engine.

    It depends on the model only through the number of its operations, and of its mixtures of experts.

    Attributes:
        formulas: by part; those of this kind of device that were measured.
        on_gpu: whether the host queues kernels, and does not wait for each operation.
    """

    formulas: Mapping[str, Formula]
    on_gpu: bool

    @classmethod
    def of(cls, formulas: Mapping[str, Formula]) -> "HostModel":
        """From formulas by signature.

        Raises:
            PredictError: a part is missing.
        """
        on_gpu = any(part.phase == "launch" and part.name in formulas for part in host.PARTS)
        for part in needed_parts(on_gpu=on_gpu):
            if part not in formulas:
                raise PredictError(
                    f"host: no formula of {part}; `dooly profile` measures the host, `dooly fit` fits what is there"
                )
        device = "cuda" if on_gpu else "cpu"
        parts = [part for part in host.PARTS if part.on in (None, device) and part.phase != "device"]
        known = {part.name: formulas[part.name] for part in parts if part.name in formulas}
        axes = {axis for part in parts if part.name in known for axis in known[part.name].symbols}
        return cls(
            {part.name: known[part.name] for part in parts if part.name in known and part.instead_of not in axes},
            on_gpu,
        )

    def tells(self, axis: str) -> bool:
        """Whether it is known what the host takes for each of an axis of `OPTIONAL_AXES`."""
        parts = [part for part in host.PARTS if part.name in self.formulas]
        return any(part.instead_of == axis or axis in self.formulas[part.name].symbols for part in parts)

    @property
    def source(self) -> str:
        """The host that was measured, where that is another machine's; else empty."""
        return next((each.source for each in self.formulas.values() if each.source), "")

    @cached_property
    def _by_phase(self) -> Mapping[Phase, list[tuple[HostPart, Formula]]]:
        found: dict[Phase, list[tuple[HostPart, Formula]]] = {}
        for part in host.PARTS:
            if part.name in self.formulas:
                found.setdefault(part.phase, []).append((part, self.formulas[part.name]))
        return found

    def us(self, phase: Phase, sizes: Sizes, counts: Mapping[str, int]) -> tuple[Number, Number]:
        """us of a phase of the step, and whether extrapolated.

        Args:
            counts: operations of the model by what a part counts; parts of none are left out.
        """
        total: Number = 0.0
        outside: Number = False
        for part, formula in self._by_phase.get(phase, ()):
            count = 1 if part.counted is None else counts[part.counted]
            holds = sizes.holds(part)
            if not count or not sizes.any(holds):
                continue
            each_us, beyond = sizes.latency(formula, {axis: sizes.at(axis, part, counts) for axis in part.axes})
            times = 1 if "N" in part.axes else count
            total = total + sizes.choose(holds, each_us * times, 0.0)
            outside = outside | (holds & beyond)
        return total, outside


def knows_host(formulas: Mapping[str, Formula]) -> bool:
    """Whether any part of the host's time is among formulas by signature; what a power limit does is the device's."""
    return any(part.name in formulas for part in host.PARTS if part.phase != "device")
