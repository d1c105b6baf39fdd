"""Operation tables inside of `aiconfigurator-core`: what its authors measured of vLLM on ten GPUs (Apache-2.0).

As its collector says: clocks locked at their highest, six layers one after the other in a CUDA graph, three replays to
warm up and six that are timed; one time a point is published.
"""

from collections.abc import Iterator
from pathlib import Path

from dooly.database import Environment, Times
from dooly.errors import DatabaseError
from dooly.foreign.attention import CONTEXT, GENERATION
from dooly.foreign.collectives import ALL_GATHER, ALL_REDUCE
from dooly.foreign.gemm import GEMM
from dooly.foreign.moe import MOE
from dooly.foreign.package import Package, release_key
from dooly.foreign.table import Table
from dooly.hardware.gpus import PLATFORMS

__all__ = ["RELEASE", "SYSTEMS", "read_aiconfigurator"]

DISTRIBUTION, RELEASE = "aiconfigurator-core", "0.12.0"

SYSTEMS = {
    "a100_sxm": "a100",
    "l40s": "l40s",
    "rtx_pro_6000_server": "rtx-pro-6000",
    "h100_sxm": "h100",
    "h200_sxm": "h200",
    "b200_sxm": "b200",
    "b300_sxm": "b300",
    "gb200": "gb200",
    "gb300": "gb300",
    "b60": "b60",
}
"""Platform of each system that the package has tables of vLLM for."""

_TABLES: tuple[tuple[Table, str], ...] = (
    (GEMM, "vllm"),
    (CONTEXT, "vllm"),
    (GENERATION, "vllm"),
    (MOE, "vllm"),
    (ALL_REDUCE, "vllm"),
    (ALL_GATHER, "nccl"),
)
"""Kinds of tables, each with the library whose releases it is kept by."""


def read_aiconfigurator(path: Path, system: str | None = None) -> Iterator[Times]:
    """All times of the package that are of operations of dooly, under one release of the engine for each GPU.

    Communication that was not measured under this release is that of the newest one before, and says so.

    Args:
        path: wheel, or folder of the package.
        system: only that GPU, by dooly's name or the package's.

    Raises:
        DatabaseError: the package, a table or the system is not usable.
    """
    package = Package.open(path, DISTRIBUTION, RELEASE)
    wanted = [name for name, platform in SYSTEMS.items() if system in (None, name, platform)]
    there = [name for name in wanted if package.folders("systems", "data", name)]
    if not there:
        known = ", ".join(SYSTEMS[name] for name in SYSTEMS if package.folders("systems", "data", name))
        raise DatabaseError(f"{path}: no system {system or 'that is known'}; expected one of {known or 'none'}")
    for name in there:
        engine = next(iter(package.folders("systems", "data", name, "gemm", "vllm")), None)
        if engine is None:
            raise DatabaseError(f"{path}: {name} has no table of products of vLLM; nothing is read of it")
        for table, library in _TABLES:
            yield from _read(package, name, engine, table, library)


def _read(package: Package, system: str, engine: str, table: Table, library: str) -> Iterator[Times]:
    place = ("systems", "data", system, table.folder, library)
    for release in package.folders(*place):
        other = library == "vllm" and release_key(release) > release_key(engine)
        if table.folder != "comm":
            other = release != engine
        if other or not package.has(*place, release, table.file):
            continue
        rows = package.table(table.columns, *place, release, table.file)
        yield from table.read(rows, _environment(system, engine, table, f"{library} {release}"))
        return


def _environment(system: str, engine: str, table: Table, library: str) -> Environment:
    platform = SYSTEMS[system]
    own = {"engine": f"vllm {engine}"}
    if table.folder == "comm":
        name, _, release = library.partition(" ")
        own = {"nccl": release} if name == "nccl" else {"communication": library}
    return Environment.of(
        platform=platform,
        device=PLATFORMS[platform].device_name,
        mode="graph",
        source=f"{DISTRIBUTION} {RELEASE}",
        method="locked clocks, six layers in a CUDA graph",
        **own,
    )
