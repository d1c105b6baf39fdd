"""What commands have in common: models lowered to operations, and formulas of this machine or a stored one."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from dooly.batch import HOST_PARTS
from dooly.cli.lending import lent_host_parts, lent_products
from dooly.cli.output import say
from dooly.cli.serving import LIMITS
from dooly.cli.store import look_into, open_database
from dooly.database import Database, Environment, StoredOperation
from dooly.errors import CaptureError, FitError, PredictError
from dooly.executor import Machine, environment_for, host_environment, machine, stored_machine
from dooly.fit import Families, Formula, Observation
from dooly.fit.store import from_json
from dooly.ir import Graph, Kind, Operation, Program, read_program
from dooly.predict import GraphPlan, SavedModel, knows_host, weight_bytes

__all__ = [
    "fit_stored",
    "formulas_here",
    "lower",
    "model_path",
    "observed",
    "place_of",
    "saved_from",
    "saved_model",
    "untimed_model",
]


def lower(
    models: Sequence[str],
    tp: int = 1,
    backend: str | None = None,
    platform: str | None = None,
    *,
    eager: bool = False,
    stage: tuple[int, int] = (0, 1),
    here: str = "cpu",
) -> Program:
    """All passes over the models as the engine runs them: graphs and one table of operations.

    Args:
        models: bundled names, config.json files or their folders, which are captured; or .ir files with graphs or a
            table of operations, which are read.
        tp, backend, platform, eager: of models that are captured.
        stage: which pipeline stage, counted from 0, of how many, of models that are captured.
        here: platform of models that are captured, where none is asked for.

    Raises:
        CaptureError, ParseError, PassError: a model is not usable, or an .ir file was captured otherwise.
    """
    from dooly.capture import Options, Parallel, capture_stages, check_read
    from dooly.passes import PIPELINE, run

    rank, stages = stage
    parts: list[Program] = []
    for model in dict.fromkeys(models):
        if model.endswith(".ir"):
            parts.append(_read(model, platform, eager))
        else:
            say(f"capturing {model}")
            options = Options(Parallel(tp, pp=stages), platform or here, backend, eager=eager)
            parts.append(Program(tuple(graph for graph in capture_stages(model, options) if _holds(graph, rank))))
    program = Program.joined(parts)
    if all(model.endswith(".ir") for model in models):
        usual = {"tp": 1, "backend": None, "stage": "0/1"}
        asked = {"tp": tp, "backend": backend, "stage": f"{rank}/{stages}"}
        check_read(program.graphs, {name: value for name, value in asked.items() if value != usual[name]})
    return run(program, PIPELINE)


def _read(model: str, platform: str | None, eager: bool) -> Program:
    """What an .ir file holds, unless it says that it was captured for another platform, or not for an eager engine.

    Both also say where and how operations are timed, so a table of operations, which does not say, may have either.
    """
    program = read_program(Path(model))
    asked = {"platform": platform, "mode": "eager" if eager else None}
    for name, value in asked.items():
        for graph in program.graphs:
            if value is not None and (said := dict(graph.settings).get(name, value)) != value:
                raise CaptureError(f"{model}: captured with {name} {said}, not {value}; capture the model again")
    return program


def _holds(graph: Graph, stage: int) -> bool:
    """Whether a graph stands for this pipeline stage."""
    first, _, last = dict(graph.settings).get("stages", "0").partition("-")
    return int(first) <= stage <= int(last or first)


def model_path(model: str) -> Path:
    """Where the config.json of a model lies: a bundled name, a folder, or the file itself.

    Raises:
        CaptureError: nothing is there, or it is not the configuration of a supported model.
    """
    import dooly
    from dooly.capture import list_models, resolve_model

    resolve_model(model)
    if Path(model).exists() or model not in list_models():
        return Path(model)
    return Path(dooly.__path__[0]) / "models" / model


def place_of(
    database: Database, platform: str | None, block_size: int | None = None, cores: str | None = None
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
    host = f", host of {found.fact('cores')} cores" if found.fact("cores") else ""
    say(f"{found.device} as stored: {found.engine}, torch {found.torch}, driver {found.fact('driver')}{host}")
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
        PredictError: a formula is missing; says how to get it.  Or a file does not hold just one model.
    """
    with open_database(location) if platform is None else look_into(location) as database:
        here = place_of(database, platform, block_size)
        program = lower([model], tp, backend, platform, stage=stage, here=here.platform)
        return saved_from(database, program, here, fit_missing=platform is not None)


def saved_from(database: Database, program: Program, here: Machine, *, fit_missing: bool) -> SavedModel:
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
        formulas |= _fit_missing(database, program.operations, here, formulas)
    host_known = not fit_missing or knows_host(formulas)
    captured, usual = here.torch_device == "cuda" and here.mode == "graph", LIMITS["cuda"]
    graphs = GraphPlan.of(usual.sequences, usual.batched_tokens) if captured else None
    saved = SavedModel.of(
        program, names[0], formulas, here.device, here.memory_bytes, host_known=host_known, graphs=graphs
    )
    if saved.device_only:
        say(f"note: host time of {here.device} is not measured: step times are device time only")
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


def fit_stored(database: Database, stored: StoredOperation, environment: Environment) -> Formula:
    """Fit the points of one operation, or of one part of the host's work, in one environment.

    Raises:
        FitError: the points do not suffice.
    """
    from dooly.fit import fit, fit_host

    observations = observed(database, stored.signature, environment)
    if stored.signature in HOST_PARTS:
        return fit_host(stored.signature, observations)
    return fit(stored.parsed(), observations)


def observed(database: Database, signature: str, environment: Environment) -> list[Observation]:
    """Points of an operation as a fit takes them: of mixtures, those without a given fullest expert."""
    points = [point for point in database.points(signature, environment) if not point.point.skewed]
    return [Observation.of(point) for point in points]


def _fit_missing(
    database: Database, operations: Sequence[Operation], machine: Machine, known: dict[str, Formula]
) -> dict[str, Formula]:
    """Formulas of operations and host work that have none stored, or that another GPU lends; they are not stored.

    From their points or, of operations with few points or none, from their family; collectives only from points, since
    a family has no number of ranks.
    """
    from dooly.fit import ENOUGH

    lent = lent_products(database, operations, machine)
    if lent:
        say(f"note: {len(lent)} products of many rows are those of a rested GPU of the same chip")
    found = _fit_host(database, machine, known, rested=bool(lent))
    missing = [each for each in operations if each.signature not in known or each in lent]
    points = {
        each: lent.get(each) or observed(database, each.signature, environment_for(each, machine)) for each in missing
    }
    families = _families(database, [each for each in missing if len(points[each]) < ENOUGH], machine)
    for operation in missing:
        if not points[operation] and (operation.kind is Kind.COLLECTIVE or families.of(operation) is None):
            continue
        try:
            found[operation.signature] = families.fit(operation, points[operation])
        except FitError as error:
            say(f"not fitted: {error}")
    borrowed = [formula for formula in found.values() if formula.lenders]
    for formula in borrowed:
        say(
            f"note: {formula.name} has {formula.held.points or 'no'} points here: formula of {formula.lenders} "
            f"operations like it, right to {formula.held.mape:.0%} (median), {formula.held.worst_error:.0%} (90 %)"
        )
    return found


def _fit_host(database: Database, machine: Machine, known: dict[str, Formula], *, rested: bool) -> dict[str, Formula]:
    """Formulas of what is known of the host's time; parts that were not measured here may be another machine's."""
    found: dict[str, Formula] = {}
    home = host_environment(machine)
    stored = {each.signature: each for each in database.operations() if each.signature in HOST_PARTS}
    homes = {part: home for part in stored if part not in known and database.points(part, home)}
    here = [part for part in stored if part in known or part in homes]
    lent = lent_host_parts(database, here, machine, rested=rested)
    homes |= lent
    for there, parts in groupby(lent, lent.__getitem__):
        host = f"a host of {there.get('cores')} such cores"
        say(f"note: {', '.join(parts)}: not measured here, those of an {there.get('device')} on {host}")
    for part, place in homes.items():
        try:
            found[part] = fit_stored(database, stored[part], place)
        except FitError as error:
            say(f"{part} is not fitted: {error}")
    return found


def _families(database: Database, wanted: Sequence[Operation], machine: Machine) -> Families:
    """Families of the wanted operations, from all that this machine measured of their targets."""
    from dooly.fit import fit_families

    targets = {each.target for each in wanted}
    measured: dict[Operation, list[Observation]] = {}
    for stored in database.operations():
        if stored.target in targets:
            operation = stored.parsed()
            points = observed(database, stored.signature, environment_for(operation, machine))
            if points:
                measured[operation] = points
    return fit_families(measured, wanted)


def formulas_here(database: Database, operations: Sequence[Operation], machine: Machine) -> dict[str, Formula]:
    """Formulas by signature, the host's among them, that were fitted in this machine's environments.

    Where there is none here but one in another environment, that is said, never used.
    """
    homes = {operation.signature: environment_for(operation, machine) for operation in operations}
    homes |= dict.fromkeys(HOST_PARTS, host_environment(machine))
    found: dict[str, Formula] = {}
    elsewhere: dict[str, str] = {}
    for signature, home in homes.items():
        stored = database.formula(signature, home)
        if stored is not None:
            found[signature] = from_json(stored)
        elif (near := _near(database, signature, home)) is not None:
            elsewhere[signature] = near
    for difference in sorted(set(elsewhere.values())):
        count = list(elsewhere.values()).count(difference)
        say(f"note: {count} operations have a formula in another environment ({difference}); it is not used")
    return found


def _near(database: Database, signature: str, home: Environment) -> str | None:
    """How the nearest other environment that has a formula of this operation differs."""
    for other, differences in database.near_environments(home):
        if database.formula(signature, other) is not None:
            return ", ".join(f"{name} {there!s} there, {here!s} here" for name, (here, there) in differences.items())
    return None
