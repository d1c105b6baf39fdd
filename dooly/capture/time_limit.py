"""How long a capture may take, and in which module of the model it was when that was over."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from dooly.errors import CaptureError

__all__ = ["LIMIT_S", "limited"]

LIMIT_S = 300
"""Seconds of processor time; the largest bundled model takes about a tenth."""


class _Expired(BaseException):
    """Passes through code that catches every exception."""


@contextmanager
def limited(name: str, seconds: float = LIMIT_S) -> Generator[None]:
    """Stop what runs inside after some seconds of processor time; never in a thread, where no signal arrives.

    Args:
        name: of the model, for the message.

    Raises:
        CaptureError: it took longer; names the module of the model that was running.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    where = "the engine's code"

    def stop(_: int, frame: FrameType | None) -> None:
        nonlocal where
        where = _place(frame) or where
        raise _Expired

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    except _Expired:
        took = f"{seconds:g} s of processor time"
        raise CaptureError(
            f"{name}: stopped after {took} in {where}, which does not end or is too large to trace"
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _place(frame: FrameType | None) -> str:
    """The innermost module of the model that is running, by its path, class and line of code."""
    frames = ((each.f_locals.get("self"), each) for each in _frames(frame))
    running = [(module, each) for module, each in frames if isinstance(module, torch.nn.Module)]
    if not running:
        return ""
    module, inner = running[0]
    root, _ = running[-1]
    path = next((path for path, each in root.named_modules() if each is module), "")
    code = f"{inner.f_code.co_filename.rpartition('/')[2]}:{inner.f_lineno}"
    return f"{path or 'the model'} ({type(module).__name__}, {code})"


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
