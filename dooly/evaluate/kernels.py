"""Which operation of the IR each kernel of a real step belongs to, by the kernel's name.

A profiler names kernels, not operations.  The names of the libraries that an operation's work ends up in are few and
stable, so a short list of patterns suffices; what none of them knows is reported as unattributed, never guessed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from dooly.batch import Batch, StepCost
from dooly.evaluate.steps import EngineStep
from dooly.ir import Kind, Operation
from dooly.predict import StepModel, Work

__all__ = ["ROLES", "Role", "RoleTime", "account", "kernel_role", "operation_role", "predicted_us", "recorded_cost"]

Role = Literal["gemm", "attention", "moe", "region", "collective", "sampling", "input", "unattributed"]

_PATTERNS: tuple[tuple[Role, str], ...] = (
    ("collective", r"nccl|cross_device_reduce|all_?reduce|all_?gather|reduce_?scatter|multimem"),
    ("moe", r"moe|topk_?(gating|softmax|sigmoid)|act_and_mul_kernel|expert|grouped_?gemm"),
    # FlashAttention (kernels, combining of splits, its scheduler and the counters that it clears in each layer), the
    # engine's Triton attention, FlashInfer, latent attention, and writing the KV cache.
    ("attention", r"flash|prepare_varlen|reshape_and_cache|concat_and_cache|FillFunctor<int>"),
    ("attention", r"unified_attention|reduce_segments|merge_?(attn_)?states|PagedKVCache|Persistent.*Merge|fmha|mla"),
    ("sampling", r"gumbel|argmax|_scatter_gather_|topp|top_p|softmax|sample_recovered"),
    # cuBLAS and CUTLASS, summing up their split products, and the counters that they clear before a launch.
    ("gemm", r"nvjet|gemm|cutlass|splitk|gemv|cublas|xmma|dot_kernel|^Memset"),
    # Compiled regions; the rows whose logits are wanted (an index over 16-bit elements).
    ("region", r"^triton_|rms_?norm|rotary|silu_and_mul|gelu_and_mul|gpu_index_kernel.*OpaqueType<2>"),
    # The engine's model runner: tables, positions, tokens of the last step; copies; small indexing of integers.
    ("input", r"^_(apply_write|combine_sampled|compute_slot|gather_block|get_num|post_update|prepare_|expand|update_)"),
    ("input", r"^memcpy|arange|gpu_index_kernel.*OpaqueType<[48]>|vectorized_gather_kernel"),
)
_COMPILED: tuple[tuple[Role, re.Pattern[str]], ...] = tuple(
    (role, re.compile(pattern, re.IGNORECASE)) for role, pattern in _PATTERNS
)

ROLES: tuple[Role, ...] = ("gemm", "attention", "moe", "region", "collective", "sampling", "input", "unattributed")

_KINDS: Mapping[Kind, Role] = {
    Kind.GEMM: "gemm",
    Kind.ATTENTION: "attention",
    Kind.RECURRENT: "attention",
    Kind.MOE: "moe",
    Kind.COLLECTIVE: "collective",
}


def kernel_role(name: str) -> Role:
    """Return a kernel's part: a kind of operation, sampling, the engine's preparation of inputs, or nothing known.

    >>> kernel_role("nvjet_sm90_tst_128x8_64x12_2x1_v_bz_TNT"), kernel_role("Memcpy HtoD (Pinned -> Device)")
    ('gemm', 'input')
    """
    for role, pattern in _COMPILED:
        if pattern.search(name):
            return role
    return "unattributed"


def operation_role(operation: Operation) -> Role:
    """The role of the kernels that an operation launches; the choice of a token is sampling."""
    if operation.body is not None and any(op.target == "argmax" for op in operation.body.ops):
        return "sampling"
    return _KINDS.get(operation.kind, "region")


@dataclass(frozen=True)
class RoleTime:
    """GPU time of one role in one step.

    Attributes:
        launches: kernels launched.
        operations: of the IR, each as often as it runs.
        measured_us: of the kernels.
        predicted_us: sum of the operations' latencies; 0 for what is no operation of the IR.
    """

    role: Role
    launches: int
    operations: int
    measured_us: float
    predicted_us: float


def predicted_us(work: Work, batch: Batch, padded: int) -> float:
    """GPU time of all runs of one operation in a step; all but attention works on as many tokens as are computed."""
    values: dict[str, float] = {**batch.attention(work.subject.window), "L": batch.logits}
    if not work.operation.kind.stateful:
        values["T"] = padded
    return work.alone_us(values)[0]


def recorded_cost(model: StepModel, batch: Batch, padded: int) -> StepCost:
    """Cost of a step that was padded to so many tokens; as `StepModel.step_time`, whatever that would pad it to."""
    work_us = sum(predicted_us(work, batch, padded) for work in model.work)
    device, limited = model.limited(work_us, batch)
    cost = model.step_time(batch)._replace(device_us=device, work_us=limited)
    return cost._replace(total_us=cost.host_before_us + cost.span_us(idle=True) + cost.host_after_us)


def account(step: EngineStep, model: StepModel | None) -> tuple[RoleTime, ...]:
    """Kernels of a profiled step by role, beside what the model's operations are predicted to take.

    Where the GPU's power limit makes the step longer, it does so to all of them alike.
    """
    works = model.work if model else ()
    launches: dict[Role, int] = dict.fromkeys(ROLES, 0)
    measured: dict[Role, float] = dict.fromkeys(ROLES, 0.0)
    for kernel in step.kernels:
        role = kernel_role(kernel.name)
        launches[role] += kernel.count
        measured[role] += kernel.us
    operations: dict[Role, int] = dict.fromkeys(ROLES, 0)
    predicted: dict[Role, float] = dict.fromkeys(ROLES, 0.0)
    for work in works:
        role = operation_role(work.operation)
        operations[role] += work.count
        predicted[role] += predicted_us(work, step.batch, step.padded)
    work_us, longer = sum(predicted.values()), 1.0
    if model and work_us:
        longer = model.limited(work_us, step.batch)[0] / work_us
    return tuple(
        RoleTime(role, launches[role], operations[role], measured[role], longer * predicted[role])
        for role in ROLES
        if launches[role] or operations[role]
    )
