"""The processor of this machine, as its kernel describes it."""

import platform
from pathlib import Path

__all__ = ["cpuinfo", "processor_name"]


def cpuinfo() -> dict[str, str]:
    """Fields of the first processor; empty where there is no /proc."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


def processor_name() -> str:
    """Return the processor's name as its maker calls it, or its architecture."""
    return cpuinfo().get("model name") or platform.processor() or platform.machine()
