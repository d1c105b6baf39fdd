"""The dimensions of a model as simulators ask for them."""

from collections.abc import Collection
from dataclasses import dataclass

from dooly.errors import PredictError
from dooly.ir.operation import Operation
from dooly.ir.opset import Kind
from dooly.predict import SavedModel

__all__ = ["Shape", "peak_tflops", "shape_of", "unquantized", "weight_tbs"]


@dataclass(frozen=True)
class Shape:
    """Whole-model dimensions, not divided by tensor parallelism.

    Attributes:
        layers: with attention.
        context: longest sequence, tokens.
        experts, top_k: 0 without a mixture of experts.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    context: int
    experts: int
    top_k: int


def shape_of(model: SavedModel) -> Shape:
    """Read off the configuration symbols.

    Raises:
        PredictError: the model is not a transformer with plain attention; names what is absent.
    """
    symbols = {"H": "hidden size", "Nq": "heads", "Nkv": "KV heads", "D": "head size", "V": "vocabulary"}
    config = {"Nkv": model.config.get("Nq", 0), **model.config}
    missing = [f"{symbol} ({meaning})" for symbol, meaning in symbols.items() if not config.get(symbol)]
    if missing or not model.layers:
        raise PredictError(
            f"{model.name}: simulators of this kind describe a model by its attention layers; "
            f"the configuration has no {', '.join(missing) or 'attention'}"
        )
    return Shape(
        layers=model.layers,
        hidden=config["H"],
        intermediate=config.get("I", 0),
        heads=config["Nq"],
        kv_heads=config["Nkv"],
        head_size=config["D"],
        vocabulary=config["V"],
        context=config.get("Np", 0),
        experts=config.get("E", 0),
        top_k=config.get("K", 0),
    )


def _gemms(model: SavedModel) -> list[Operation]:
    return [operation for operation in model.operations if operation.kind is Kind.GEMM]


def peak_tflops(model: SavedModel) -> float:
    """TFLOP/s of the model's fastest GEMM, at the largest number of rows that was measured."""
    formulas = [model.formulas[operation.signature] for operation in _gemms(model)]
    return max(formula.achieved({"T": formula.domain[0].high})[0] for formula in formulas)


def weight_tbs(model: SavedModel) -> float:
    """TB/s at which the model's largest GEMM reads its weights for a single row."""
    largest = max(_gemms(model), key=lambda operation: int(operation.operands[1].numel))
    return model.formulas[largest.signature].achieved({"T": 1})[1] / 1e3


def unquantized(model: SavedModel, target: str, dtypes: Collection[str] = ("bf16", "f16")) -> None:
    """Check that all numbers that GEMMs read and write are of these types.

    Raises:
        PredictError: they are not; names `target`, which knows no others.
    """
    found = {operand.dtype for gemm in _gemms(model) for operand in gemm.operands}
    if others := sorted(found - set(dtypes)):
        raise PredictError(
            f"{model.name}: weights or activations are {others[0]}; {target} takes models in {' or '.join(dtypes)}"
        )
