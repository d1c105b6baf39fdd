"""The machine behind stored points: what ships with dooly is found again, and nothing is mixed."""

from dataclasses import replace

import pytest

from dooly.database import Database, Environment, Point, Samples
from dooly.database.exchange import read_parquet, shipped_files
from dooly.errors import ProfileError
from dooly.hardware.environment import environment_for, host_environment, stored_machine
from dooly.host import is_host_part
from dooly.ir import Kind, parse_program


def add(database: Database, environment: Environment, points: int) -> None:
    database.add_operation("a" * 64, "linear", "an operation")
    for tokens in range(1, points + 1):
        claim = database.claim("a" * 64, environment, Point.of(T=tokens))
        assert claim is not None
        database.record_ok(claim, Samples((1.0,) * 5))


@pytest.mark.parametrize(("platform", "device"), [("h100", "NVIDIA H100 80GB HBM3"), ("h200", "NVIDIA H200")])
def test_every_shipped_point_is_of_its_stored_machine_or_a_collective_of_it_by_other_ways(platform: str, device: str):
    records = [record for path in shipped_files() for record in read_parquet(path)]
    database = Database("sqlite://")
    database.add_records(records)
    machine = stored_machine(database, platform)
    assert (machine.platform, machine.device, machine.mode) == (platform, device, "graph")
    homes = {(each.operation, each.environment) for each in records if each.environment.get("platform") == platform}
    assert len(homes) > 100
    facts = tuple((name, "nccl" if name == "all_reduce" else value) for name, value in machine.facts)
    others = replace(machine, facts=facts), replace(machine, mode="eager")
    hosts = [host_environment(stored_machine(database, platform, cores)) for cores in ("16", "32")]
    for stored, environment in homes:
        if is_host_part(stored.signature):
            assert environment in hosts
            continue
        (operation,) = parse_program(stored.text).operations
        places = (machine, *others) if operation.kind is Kind.COLLECTIVE else (machine,)
        assert environment in [environment_for(operation, place) for place in places]


def test_another_machine_of_the_platform_is_left_out():
    database = Database("sqlite://")
    common = {"platform": "h200", "device": "NVIDIA H200", "mode": "graph"}
    add(database, Environment.of(**common, driver="1", torch="2.10.0"), 2)
    add(database, Environment.of(**common, driver="2", torch="2.11.0"), 3)
    add(database, Environment.of(**common, driver="2", engine="vllm 0.26.0"), 1)
    machine = stored_machine(database, "h200")
    assert (machine.fact("driver"), machine.torch, machine.engine) == ("2", "2.11.0", "vllm 0.26.0")


def test_a_host_of_so_many_cores_is_found_if_there_is_one():
    database = Database("sqlite://")
    common = {"platform": "h200", "device": "NVIDIA H200", "mode": "graph"}
    add(database, Environment.of(**common, torch="2.11.0"), 4)
    for cores, points in (("16", 3), ("32", 2)):
        add(database, Environment.of(**common, python="3.12.3", cores=cores), points)
    for cores, found in ((None, "16"), ("16", "16"), ("32", "32"), ("64", "16")):
        machine = stored_machine(database, "h200", cores)
        assert (machine.fact("cores"), machine.torch, machine.python) == (found, "2.11.0", "3.12.3")


def test_nothing_stored_is_one_clear_line():
    with pytest.raises(ProfileError, match=r"nothing measured on h200 is stored, and none of it ships; run"):
        stored_machine(Database("sqlite://"), "h200")


@pytest.mark.parametrize("platform", ["cpu", "t4"])
def test_only_gpus_are_asked_for_by_name(platform):
    with pytest.raises(
        ProfileError, match=f"--platform {platform}: expected one of h100, h200, a100, .*b60; leave it out"
    ):
        stored_machine(Database("sqlite://"), platform)
