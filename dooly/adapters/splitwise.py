"""SplitwiseSim (Mutinifni/splitwise-sim at 8f99e7d): ``data/perf_model.csv``, times in ms."""

import csv
import io
from pathlib import Path

from dooly.adapters.grid import Limits, Outside, doubling, step_ms
from dooly.batch import Batch
from dooly.escape import csv_cell
from dooly.files import write_text
from dooly.predict import SavedModel

__all__ = ["COLUMNS", "write_csv"]

COLUMNS = (
    "model",
    "hardware",
    "prompt_size",
    "batch_size",
    "token_size",
    "peak_power",
    "average_power",
    "prompt_time",
    "token_time",
    "e2e_time",
    "tensor_parallel",
)
_OUTPUT = 128


def write_csv(model: SavedModel, path: Path, limits: Limits, hardware: str, name: str) -> Outside:
    """Write the file; power, which is not predicted, stays empty.

    The simulator looks a step up by its number of tokens n, whatever they are: as ``prompt_time`` where the step holds
    a prompt, else as ``token_time``.  So row n holds a prompt of n tokens, and a step of n requests that decode at
    `limits.context` tokens each; beyond `limits.requests` the last of these is repeated.

    Raises:
        PredictError: the model is a pipeline stage.
    """
    model.check_whole("SplitwiseSim")
    outside = Outside()
    sizes = doubling(limits.tokens)
    prompts = step_ms(model, [Batch.of((n, 0)) for n in sizes], outside)
    decodes = [Batch.of(*[(1, limits.context - 1)] * min(n, limits.requests)) for n in sizes]
    tokens = step_ms(model, decodes, outside)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    names = csv_cell(name), csv_cell(hardware)
    for n, prompt, token in zip(sizes, prompts, tokens, strict=True):
        total = prompt + (_OUTPUT - 1) * token
        writer.writerow([*names, n, 1, _OUTPUT, "", "", prompt, token, total, model.tensor_parallel])
    write_text(path, text.getvalue())
    return outside
