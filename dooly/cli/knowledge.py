"""What commands have in common: models lowered to operations, and formulas looked up for this machine."""

from collections.abc import Sequence
from pathlib import Path

from dooly.cli.output import say
from dooly.cli.store import open_database
from dooly.database import Database, Environment
from dooly.errors import PredictError
from dooly.executor import Machine, environment_for, host_environment, machine
from dooly.fit import Formula
from dooly.fit.store import from_json
from dooly.ir import Operation, Program, read_program
from dooly.predict import HOST_PARTS, SavedModel, StepModel

__all__ = ["formulas_here", "lower", "model_path", "saved_model", "step_model"]


def lower(models: Sequence[str], tp: int = 1, backend: str | None = None) -> Program:
    """All passes over the models as the CPU platform runs them: graphs and one table of operations.

    Args:
        models: bundled names, config.json files or their folders, which are captured; or .ir files with graphs or a
            table of operations, which are read.
        tp, backend: of models that are captured.

    Raises:
        CaptureError, ParseError, PassError: a model is not usable.
    """
    from dooly.capture import capture
    from dooly.passes import PIPELINE, run

    parts: list[Program] = []
    for model in dict.fromkeys(models):
        if model.endswith(".ir"):
            parts.append(read_program(Path(model)))
        else:
            say(f"capturing {model}")
            parts.append(Program((capture(model, tp=tp, backend=backend),)))
    return run(Program.joined(parts), PIPELINE)


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


def saved_model(model: str, location: str, backend: str | None = None, block_size: int = 32, tp: int = 1) -> SavedModel:
    """Step times of one model on this machine, from the formulas in the database, in the form that can be kept.

    Raises:
        PredictError: a formula is missing; says how to get it.  Or a file does not hold just one model.
    """
    here = machine(block_size=block_size)
    with open_database(location) as database:
        program = lower([model], tp, backend)
        formulas = formulas_here(database, program.operations, here)
    names = sorted({use.model for operation in program.operations for use in operation.uses})
    if len(names) != 1:
        raise PredictError(f"{model} holds {len(names)} models; expected one")
    return SavedModel.of(program, names[0], formulas, here.device, here.memory_bytes)


def step_model(model: str, location: str, backend: str | None = None, block_size: int = 32) -> StepModel:
    """The step times alone; see `saved_model`."""
    return saved_model(model, location, backend, block_size).steps


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
