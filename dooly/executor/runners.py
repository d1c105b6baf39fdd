"""Which runner measures which operation, and why some cannot be measured here."""

from collections.abc import Mapping

from dooly.executor.attention import AttentionRunner
from dooly.executor.linear import LinearRunner
from dooly.executor.moe import MoeRunner
from dooly.executor.region import RegionRunner
from dooly.executor.runner import Runner
from dooly.executor.session import Session, Unsupported
from dooly.ir import Kind, Operation

__all__ = ["make_runner", "why_not"]

_RUNNERS: Mapping[Kind, type[LinearRunner] | type[RegionRunner] | type[AttentionRunner] | type[MoeRunner]] = {
    Kind.GEMM: LinearRunner,
    Kind.REGION: RegionRunner,
    Kind.MEMORY: RegionRunner,
    Kind.ATTENTION: AttentionRunner,
    Kind.MOE: MoeRunner,
}


def why_not(operation: Operation) -> str | None:
    """Why no runner here can measure this operation; None if one can."""
    if operation.target == "matmul":
        return "a product with an untransposed weight; the engine's linear layers have none"
    if operation.target == "scaled_linear":
        return "a product of quantized matrices; only unquantized ones are measured yet"
    if operation.target == "mla_attention":
        return "latent attention; no runner drives the engine's latent backends yet"
    dispatched = any(operand.dtype == "i32" for operand in operation.operands)  # ids of experts, chosen elsewhere
    if operation.target == "moe" and (dispatched or operation.attr("local_experts") is not None):
        return "experts of one rank of several; they need the tokens of real ranks"
    unmeasured = [name for name in ("correction_bias", "groups") if operation.attr(name) is not None]
    if operation.target == "moe" and unmeasured:
        return f"experts with {', '.join(unmeasured)}; only plain ones are measured yet"
    if operation.kind in _RUNNERS:
        return None
    if operation.kind is Kind.COLLECTIVE:
        return "a collective needs real ranks; one process on one CPU has none"
    return f"no runner for {operation.target}"


def make_runner(operation: Operation, session: Session) -> Runner:
    """Build the runner with its weights.

    Raises:
        Unsupported: nothing can run this operation here.
        MemoryError: it does not fit.
    """
    reason = why_not(operation)
    if reason is not None:
        raise Unsupported(reason)
    return _RUNNERS[operation.kind](operation, session)
