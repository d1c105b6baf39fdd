"""Which runner measures which operation, and why some cannot be measured here."""

from collections.abc import Callable, Mapping

from dooly.executor.runners.attention import AttentionRunner
from dooly.executor.runners.collective import CollectiveRunner, ranks_of
from dooly.executor.runners.latent import LatentRunner
from dooly.executor.runners.linear import LinearRunner
from dooly.executor.runners.moe import MoeRunner
from dooly.executor.runners.packed_linear import PackedLinearRunner
from dooly.executor.runners.region import RegionRunner
from dooly.executor.runners.scaled_linear import ScaledLinearRunner
from dooly.executor.session import Session, Unsupported
from dooly.executor.trial import Runner
from dooly.hardware.machine import Machine
from dooly.ir import Kind, Operation

__all__ = ["make_runner", "why_not"]

_RUNNERS: Mapping[Kind, Callable[[Operation, Session], Runner]] = {
    Kind.GEMM: LinearRunner,
    Kind.REGION: RegionRunner,
    Kind.MEMORY: RegionRunner,
    Kind.ATTENTION: AttentionRunner,
    Kind.MOE: MoeRunner,
    Kind.COLLECTIVE: CollectiveRunner,
}


_BY_TARGET: Mapping[str, Callable[[Operation, Session], Runner]] = {
    "mla_attention": LatentRunner,
    "packed_linear": PackedLinearRunner,
    "scaled_linear": ScaledLinearRunner,
}


def why_not(operation: Operation, machine: Machine) -> str | None:
    """Why no runner here can measure this operation on this machine; None if one can."""
    if operation.target == "matmul":
        return "a product with an untransposed weight; the engine's linear layers have none"
    if operation.target == "scaled_linear" and machine.torch_device == "cpu":
        return "a product of quantized matrices; the engine has kernels for it on GPUs"
    cache = operation.attr("kv_dtype")
    if cache not in (None, operation.results[0].dtype):
        return f"attention to a cache of {cache}; only caches of the model's own type are measured yet"
    dispatched = (
        operation.target == "moe" and operation.operands[2].dtype == "i32" and len(operation.operands[2].shape) == 2
    )
    if dispatched or (operation.target == "moe" and operation.attr("local_experts") is not None):
        return "experts of one rank of several; they need the tokens of real ranks"
    unmeasured = [name for name in ("correction_bias", "groups") if operation.attr(name) is not None]
    if operation.target == "moe" and unmeasured:
        return f"experts with {', '.join(unmeasured)}; only plain ones are measured yet"
    if operation.kind is Kind.COLLECTIVE:
        return _lacking(ranks_of(operation), machine)
    return None if operation.kind in _RUNNERS else f"no runner for {operation.target}"


def _lacking(ranks: int, machine: Machine) -> str | None:
    if ranks == 1:
        return "a collective over one rank does nothing"
    if ranks <= machine.devices:
        return None
    if machine.torch_device == "cuda":
        return f"a collective over {ranks} ranks needs as many GPUs; there are {machine.devices}"
    needed, way_out = ranks * machine.threads, "" if machine.threads == 1 else "; OMP_NUM_THREADS=1 asks for fewer"
    return f"a collective over {ranks} ranks of {machine.threads} threads needs {needed} processors{way_out}"


def make_runner(operation: Operation, session: Session) -> Runner:
    """Build the runner with its weights.

    Raises:
        Unsupported: nothing can run this operation here.
        MemoryError: it does not fit.
    """
    reason = why_not(operation, session.machine)
    if reason is not None:
        raise Unsupported(reason)
    return _BY_TARGET.get(operation.target, _RUNNERS[operation.kind])(operation, session)
