import importlib
import os

import pytest

from dooly.errors import ProfileError
from dooly.hardware.machine import machine

pytestmark = pytest.mark.engine


def test_this_machine_says_what_decides_its_speed(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    here = machine(block_size=64)
    assert here.platform == "cpu"
    assert here.device
    assert here.block_size == 64
    assert 1 <= here.threads <= (os.cpu_count() or 1)
    assert here.cache_bytes >= 1 << 18
    assert here.memory_bytes > here.cache_bytes
    assert here.engine.startswith("vllm")
    assert "+" not in here.torch


def test_the_users_choice_of_threads_is_part_of_the_machine(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert machine().threads == 3


def test_a_missing_engine_is_one_clear_line(monkeypatch):
    # The package exports the function under the name of its module, so the module is found by import.
    monkeypatch.setattr(importlib.import_module("dooly.hardware.machine"), "installed", lambda *_: "")
    with pytest.raises(ProfileError, match=r"torch is not installed.*pip install 'dooly\[cpu\]'"):
        machine()
