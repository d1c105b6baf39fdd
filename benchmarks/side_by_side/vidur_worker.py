"""Vidur's stock predictors on CSV files of dooly, for `benchmarks/step_errors.py`; runs where microsoft/vidur is.

Reads one JSON object from stdin and writes the step times, us, as a JSON list to stdout.  The tables that Vidur fills
with predictions beforehand are asked entry by entry instead: the same models, the same numbers.
"""

import json
import sys
import tempfile
from dataclasses import field, make_dataclass
from typing import Any


class Lazy:
    """A table of predictions of one model, filled as it is asked for."""

    def __init__(self, model: Any, columns: list[str]) -> None:
        self.model, self.columns, self.known = model, columns, {}

    def __getitem__(self, key: tuple[int, ...]) -> float:
        import pandas

        if key not in self.known:
            self.known[key] = float(self.model.predict(pandas.DataFrame([key], columns=self.columns))[0])
        return self.known[key]


def main() -> None:
    """Answer one question."""
    out, sys.stdout = sys.stdout, sys.stderr
    asked = json.load(sys.stdin)
    predictor = make_predictor(asked)
    json.dump([step_us(predictor, [tuple(request) for request in batch]) for batch in asked["batches"]], out)


def make_predictor(asked: dict[str, Any]) -> Any:
    """The stock predictor, trained."""
    from vidur.config import (
        LinearRegressionExecutionTimePredictorConfig,
        MetricsConfig,
        RandomForrestExecutionTimePredictorConfig,
        ReplicaConfig,
        SarathiSchedulerConfig,
    )
    from vidur.config.model_config import BaseModelConfig
    from vidur.execution_time_predictor.linear_regression_execution_time_predictor import (
        LinearRegressionExecutionTimePredictor,
    )
    from vidur.execution_time_predictor.random_forrest_execution_time_predictor import (
        RandomForrestExecutionTimePredictor,
    )
    from vidur.types import ActivationType, NormType

    values = {**asked["shape"], "activation": ActivationType.SILU, "norm": NormType.RMS_NORM}
    fields = [(name, type(value), field(default=value)) for name, value in values.items()]
    model = make_dataclass(
        "Measured", fields, bases=(BaseModelConfig,), namespace={"get_name": staticmethod(lambda: "measured")}
    )
    globals()["kept"] = model  # Vidur finds it among the subclasses, of which Python keeps weak references only
    forest = asked["forest"]
    config, stock = (
        (RandomForrestExecutionTimePredictorConfig, RandomForrestExecutionTimePredictor)
        if forest
        else (LinearRegressionExecutionTimePredictorConfig, LinearRegressionExecutionTimePredictor)
    )

    class Asked(stock):
        """The stock predictor without tables made beforehand."""

        def _predict_from_models(self) -> dict[str, Lazy]:
            features = {"attn_prefill": ["kv_cache_size", "prefill_chunk_size_squared"]}
            features["attn_decode"] = ["batch_size", "kv_cache_size"]
            return {name: Lazy(model, features.get(name, ["num_tokens"])) for name, model in self._models.items()}

    folder = asked["folder"]
    return Asked(
        config(
            compute_input_file=f"{folder}/mlp.csv",
            attention_input_file=f"{folder}/attention.csv",
            no_cache=True,
            num_training_job_threads=asked["threads"],
        ),
        ReplicaConfig(model_name="measured", device="h100", network_device="h100_dgx"),
        SarathiSchedulerConfig(block_size=asked["block_size"]),
        MetricsConfig(cache_dir=tempfile.mkdtemp(prefix="vidur-")),
    )


def step_us(predictor: Any, requests: list[tuple[int, int]]) -> float:
    """One step of requests as (new, cached) tokens; Vidur counts the token that a step produced as processed."""
    from vidur.entities import Batch, Request

    entities: list[Any] = []
    for new, cached in requests:
        decodes = new == 1 and cached > 0
        request = Request(0.0, cached if decodes else cached + new, 1000, cached + 1 if decodes else cached)
        request._is_prefill_complete = decodes
        entities.append(request)
    return 1e6 * predictor.get_execution_time(Batch(0, entities, [new for new, _ in requests]), 0).total_time


if __name__ == "__main__":
    main()
