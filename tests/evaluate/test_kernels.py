"""Kernels by their names: each belongs to what launched it, and what nobody knows stays unattributed."""

from pathlib import Path

import pytest

from dooly.batch import Batch
from dooly.evaluate.kernels import ROLES, account, kernel_role, operation_role, predicted_us
from dooly.evaluate.steps import EngineStep, Kernel, load_steps
from dooly.fit import Observation, fit
from dooly.ir import Operation, TensorType, Use, parse_expr
from dooly.predict import StepModel, Work

SHIPPED = sorted((Path(__file__).resolve().parents[2] / "dooly" / "data" / "evaluation").glob("*-steps-*.json"))

NAMES = {
    "gemm": [
        "nvjet_sm90_tst_128x8_64x12_2x1_v_bz_splitK_TNT",
        "void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16, float>",
        "void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm_bf16_16x16_128x1_tn_align8>",
        "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize64x64x64",
        "void gemv2T_kernel_val<int, int, __nv_bfloat16>",
        "Memset (Device)",
    ],
    "attention": [
        "void cutlass::device_kernel<flash::FlashAttnFwdCombine<cute::tuple<cute::C<8>, cute::C<128> >, 5>",
        "void flash::prepare_varlen_num_blocks_kernel<1, false>(int, int)",
        "void vllm::reshape_and_cache_flash_kernel<__nv_bfloat16, __nv_bfloat16>",
        "kernel_unified_attention_2d",
        "reduce_segments",
        "void flashinfer::BatchDecodeWithPagedKVCacheKernel<>",
        "void flashinfer::PersistentVariableLengthMergeStatesKernel<8u, 16u>",
        "void vllm::concat_and_cache_mla_kernel<__nv_bfloat16>",
    ],
    "moe": [
        "fused_moe_kernel",
        "void vllm::moe::moe_align_block_size_kernel<int>",
        "void vllm::moe::topkGating<8, 128, 4, 16, 32, int>",
        "void vllm::act_and_mul_kernel<c10::BFloat16, silu>",
    ],
    "collective": [
        "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
        "void vllm::cross_device_reduce_1stage<__nv_bfloat16, 2>",
    ],
    "region": ["triton_red_fused_fused_add_rms_norm_2", "triton_poi_fused_mul_silu_slice_1"],
    "sampling": [
        "_gumbel_sample_kernel",
        "void at::native::reduce_kernel<512, 1, ReduceOp<float, ArgMaxOps<float> > >",
    ],
    "input": ["Memcpy HtoD (Pinned -> Device)", "_compute_slot_mappings_kernel", "memcpy32_post"],
    "unattributed": [
        "somebody_elses_kernel",
        "void at::native::vectorized_elementwise_kernel<4, CUDAFunctor_add<float> >",
    ],
}


@pytest.mark.parametrize(("role", "name"), [(role, name) for role, names in NAMES.items() for name in names])
def test_names_of_libraries_are_known(role: str, name: str) -> None:
    assert kernel_role(name) == role


def tensor(*dims: object, dtype: str = "bf16") -> TensorType:
    return TensorType(dtype, tuple(parse_expr(str(dim)) for dim in dims))


LINEAR = Operation("linear", (tensor("T", 64), tensor(32, 64)), (tensor("T", 32),), uses=(Use("m", "a", 2),))
POINTS = [Observation((("T", n),), None, 5.0 + 0.1 * n) for n in (1, 4, 16, 64, 256, 1024)]
WORK = Work(LINEAR, 2, (), fit(LINEAR, POINTS))


def test_a_step_is_divided_among_roles_and_nothing_is_lost() -> None:
    kernels = (Kernel("nvjet_a", 2, 20.0), Kernel("mystery", 3, 4.0), Kernel("Memcpy HtoD", 1, 1.0))
    step = EngineStep("decode-3", Batch.of((1, 5), (1, 5), (1, 5)), "FULL", 4, 90.0, 30.0, (), kernels)
    rows = {row.role: row for row in account(step, StepModel([WORK], None))}
    assert list(rows) == ["gemm", "input", "unattributed"]
    assert sum(row.measured_us for row in rows.values()) == step.kernels_us
    assert (rows["gemm"].launches, rows["gemm"].operations, rows["gemm"].measured_us) == (2, 2, 20.0)
    assert rows["gemm"].predicted_us == predicted_us(WORK, step.batch, 4) == pytest.approx(2 * 5.4, rel=0.1)
    assert (rows["unattributed"].measured_us, rows["unattributed"].predicted_us) == (4.0, 0.0)


def test_operations_have_the_role_of_their_kernels() -> None:
    assert operation_role(LINEAR) == "gemm"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_recorded_steps_are_attributed_to_the_last_percent(path: Path) -> None:
    for step in load_steps(path).profiled:
        rows = account(step, None)
        assert sum(row.measured_us for row in rows) == pytest.approx(step.kernels_us)
        unknown = sum(row.measured_us for row in rows if row.role == "unattributed")
        assert unknown < 0.01 * step.kernels_us, step.label
        assert {row.role for row in rows} <= set(ROLES)
