"""Small checkpoints' configurations in each quantization that the engine takes, without weights."""

import json
from pathlib import Path
from typing import Any

__all__ = ["DENSE", "MIXTURES", "write"]

_LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 2048,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "vocab_size": 4096,
    "max_position_embeddings": 4096,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
_MIXTURE: dict[str, Any] = {
    **_LLAMA,
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "num_experts": 16,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 512,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
}
_GPT_OSS: dict[str, Any] = {
    **_LLAMA,
    "architectures": ["GptOssForCausalLM"],
    "model_type": "gpt_oss",
    "head_dim": 64,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "sliding_window": 128,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
_BLOCK = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128], "fmt": "e4m3"}


def _tensors(weights: dict[str, Any], activations: dict[str, Any] | None, form: str, **more: Any) -> dict[str, Any]:
    """What compressed-tensors says of one group of layers."""
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        **more,
    }


def _numbers(bits: int, kind: str, strategy: str, *, dynamic: Any = False, group: int | None = None) -> dict[str, Any]:
    return {
        "num_bits": bits,
        "type": kind,
        "strategy": strategy,
        "dynamic": dynamic,
        "symmetric": True,
        "group_size": group,
    }


_CACHE = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False, "symmetric": True}
_TOKEN = _numbers(8, "float", "token", dynamic=True)
_MODELOPT = {"quant_method": "modelopt", "ignore": ["lm_head"], "producer": {"name": "modelopt", "version": "0.29"}}

DENSE: dict[str, dict[str, Any] | None] = {
    "plain": None,
    "fp8-dynamic": {"quant_method": "fp8", "activation_scheme": "dynamic"},
    "fp8-static": {"quant_method": "fp8", "activation_scheme": "static"},
    "fp8-block": _BLOCK,
    "ct-fp8-dynamic": _tensors(_numbers(8, "float", "channel"), _TOKEN, "float-quantized"),
    "ct-fp8-static": _tensors(
        _numbers(8, "float", "tensor"), _numbers(8, "float", "tensor"), "float-quantized", kv_cache_scheme=_CACHE
    ),
    "ct-int8": _tensors(_numbers(8, "int", "channel"), _numbers(8, "int", "token", dynamic=True), "int-quantized"),
    "ct-w4a16": _tensors(_numbers(4, "int", "group", group=128), None, "pack-quantized"),
    "ct-nvfp4": _tensors(
        _numbers(4, "float", "tensor_group", group=16),
        _numbers(4, "float", "tensor_group", dynamic="local", group=16),
        "nvfp4-pack-quantized",
    ),
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True, "lm_head": False},
    "fbgemm": {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0, "modules_to_not_convert": ["lm_head"]},
    "modelopt-fp8": {**_MODELOPT, "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"},
    "modelopt-nvfp4": {**_MODELOPT, "quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "group_size": 16},
}
"""What the config.json of a dense model says; None for weights of the model's own type."""

MIXTURES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "experts-plain": (_MIXTURE, {}),
    "experts-fp8-block": (_MIXTURE, _BLOCK),
    "experts-nvfp4": (_MIXTURE, DENSE["modelopt-nvfp4"] or {}),
    "experts-mxfp4": (
        _GPT_OSS,
        {
            "quant_method": "mxfp4",
            "modules_to_not_convert": [
                "model.layers.*.self_attn",
                "model.layers.*.mlp.router",
                "model.embed_tokens",
                "lm_head",
            ],
        },
    ),
}
"""Models with experts, and what their config.json says."""


def write(folder: Path) -> dict[str, Path]:
    """A folder with a config.json for each, by name; one more says it as older ModelOpt does, in a file of its own."""
    said = {name: (_LLAMA, scheme or {}) for name, scheme in DENSE.items()} | MIXTURES
    for name, (model, scheme) in said.items():
        (folder / name).mkdir()
        config = {**model, **({"quantization_config": scheme} if scheme else {})}
        (folder / name / "config.json").write_text(json.dumps(config))
    beside = folder / "modelopt-fp8-beside"
    beside.mkdir()
    (beside / "config.json").write_text(json.dumps(_LLAMA))
    about = {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}
    own = {"producer": {"name": "modelopt", "version": "0.23.0"}, "quantization": about}
    (beside / "hf_quant_config.json").write_text(json.dumps(own))
    return {path.name: path for path in sorted(folder.iterdir())}
