"""Carry out a list of commands on the GPUs of this machine: python scripts/gpu_queue.py TASKS FOLDER [--gpus N]

TASKS has one command a line, `NAME WHERE COMMAND`, begun in this order; `#` begins a comment. WHERE is `any`: the next
GPU that is free; `each`: every GPU, a process each; `all`: one process with all of them, once they are idle. A command
finds its GPUs in CUDA_VISIBLE_DEVICES, and FOLDER in OUT; what it says goes to FOLDER/NAME.GPU.log. Each GPU has its
share of the processor's cores, which its commands keep to: an engine that starts compiles on every core that it sees,
and slows another one down. A command that went well is not begun again by the next call. Nothing more is begun once
somebody makes a file FOLDER/stop.
"""

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Task", "main", "read_tasks"]

_PLACES = ("any", "each", "all")


@dataclass(frozen=True)
class Task:
    """One line of the list."""

    name: str
    where: str
    command: str


def read_tasks(text: str) -> list[Task]:
    """The tasks of a list.

    Raises:
        ValueError: a line is none.
    """
    tasks: list[Task] = []
    for number, line in enumerate(text.splitlines(), start=1):
        parts = line.split(None, 2)
        if not parts or line.lstrip().startswith("#"):
            continue
        if len(parts) < 3 or parts[1] not in _PLACES:
            raise ValueError(f"line {number}: expected NAME {'|'.join(_PLACES)} COMMAND, found {line[:60]!r}")
        if parts[0] in {task.name for task in tasks} or "/" in parts[0]:
            raise ValueError(f"line {number}: the name {parts[0]} is taken, or is none of a file; choose another")
        tasks.append(Task(*parts))
    return tasks


@dataclass
class _Queue:
    folder: Path
    gpus: int
    waiting: list[Task]
    failed: list[str] = field(default_factory=list[str])
    busy: int = 0
    alone: bool = False
    begun: set[int] = field(default_factory=set[int])
    changed: threading.Condition = field(default_factory=threading.Condition)

    def run(self) -> None:
        """Everything, with a thread for each GPU."""
        threads = [threading.Thread(target=self._work, args=(gpu,)) for gpu in range(self.gpus)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except KeyboardInterrupt:
            with self.changed:
                self.waiting.clear()
            raise

    def _work(self, gpu: int) -> None:
        while (task := self._next(gpu)) is not None:
            begin = time.monotonic()
            everywhere = task.where == "all"
            try:
                status = self._carry_out(task, range(self.gpus) if everywhere else (gpu,))
                told = "done" if status == 0 else f"exit status {status}, see its log"
            except OSError as error:
                status, told = 1, str(error)
            with self.changed:
                where = "all" if everywhere else gpu
                sys.stdout.write(f"{task.name} on {where}: {time.monotonic() - begin:.0f} s, {told}\n")
                sys.stdout.flush()
                self.busy -= 1
                self.alone = self.alone and not everywhere
                if status:
                    self.failed.append(task.name)
                self.changed.notify_all()

    def _next(self, gpu: int) -> Task | None:
        """What this GPU is to do; waits where others must end first."""
        with self.changed:
            while self.waiting and not (self.folder / "stop").exists():
                task = self.waiting[0]
                if not (self.alone or gpu in self.begun or (task.where == "all" and self.busy)):
                    self.begun.add(gpu)
                    if task.where != "each" or len(self.begun) == self.gpus:
                        self.waiting.pop(0)
                        self.begun.clear()
                    self.busy += 1
                    self.alone = task.where == "all"
                    return task
                self.changed.wait(1.0)
            return None

    def _carry_out(self, task: Task, gpus: Sequence[int]) -> int:
        done = self.folder / (f"{task.name}.{gpus[0]}.done" if task.where == "each" else f"{task.name}.done")
        if done.exists():
            return 0
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus)), "OUT": str(self.folder)}
        cores = {core for gpu in gpus for core in _share(gpu, self.gpus)}
        name = f"{task.name}.{'all' if task.where == 'all' else gpus[0]}.log"
        with (self.folder / name).open("w") as log:
            process = subprocess.Popen(
                ["bash", "-c", task.command], env=environment, stdout=log, stderr=subprocess.STDOUT
            )
            os.sched_setaffinity(process.pid, cores)
            status = process.wait()
        if status == 0:
            done.touch()
        return status


def _share(gpu: int, gpus: int) -> list[int]:
    """Cores of one GPU, as many as of any other; all of them where there are fewer cores than GPUs."""
    cores = sorted(os.sched_getaffinity(0))
    each = len(cores) // gpus
    return cores[gpu * each : (gpu + 1) * each] or cores


def main(argv: list[str] | None = None) -> int:
    """Carry out the list; 1 if a command failed, 2 if the list or the folder cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gpus", type=int, help="how many there are (default: as nvidia-smi lists them)")
    options = parser.parse_args(argv)
    try:
        tasks = read_tasks(options.tasks.read_text())
        gpus = options.gpus or len(subprocess.check_output(["nvidia-smi", "-L"], text=True).splitlines())
        options.folder.mkdir(parents=True, exist_ok=True)
        (options.folder / "stop").unlink(missing_ok=True)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"gpu_queue: {error}\n")
        return 2
    queue = _Queue(options.folder.resolve(), gpus, tasks)
    queue.run()
    return 1 if queue.failed else 0


if __name__ == "__main__":
    sys.exit(main())
