"""Write the table of operations that four quantized checkpoints have beside plain ones, for a GPU to measure.

    python scripts/quantized_table.py -o quantized.ir
    dooly profile quantized.ir --db points.sqlite --budget 900 --max-tokens 8192 --max-requests 256    # on the GPU

Llama-3.1-8B in AWQ and in FP8, gpt-oss-20b in MXFP4 and Qwen3-30B-A3B in blocks of FP8, as they are published.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dooly.capture import capture, resolve_model
from dooly.errors import CaptureError
from dooly.files import write_text
from dooly.ir import Kind, Operation, Program
from dooly.passes import PIPELINE, run

_SMALL = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
_PER_TOKEN = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True, "symmetric": True}
_PER_ROW = {"num_bits": 8, "type": "float", "strategy": "channel", "dynamic": False, "symmetric": True}
_CHECKPOINTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("llama-3.1-8b", {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}),
    (
        "llama-3.1-8b",
        {
            "quant_method": "compressed-tensors",
            "format": "float-quantized",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": _PER_ROW, "input_activations": _PER_TOKEN}},
            "ignore": ["lm_head"],
        },
    ),
    ("gpt-oss-20b", {"quant_method": "mxfp4", "modules_to_not_convert": _SMALL}),
    (
        "qwen3-30b-a3b",
        {
            "quant_method": "fp8",
            "activation_scheme": "dynamic",
            "weight_block_size": [128, 128],
            "modules_to_not_convert": ["lm_head", *(f"model.layers.{layer}.mlp.gate" for layer in range(48))],
        },
    ),
)
"""Bundled models, and what the published checkpoint says of its weights."""


def main(argv: list[str] | None = None) -> int:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", required=True, type=Path)
    parser.add_argument("--platform", default="h200")
    options = parser.parse_args(argv)
    try:
        operations = tuple(_operations(options.platform))
    except CaptureError as error:
        sys.stderr.write(f"quantized_table: {error}\n")
        return 2
    write_text(options.output, str(Program((), operations)))
    return 0


def _operations(platform: str) -> Iterator[Operation]:
    """Products and experts on stored weights, and regions that scale what they are given."""
    with TemporaryDirectory() as folder:
        graphs = tuple(
            capture(_written(Path(folder) / f"{model}-{index}", model, scheme), platform=platform)
            for index, (model, scheme) in enumerate(_CHECKPOINTS)
        )
    for operation in run(Program(graphs), PIPELINE).operations:
        stored = operation.attr("scheme") is not None or operation.target == "scaled_linear"
        if stored or (operation.kind is Kind.REGION and "f8e4m3" in str(operation)):
            yield replace(operation, status="")


def _written(folder: Path, model: str, scheme: dict[str, Any]) -> Path:
    _, config = resolve_model(model)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": scheme}), encoding="utf-8")
    return folder


if __name__ == "__main__":
    sys.exit(main())
