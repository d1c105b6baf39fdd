"""Parts of a step's time besides its operations, mostly the host's: one row a part.

Pseudo operations hold them, so that they are stored, claimed and fitted as everything else.  The executor has a recipe
that measures each, the fit takes its axes, the predictor adds it up in its phase.
"""

from dataclasses import dataclass
from typing import Literal

from dooly.batch import MODES, GraphMode

__all__ = [
    "AROUND",
    "OPTIONAL_AXES",
    "POWER_LIMIT",
    "HostPart",
    "Phase",
    "host_parts",
    "is_host_part",
    "launch_of",
    "part_of",
]

Phase = Literal["before", "launch", "dispatch", "lead", "between", "after", "device"]
"""Share of a step that a part belongs to.

``before`` the model is called; ``launch``, queueing its kernels on a GPU; ``dispatch``, on a CPU, where the host waits
for each operation; ``lead``, until an idle device starts, and ``between``, until one that is at the step before does;
``after`` the results are there; ``device``, what the power limit makes of the operations.
"""

Counted = Literal["operations", "others", "attention", "mixtures", "called_twice"]
"""Operations of a model that the host queues: all of them; all but mixtures of experts whose time is known by itself;
attention, around which the rest is graphs; those mixtures; attention that is called twice where requests decode beside
prompts."""

OPTIONAL_AXES: dict[str, Counted] = {"X": "mixtures", "Y": "called_twice"}
"""Axes that a point leaves out where it has none of them: mixtures of experts, and second calls of attention, which
count in steps only in which requests decode beside prompts."""


@dataclass(frozen=True)
class HostPart:
    """One part.

    Attributes:
        name: signature of its pseudo operation.
        phase: where it counts.
        axes: symbols of its formula: ``N`` operations, ``R`` requests, ``T`` tokens, ``Rp`` prompts among requests
            that decode, ``X`` and ``Y`` of `OPTIONAL_AXES`, ``U`` us of work.
        counted: operations of the model that ``N`` stands for, or that the time is multiplied by where ``N`` is no
            axis; None where the model does not matter.
        modes: CUDA graph modes of the steps that it is a part of.
        mixed: whether it is a part of steps only in which requests decode beside prompts.
        on: kind of device; None for both.
        optional: whether the host is known without it.
        difference: whether only two times together can be measured: what is to be taken away stands aside the samples.
        constant: whether it is one time whatever the step; its axes only tell its points apart.
        instead_of: axis of `OPTIONAL_AXES` that says the same from whole steps.  Such a part is no longer measured:
            databases of before 0.3 hold it as what was left when a formula was taken away.
    """

    name: str
    phase: Phase
    axes: tuple[str, ...]
    counted: Counted | None = None
    modes: tuple[GraphMode, ...] = MODES
    mixed: bool = False
    on: Literal["cpu", "cuda"] | None = "cuda"
    optional: bool = False
    difference: bool = False
    constant: bool = False
    instead_of: str | None = None


POWER_LIMIT = "power_limit"

AROUND = ("R", "T", "Rp")
"""Symbols of host work around a step: requests, new tokens, and requests with more than one new token."""

PARTS: tuple[HostPart, ...] = (
    HostPart("host_before", "before", AROUND, on=None),
    HostPart("host_after", "after", AROUND, on=None),
    HostPart("host_dispatch", "dispatch", ("N",), "operations", on="cpu", difference=True),
    HostPart("host_launch_full", "launch", ("N", "R"), "operations", ("FULL",)),
    HostPart("host_launch_piecewise", "launch", ("N", "R", "Y"), "attention", ("PIECEWISE",)),
    HostPart("host_launch_none", "launch", ("N", "R", "X", "Y"), "others", ("NONE",)),
    HostPart("host_lead", "lead", ("R",), modes=("FULL",), optional=True, difference=True, constant=True),
    HostPart("host_between", "between", ("R",), optional=True),
    HostPart("host_experts", "launch", ("N", "R"), "mixtures", ("NONE",), optional=True, instead_of="X"),
    HostPart(
        "host_flashinfer",
        "launch",
        ("R",),
        "called_twice",
        ("PIECEWISE", "NONE"),
        mixed=True,
        optional=True,
        instead_of="Y",
    ),
    HostPart(POWER_LIMIT, "device", ("U",), optional=True),
)


def host_parts() -> tuple[str, ...]:
    """Names of all parts, in the order of the table."""
    return tuple(part.name for part in PARTS)


def is_host_part(signature: str) -> bool:
    """Whether this is the signature of a part, and of no operation."""
    return part_of(signature) is not None


def part_of(signature: str) -> HostPart | None:
    """The row of a part; None for the signature of an operation."""
    return next((part for part in PARTS if part.name == signature), None)


def launch_of(mode: GraphMode) -> str:
    """Name of the part that holds queueing a step of this CUDA graph mode."""
    return next(part.name for part in PARTS if part.phase == "launch" and part.modes == (mode,) and not part.optional)
