"""A model's step times as one file: everything that a prediction needs, and nothing of the engine or the database.

Simulators run in environments of their own, without torch, vLLM and the machine that was measured.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from dooly.errors import DoolyError, PredictError
from dooly.files import read_text, write_text
from dooly.fit.formula import Formula
from dooly.fit.store import from_json, to_json
from dooly.host import is_host_part
from dooly.ir.expr import evaluate
from dooly.ir.graph import Graph
from dooly.ir.operation import Operation
from dooly.ir.opset import BETWEEN_STAGES, Kind
from dooly.ir.parser import parse_program
from dooly.ir.program import Program
from dooly.predict.graphs import GraphPlan
from dooly.predict.host import HostModel, knows_host
from dooly.predict.step_model import StepModel
from dooly.predict.step_ops import collect_work

__all__ = ["FORMAT", "SavedModel", "weight_bytes"]

FORMAT = 4
"""Version of the form.  1: first.  2: bytes of the weights.  3: CUDA graphs.  4: experts over their number."""


def weight_bytes(graph: Graph) -> int:
    """Bytes of all weights and tables on one rank."""
    weights = [op.count * op.results[0].type.bytes for op in graph.ops if op.target == "weight"]
    return int(sum(evaluate(each, graph.config_values) for each in weights))


@dataclass(frozen=True, eq=False)
class SavedModel:
    """One model on one device.

    Attributes:
        name: of the model.
        device: what was measured, in words.
        memory_bytes: of that device.
        weight_bytes: on one rank; 0 where only the table of operations is there.
        config: configuration symbols with their values, as in the header of the model's graph.
        settings: what else chose its code path (dtype, attention backend, engine, platform).
        operations: the distinct operations, with the uses by this model only.
        formulas: by signature; the host's among them where its time was measured.
        graphs: CUDA graphs that the engine captured; None where it captures none.
    """

    name: str
    device: str
    memory_bytes: int
    weight_bytes: int
    config: Mapping[str, int]
    settings: Mapping[str, str]
    operations: tuple[Operation, ...]
    formulas: Mapping[str, Formula]
    graphs: GraphPlan | None = None

    @classmethod
    def of(
        cls,
        program: Program,
        name: str,
        formulas: Mapping[str, Formula],
        device: str,
        memory_bytes: int,
        *,
        host_known: bool = True,
        graphs: GraphPlan | None = None,
    ) -> "SavedModel":
        """The part of a lowered program that one model needs; `config` is empty where only the table is there.

        Args:
            host_known: False where host time was not measured: steps are then of the device only.
            graphs: CUDA graphs that the engine captured.

        Raises:
            PredictError: a formula is missing; names the operation and the command that measures it.
        """
        operations = program.for_model(name)
        needed = {each.operation.signature for each in collect_work(operations, formulas, name, device=device)}
        kept = {key: value for key, value in formulas.items() if key in needed or is_host_part(key)}
        if host_known:
            HostModel.of(kept)
        graph = next((graph for graph in program.graphs if graph.name == name), None)
        if graph is None:
            return cls(name, device, memory_bytes, 0, {}, {}, operations, kept, graphs)
        config, settings = graph.config_values, dict(graph.settings)
        return cls(name, device, memory_bytes, weight_bytes(graph), config, settings, operations, kept, graphs)

    @cached_property
    def steps(self) -> StepModel:
        """Its step times."""
        return StepModel.build(
            self.operations,
            self.formulas,
            self.name,
            device_only=self.device_only,
            graphs=self.graphs,
            device=self.device,
        )

    def under(self, max_num_seqs: int, max_num_batched_tokens: int) -> "SavedModel":
        """The same under other limits of the engine, which decide what CUDA graphs it captures.

        Raises:
            PredictError: a limit is below 1.
        """
        if self.graphs is None:
            return self
        return replace(self, graphs=GraphPlan.of(max_num_seqs, max_num_batched_tokens))

    @property
    def device_only(self) -> bool:
        """Whether nothing is known of the host's time: its share of a step is then zero."""
        return not knows_host(self.formulas)

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """Sources of its times beside dooly's own points of the device: a publication first, then a rule and a host."""
        found = (formula.source for formula in self.formulas.values() if formula.source)
        return tuple(sorted(set(found), key=lambda each: (each.startswith("host"), each)))

    @cached_property
    def layers(self) -> int:
        """Layers with attention."""
        return sum(operation.count for operation in self.operations if operation.kind is Kind.ATTENTION)

    @cached_property
    def is_stage(self) -> bool:
        """Whether it is one of several pipeline stages: those hand on what they computed."""
        return any(operation.target in BETWEEN_STAGES for operation in self.operations)

    def check_whole(self, user: str) -> None:
        """Check that it is a whole model.

        Raises:
            PredictError: it is a pipeline stage; names `user`, who would take it for the whole.
        """
        if self.is_stage:
            raise PredictError(f"{self.name}: one of several pipeline stages; {user} takes whole models")

    @property
    def tensor_parallel(self) -> int:
        """Ranks that share each layer."""
        return self.config.get("TP", 1)

    def save(self, path: str | Path) -> None:
        """Write the file; `load` gives an equal prediction back, bit by bit.

        Raises:
            DoolyError: it cannot be written.
        """
        content = {
            "format": FORMAT,
            "model": self.name,
            "device": self.device,
            "memory_bytes": self.memory_bytes,
            "weight_bytes": self.weight_bytes,
            "config": dict(self.config),
            "settings": dict(self.settings),
            "graphs": None if self.graphs is None else asdict(self.graphs),
            "operations": str(Program((), self.operations)),
            "formulas": {signature: to_json(formula) for signature, formula in sorted(self.formulas.items())},
        }
        write_text(path, json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "SavedModel":
        """Read what `save` wrote.

        Raises:
            PredictError: not such a file, or one of another form.
        """
        try:
            content = json.loads(read_text(path))
        except OSError as error:
            raise PredictError(f"{path}: {error.strerror}; `dooly export steps MODEL -o {path}` writes it") from error
        except (ValueError, RecursionError) as error:
            raise PredictError(f"{path}: not JSON; `dooly export steps MODEL` writes step times of a model") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise PredictError(f"{path}: not step times of form {FORMAT}; write it again with `dooly export steps`")
        return cls._read(path, content)

    @classmethod
    def _read(cls, path: str | Path, content: dict[str, Any]) -> "SavedModel":
        try:
            return cls(
                str(content["model"]),
                str(content["device"]),
                int(content["memory_bytes"]),
                int(content["weight_bytes"]),
                {str(name): int(value) for name, value in content["config"].items()},
                {str(name): str(value) for name, value in content["settings"].items()},
                parse_program(content["operations"]).operations,
                {str(signature): from_json(formula) for signature, formula in content["formulas"].items()},
                None if (graphs := content["graphs"]) is None else GraphPlan.read(graphs),
            )
        except (DoolyError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            first = str(error).partition("\n")[0]
            raise PredictError(f"{path}: damaged ({first}); write it again with `dooly export steps`") from error
