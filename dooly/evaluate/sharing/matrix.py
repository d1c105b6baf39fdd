"""Shares of work between models, over one table of operations and whatever an operation weighs."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import fsum

from dooly.ir import Operation, Program

__all__ = ["Sharing"]


@dataclass(frozen=True)
class Sharing:
    """The weight of each operation of each model: 1 to count operations, us of a step, seconds of measuring.

    Attributes:
        weights: for each model, in the order given, the weight of each of its operations by signature.
    """

    weights: Mapping[str, Mapping[str, float]]

    @classmethod
    def of(
        cls, operations: Iterable[Operation], models: Iterable[str], weigh: Callable[[Operation], float]
    ) -> "Sharing":
        """Weights by a rule over a table of operations.

        Args:
            weigh: weight of an operation that has the uses of one model only.
        """
        program = Program((), tuple(operations))
        return cls({model: {op.signature: weigh(op) for op in program.for_model(model)} for model in models})

    @property
    def models(self) -> tuple[str, ...]:
        """Names, in the order given."""
        return tuple(self.weights)

    def share(self, model: str, known: Iterable[str]) -> float:
        """Part, 0 to 1, of the weight of a model in operations that the `known` models have too."""
        signatures = {signature for other in known for signature in self.weights[other]}
        mine = self.weights[model]
        total = fsum(mine.values())
        return fsum(weight for name, weight in mine.items() if name in signatures) / total if total else 0.0

    def others(self, model: str) -> tuple[str, ...]:
        """All models but this."""
        return tuple(other for other in self.weights if other != model)

    def adds(self, model: str) -> float:
        """Weight of the operations that this model alone has."""
        return fsum(self.weights[model].values()) * (1.0 - self.share(model, self.others(model)))

    def matrix(self) -> tuple[tuple[float, ...], ...]:
        """A row for each model wanted, a column for each known: the part of the row's weight that the column has.

        >>> Sharing({"a": {"x": 1.0, "y": 1.0}, "b": {"y": 3.0}}).matrix()
        ((1.0, 0.5), (1.0, 1.0))
        """
        return tuple(tuple(self.share(model, (known,)) for known in self.weights) for model in self.weights)

    def apart(self) -> float:
        """Weight of all models if nothing were shared."""
        return fsum(weight for mine in self.weights.values() for weight in mine.values())

    def together(self) -> float:
        """Weight if each operation counts once; of several weights the largest.

        >>> sharing = Sharing({"a": {"x": 1.0, "y": 1.0}, "b": {"y": 1.0}})
        >>> sharing.apart(), sharing.together()
        (3.0, 2.0)
        """
        once: dict[str, float] = {}
        for mine in self.weights.values():
            for signature, weight in mine.items():
                once[signature] = max(weight, once.get(signature, weight))
        return fsum(once.values())
