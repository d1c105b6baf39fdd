"""The engine's defaults as dooly knows them are those of the engine that is installed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dooly.engine.defaults import UTILIZATION, gpu_limits, stated_length
from dooly.errors import SimulationError

GIB = 2**30
GPUS = (
    ("NVIDIA H100 80GB HBM3", 80 * GIB),
    ("NVIDIA H200", 141 * GIB),
    ("NVIDIA A100-SXM4-80GB", 80 * GIB),
    ("NVIDIA L40S", 48 * GIB),
    ("NVIDIA B200", 180 * GIB),
)

ENGINE = """
import json, sys
from vllm.config import CacheConfig
from vllm.engine import arg_utils
from vllm.usage.usage_lib import UsageContext

class Platform:
    def __init__(self, name, memory):
        self.name, self.memory = name, memory
    def get_device_name(self): return self.name
    def get_device_total_memory(self): return self.memory
    def is_tpu(self): return False
    def is_cpu(self): return False

found = []
for name, memory in json.loads(sys.argv[1]):
    arg_utils.current_platform = Platform(name, memory)
    tokens, sequences = arg_utils.EngineArgs.get_batch_defaults(1)
    found.append([sequences[UsageContext.OPENAI_API_SERVER], tokens[UsageContext.OPENAI_API_SERVER]])
print(json.dumps([found, CacheConfig.gpu_memory_utilization]))
"""


@pytest.mark.engine
def test_the_table_is_what_the_installed_engine_takes() -> None:
    command = [sys.executable, "-W", "ignore", "-c", ENGINE, json.dumps(GPUS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    limits, utilization = json.loads(done.stdout.splitlines()[-1])
    assert [list(gpu_limits(*gpu)) for gpu in GPUS] == limits
    assert utilization == UTILIZATION


def test_what_is_given_stays_and_requests_fit_into_the_tokens() -> None:
    name, memory = GPUS[1]
    assert gpu_limits(name, memory, 7) == (7, 8192)
    assert gpu_limits(name, memory, None, 512) == (512, 512)
    assert gpu_limits(name, memory, 4000, 512) == (4000, 512)


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"n_positions": 1024, "vocab_size": 9}, 1024),
        ({"text_config": {"max_position_embeddings": 8192}}, 8192),
    ],
)
def test_the_longest_context_is_the_configs(config: dict[str, object], length: int, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert stated_length(tmp_path) == length


def test_a_config_without_a_longest_context(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SimulationError, match="give --max-model-len"):
        stated_length(tmp_path)
