"""Facts that the figures of a measured run depend on: machine, software, date."""

import os
import platform
from datetime import UTC, datetime
from typing import Any

from dooly.engine.local import Engine
from dooly.engine.remote import RemoteEngine
from dooly.hardware.processor import processor_name
from dooly.hardware.software import driver_version, engine_release, installed

__all__ = ["host_facts", "machine_facts"]

_PACKAGES = ("torch", "triton", "flashinfer-python")


def host_facts() -> dict[str, str]:
    """Processor, system, software and the date."""
    return {
        "cpu": processor_name(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "engine": engine_release(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **{name: found for name in _PACKAGES if (found := installed(name))},
    }


def machine_facts(engine: Engine | RemoteEngine) -> tuple[tuple[str, str], ...]:
    """Sorted (name, value) of this machine and of the engine that runs on it."""
    import torch

    facts = host_facts() | {
        "threads": str(torch.get_num_threads()),
        "backend": engine.backend,
        "engine core": "in process" if isinstance(engine, Engine) else "own process",
        "eager": str(bool(engine.config.model_config.enforce_eager)).lower(),
    }
    if engine.config.parallel_config.tensor_parallel_size > 1:
        facts["all-reduce"] = "not fused"
    if engine.device == "cuda":
        facts |= _gpu()
    return tuple(sorted(facts.items()))


def _gpu() -> dict[str, str]:
    import torch

    properties: Any = torch.cuda.get_device_properties(0)
    return {"device": properties.name, "cuda": torch.version.cuda or "", "driver": driver_version()}
