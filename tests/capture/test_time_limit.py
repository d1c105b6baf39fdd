"""A capture that does not end is stopped, and the module that it was in is named."""

import signal
import threading

import pytest
import torch

from dooly.capture.time_limit import limited
from dooly.errors import CaptureError


class Endless(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        while True:
            try:
                x = x + 1
            except Exception:  # as code does that takes any mistake for "try another way"
                continue


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Identity(), Endless()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def endless() -> None:
    while True:
        pass


def test_the_module_is_named():
    with (
        pytest.raises(
            CaptureError, match=r"^m: stopped after 0.2 s of processor time in layers\.1 \(Endless, test_time"
        ),
        limited("m", 0.2),
    ):
        Model()(torch.zeros(1))
    assert signal.getitimer(signal.ITIMER_PROF)[0] == 0


def test_what_runs_before_the_model_has_no_module():
    with pytest.raises(CaptureError, match="in the engine's code, which does not end"), limited("m", 0.1):
        endless()


def test_what_ends_in_time_is_left_alone_and_so_are_its_errors():
    before = signal.getsignal(signal.SIGPROF)
    with limited("m"):
        pass
    with pytest.raises(KeyError), limited("m"):
        raise KeyError
    assert signal.getsignal(signal.SIGPROF) is before


def test_in_another_thread_nothing_is_limited():
    done: list[int] = []

    def work() -> None:
        with limited("m", 0.001):
            done.append(sum(range(100_000)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done
