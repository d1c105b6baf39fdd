"""One rank: ``python -m dooly.executor.rank FD PARENT`` answers what `Ranks` of that process asks."""

import functools
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from dooly.database import Point
from dooly.engine.process import end_with
from dooly.executor.session import Place, Session, Unsupported, open_session
from dooly.executor.tensors import shape_of
from dooly.executor.timing.cpu import Peers, Precision
from dooly.executor.trial import Trial, is_out_of_memory
from dooly.hardware.gpu import Slowed
from dooly.ir import Operation
from dooly.ir.expr import Expr

__all__ = ["main"]

_MAPPED_BYTES = 16 << 20
"""Operands up to this size are kept: custom all-reduce, which takes less, has mapped them into the other ranks."""


def main(descriptor: int, parent: int) -> None:
    """Be a rank until the other side is gone."""
    end_with(parent)
    connection = Connection(descriptor)
    machine, rank, count, folder = connection.recv()
    if machine.torch_device == "cpu":
        _own_processors(rank, machine.threads)
    os.environ["VLLM_DIST_IDENT"] = os.path.basename(folder)  # by which ranks on a CPU find their shared memory
    with open_session(machine, Place(rank, count, f"{folder}/rendezvous")) as session:
        this = _Rank(session, rank, count)
        connection.send(rank)
        while True:
            try:
                operation, point, precision = connection.recv()
            except EOFError:
                return
            try:
                answer = this.answer(operation, point, precision)
            except (Unsupported, Slowed) as error:
                answer = error
            except Exception as error:  # whatever the engine throws is the result of this point
                kind = MemoryError if is_out_of_memory(error) else RuntimeError
                answer = kind(f"rank {rank}: {type(error).__name__}: {error}")
            connection.send(answer)


def _own_processors(rank: int, threads: int) -> None:
    """Each rank has processors of its own, as the engine binds them."""
    if hasattr(os, "sched_setaffinity"):
        usable = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, usable[rank * threads : (rank + 1) * threads] or usable)


class _Rank:
    """The state of one rank: the engine's groups by name."""

    def __init__(self, session: Session, rank: int, count: int) -> None:
        from vllm.distributed import parallel_state

        self._session, self._rank, self._count = session, rank, count
        self._groups: dict[str, Any] = {}
        self._kept: list[Any] = []
        parallel_state.set_custom_all_reduce(session.machine.fact("all_reduce") != "nccl")

    def answer(self, operation: Operation, point: Point, precision: Precision | None) -> Any:
        """Samples, or without a precision operands and result of one call."""
        group = self._group(str(operation.attr("group")))
        trial = self._trial(operation, point, group)
        if precision is not None:
            return self._session.measure(trial, precision, _peers(group))
        operands = tuple(map(_plain, trial.inputs))  # first: the engine sums in place on a CPU
        return operands, _plain(trial.call())

    def _group(self, name: str) -> Any:
        """The engine's group of all ranks; by its name it decides what may do the work."""
        from vllm.distributed import parallel_state

        if name not in self._groups:
            backend = "gloo" if self._session.device == "cpu" else "nccl"
            self._groups[name] = parallel_state.init_model_parallel_group(
                [list(range(self._count))], self._rank, backend, group_name=name
            )
        return self._groups[name]

    def _trial(self, operation: Operation, point: Point, group: Any) -> Trial:
        sizes = point.axes
        inputs = tuple(
            self._session.random(shape_of(type_, sizes), type_.dtype, self._rank) for type_ in operation.operands
        )
        self._kept += [tensor for tensor in inputs if tensor.nbytes <= _MAPPED_BYTES]
        dim = operation.attr("dim")
        along = int(dim) if isinstance(dim, Expr) else 0
        match operation.target:
            case "all_reduce":
                return Trial(functools.partial(group.all_reduce, *inputs), inputs)
            case "all_gather":
                return Trial(functools.partial(group.all_gather, *inputs, along), inputs)
            case "reduce_scatter":
                return Trial(functools.partial(group.reduce_scatter, *inputs, along), inputs)
            case "send" | "recv":
                result = operation.results[0]
                tensor = self._session.random(shape_of(result, sizes), result.dtype, self._rank)
                return Trial(functools.partial(self._hand_on, group, tensor), inputs, captured=False)
            case other:
                raise Unsupported(f"no runner for {other}")

    def _hand_on(self, group: Any, tensor: Any) -> Any:
        """The first rank sends, the second receives, as stages of the engine hand on their hidden states."""
        if group.rank_in_group == 0:
            for handle in group.isend_tensor_dict({"hidden_states": tensor}, dst=1):
                handle.wait()
            return tensor
        received, handles, _ = group.irecv_tensor_dict(src=0)
        for handle in handles:
            handle.wait()
        return received["hidden_states"]


def _plain(tensor: Any) -> Any:
    """The values as float64 of numpy: any element type fits, and it can be sent to another process."""
    return tensor.double().cpu().numpy()


def _peers(group: Any) -> Peers:
    import torch
    from torch.distributed import ReduceOp, all_reduce

    def slowest(values: list[float]) -> list[float]:
        times = torch.tensor(values, dtype=torch.float64)
        all_reduce(times, ReduceOp.MAX, group=group.cpu_group)
        return times.tolist()

    @contextmanager
    def capturing() -> Generator[None]:
        """Whatever the engine's communicators must know of a capture, e.g. to register the buffers in it."""
        from vllm.distributed.parallel_state import GraphCaptureContext

        with group.graph_capture(GraphCaptureContext(torch.cuda.current_stream())):
            yield

    return Peers(slowest, capturing)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
