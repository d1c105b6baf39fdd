"""Step times of one model on this machine or a stored one, in the form that can be kept."""

import logging
from dataclasses import replace

from dooly.database import PointSource
from dooly.engine.defaults import gpu_limits
from dooly.errors import PredictError
from dooly.hardware.environment import stored_machine
from dooly.hardware.machine import Machine, machine
from dooly.ir import Program
from dooly.predict import GraphPlan, SavedModel, knows_host, weight_bytes
from dooly.workspace.fitted import fit_once
from dooly.workspace.formulas import formulas_here
from dooly.workspace.limits import check_weights
from dooly.workspace.lowering import check_models, lower
from dooly.workspace.store import look_into

__all__ = ["machine_of", "saved_from", "saved_model", "untimed_model"]

_log = logging.getLogger(__name__)


def machine_of(
    database: PointSource, platform: str | None, block_size: int | None = None, cores: str | None = None
) -> Machine:
    """This machine, or the one of `platform` whose points are stored, which is then named.

    Args:
        block_size: tokens in one KV-cache block; by default the engine's own choice, or what was measured.
        cores: of a stored machine's host, where hosts of several sizes were measured.

    Raises:
        ProfileError: nothing of the platform is stored.
    """
    if platform is None:
        return machine(block_size=block_size)
    found = stored_machine(database, platform, cores)
    if source := found.fact("source"):
        _log.info(f"{found.device} as {source} measured it under {found.engine}: {found.fact('method')}")
    else:
        host = f", host of {found.fact('cores')} cores" if found.fact("cores") else ""
        _log.info(f"{found.device} as stored: {found.engine}, torch {found.torch}, driver {found.fact('driver')}{host}")
    return replace(found, block_size=block_size or found.block_size)


def saved_model(
    model: str,
    location: str,
    backend: str | None = None,
    block_size: int | None = None,
    tp: int = 1,
    platform: str | None = None,
    stage: tuple[int, int] = (0, 1),
) -> SavedModel:
    """Step times of one model, from the formulas in the database, in the form that can be kept.

    On this machine; or, with `platform`, on the stored one, where they are of the device only if host time was not
    measured there.  Without a database file what ships with dooly is known; points without a formula are fitted.

    Raises:
        PredictError: the weights do not fit; a formula is missing, and how to get it; or a file does not hold just one
            model.
    """
    check_models([model])
    with look_into(location) as database:
        here = machine_of(database, platform, block_size)
        program = lower([model], tp, backend, platform and here.platform, stage=stage, here=here.platform)
        for graph in program.graphs:
            check_weights(graph, here.device, here.memory_bytes)
        return saved_from(database, program, here, fit_missing=platform is not None)


def saved_from(database: PointSource, program: Program, here: Machine, *, fit_missing: bool) -> SavedModel:
    """Step times of the one model of a lowered program, as `saved_model`.

    Args:
        fit_missing: fit operations that have points but no formula, and do without the host's where there are none.

    Raises:
        PredictError: a formula is missing; says how to get it.  Or the program does not hold just one model.
    """
    names = sorted({use.model for operation in program.operations for use in operation.uses})
    if len(names) != 1:
        raise PredictError(f"a file with {len(names)} models, {', '.join(names)}; expected one")
    formulas = formulas_here(database, program.operations, here)
    if fit_missing:
        formulas |= fit_once(database, program.operations, here, formulas)
    host_known = not fit_missing or knows_host(formulas)
    captured = here.torch_device == "cuda" and here.mode == "graph"
    graphs = GraphPlan.of(*gpu_limits(here.device, here.memory_bytes)) if captured else None
    saved = SavedModel.of(
        program, names[0], formulas, here.device, here.memory_bytes, host_known=host_known, graphs=graphs
    )
    if saved.device_only:
        _log.info(f"note: host time of {here.device} is not measured: step times are device time only")
    return saved


def untimed_model(model: str, backend: str | None = None, tp: int = 1) -> SavedModel:
    """A model on this machine without step times: what its weights and its KV cache take of the memory of a rank.

    Raises:
        DoolyError: the model, or the GPU of this machine, is not usable.
    """
    here = machine()
    program = lower([model], tp, backend, here=here.platform)
    (graph,) = program.graphs
    memory, weights, settings = here.memory_bytes, weight_bytes(graph), dict(graph.settings)
    return SavedModel(
        graph.name, here.device, memory, weights, graph.config_values, settings, program.operations, formulas={}
    )
