"""What holds for every test: the engine's environment, hypothesis profiles, when an engine test may be skipped."""

import importlib.util
import os
import tempfile

import pytest
from hypothesis import HealthCheck, settings

# Before anything imports vLLM: no hub, no usage statistics, errors only, kernels for the CPU where there is no GPU.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("DOOLY_CACHE", tempfile.mkdtemp(prefix="dooly-captures-"))  # not that of whoever runs the tests
if not os.path.exists("/dev/nvidia0"):
    os.environ.setdefault("VLLM_TARGET_DEVICE", "cpu")

IN_CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}

# Timing is not what these tests are about, and the machines are shared: no deadline anywhere.
settings.register_profile(
    "ci", derandomize=True, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if IN_CI else "dev"))


def _missing(*modules: str) -> list[str]:
    return [name for name in modules if importlib.util.find_spec(name) is None]


def _has_gpu() -> bool:
    return os.path.exists("/dev/nvidia0")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip an engine test only where the engine is absent; in CI its absence is a failure.  GPU tests need a GPU."""
    if item.get_closest_marker("engine") is not None and (missing := _missing("torch", "vllm")):
        if IN_CI:
            pytest.fail(f"CI has no {' and no '.join(missing)}: engine tests may not be skipped there", pytrace=False)
        pytest.skip(f"needs {' and '.join(missing)}: make setup")
    if item.get_closest_marker("gpu") is not None and not _has_gpu():
        pytest.skip("needs an NVIDIA GPU")
    if item.get_closest_marker("exhaustive") is not None and "exhaustive" not in item.config.option.markexpr:
        pytest.skip("takes minutes: pytest -m exhaustive")


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--update-golden`` rewrites the expected IR of tests/golden; read the difference before you commit it."""
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden from what the passes print now")
