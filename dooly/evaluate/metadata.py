"""Facts that the figures of a measured run depend on: machine, software, date."""

import os
import platform
from datetime import UTC, datetime
from typing import Any

from dooly.engine.local import Engine
from dooly.engine.remote import RemoteEngine
from dooly.hardware.processor import processor_name
from dooly.hardware.software import driver_version, engine_release, installed

__all__ = ["machine_facts"]

_PACKAGES = ("torch", "triton", "flashinfer-python")


def machine_facts(engine: Engine | RemoteEngine) -> tuple[tuple[str, str], ...]:
    """Sorted (name, value) of this machine and of the engine that runs on it."""
    import torch

    facts = {
        "cpu": processor_name(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "engine": engine_release(),
        "backend": engine.backend,
        "engine core": "in process" if isinstance(engine, Engine) else "own process",
        "eager": str(bool(engine.config.model_config.enforce_eager)).lower(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if engine.config.parallel_config.tensor_parallel_size > 1:
        facts["all-reduce"] = "not fused"
    facts |= {name: found for name in _PACKAGES if (found := installed(name))}
    if engine.device == "cuda":
        facts |= _gpu()
    return tuple(sorted(facts.items()))


def _gpu() -> dict[str, str]:
    import torch

    properties: Any = torch.cuda.get_device_properties(0)
    return {"device": properties.name, "cuda": torch.version.cuda or "", "driver": driver_version()}
