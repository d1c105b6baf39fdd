"""Work in processes of its own."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import ParamSpec, TypeVar

from dooly.errors import SimulationError

__all__ = ["end_with", "in_own_process"]

P = ParamSpec("P")
T = TypeVar("T")


def in_own_process(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a new process; return or raise what it does: what an engine leaves behind goes with it.

    Raises:
        SimulationError: the process dies.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, initializer=end_with, initargs=(os.getpid(),)) as pool:
        try:
            return pool.submit(function, *args, **kwargs).result()
        except BrokenProcessPool as error:
            raise SimulationError("the engine's process has died; is there enough memory?") from error


def end_with(parent: int) -> None:
    """From now on, end when the process of this number, which started this one, has ended, or if it has already.

    An engine waits for others forever.
    """
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
