"""For processes that another process of ours has started."""

import os
import threading
import time

__all__ = ["end_with_parent"]


def end_with_parent() -> None:
    """From now on, end when the process that started this one has ended: an engine waits for others forever."""
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
