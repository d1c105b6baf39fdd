"""Witnesses confirm what capture derives, and refute what is planted wrong, with the module it is in."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import sympy

from dooly.capture import Options, Parallel, capture
from dooly.ir import Graph, Op, Value, attributes, symbol
from dooly.provenance import Report, verify_provenance

pytestmark = pytest.mark.engine


@cache
def captured(model: str, tp: int = 1) -> Graph:
    return capture(model, tp=tp)


@cache
def verified(model: str, tp: int = 1) -> Report:
    (report,) = verify_provenance(model, Options(Parallel(tp)), graphs=(captured(model, tp),))
    return report


@pytest.mark.parametrize(
    ("model", "tp"), [("llama-3.1-8b", 4), ("llama-3.1-8b", 8), ("mixtral-8x7b", 16), ("qwen3-8b", 1)]
)
def test_every_dimension_is_derived_and_confirmed(model: str, tp: int) -> None:
    report = verified(model, tp)
    assert [str(each) for each in report.counterexamples] == []
    assert report.dimensions == report.derived == report.confirmed > 150
    assert report.claims == report.claims_confirmed > report.dimensions
    assert report.holds


def test_witnesses_change_every_symbol_at_once() -> None:
    report = verified("mixtral-8x7b", 16)
    own, *others = report.witnesses
    assert own["T"] > 0
    assert len(others) == 4
    assert report.fixed == ()
    for values in others:
        assert not [name for name in values.keys() - {"Nl"} if values[name] == own[name]]
        assert len({values[name] for name in values.keys() - {"Nl"}}) == len(values) - 1
        assert values["Nkv"] < values["TP"]
        assert values["V"] % 64


def refuted(model: str | Path, graph: Graph | None = None) -> list[str]:
    (report,) = verify_provenance(model, graphs=None if graph is None else (graph,), count=2)
    assert not report.holds
    return [str(each) for each in report.counterexamples]


def changed(graph: Graph, path: str, target: str, change: Callable[[Op], Op]) -> Graph:
    """The graph with one operation changed."""
    place = next(i for i, op in enumerate(graph.ops) if (op.path, op.target) == (path, target))
    return replace(graph, ops=(*graph.ops[:place], change(graph.ops[place]), *graph.ops[place + 1 :]))


def with_shape(*shape: Any) -> Callable[[Op], Op]:
    def change(op: Op) -> Op:
        (value,) = op.results
        return replace(
            op, results=(Value(value.name, replace(value.type, shape=tuple(sympy.S(dim) for dim in shape))),)
        )

    return change


QWEN3_MOE = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
}
"""There are 64 experts, and a head has 64 pairs of features."""


def test_two_sizes_of_one_value_that_became_one_symbol_are_caught(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By default PyTorch gives equal sizes one symbol: the duck shaping that value-based labels suffer from too."""
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    from dooly.capture import trace

    (tmp_path / "config.json").write_text(json.dumps(QWEN3_MOE), encoding="utf-8")
    assert verify_provenance(tmp_path, count=1)[0].holds
    monkeypatch.setattr(trace, "ShapeEnv", lambda **_: ShapeEnv(duck_shape=True, specialize_zero_one=False))
    found = refuted(tmp_path)
    assert any(re.match(r"model\.layers\.0\.mlp\.\S+: \S+: dimension \d of .* claimed .*D/2", each) for each in found)


def test_a_size_that_lost_its_symbol_is_caught() -> None:
    path = "model.layers.1.mlp.gate_up_proj.weight"
    wrong = changed(captured("tiny-llama"), path, "weight", with_shape(2 * symbol("I"), 512))
    first = refuted("tiny-llama", graph=wrong)[0]
    assert first.startswith(f"{path}: weight: dimension 1 of result 0: claimed 512, predicted 512, found ")
    assert "H = " in first


def test_a_forgotten_floor_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from dooly.capture.configint import ConfigInt, expression

    def exact(self: ConfigInt, dividend: int, divisor: int) -> ConfigInt:
        above, below = expression(dividend), expression(divisor)
        return ConfigInt(int(dividend) // int(divisor), above / below, self.facts)

    monkeypatch.setattr(ConfigInt, "_floordiv", exact)
    first = refuted("tiny-llama")[0]
    claim = "model.embed_tokens.weight: weight: dimension 0 of result 0: claimed V + 126, predicted 8318, found 8192"
    assert first.startswith(claim)


def test_two_fields_with_one_symbol_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from dooly.capture import build, config

    fields = {**config.FIELDS, "num_key_value_heads": "Nq"}
    monkeypatch.setattr(build, "FIELDS", fields)
    assert any(each.startswith("model.layers.0.self_attn.qkv_proj") for each in refuted("llama-3.1-8b"))


def test_a_wrong_shape_rule_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """annotate-shapes rewrites floor divisions; taking one for exact that is not changes a dimension."""
    from dooly.passes import annotate_shapes

    monkeypatch.setattr(annotate_shapes, "floor_div", lambda above, below, facts: above / below)
    first = refuted("tiny-llama")[0]
    assert "embed_tokens" in first or "lm_head" in first or "logits_processor" in first
    assert "V + 63" in first


def planted(monkeypatch: pytest.MonkeyPatch, name: str, mistake: Callable[[Op], Op]) -> None:
    """Make one rule of canonicalize wrong."""
    from dooly.passes import canonicalize

    def wrong(rule: Any) -> Any:
        def apply(op: Op, context: Any) -> Any:
            result = rule(op, context)
            return mistake(result) if isinstance(result, Op) and result != op else result

        return apply

    rules = tuple(wrong(rule) if rule.__name__ == name else rule for rule in canonicalize.RULES)
    monkeypatch.setattr(canonicalize, "RULES", rules)


def test_a_wrong_rule_of_canonicalize_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def rows_twice(op: Op) -> Op:
        return replace(op, operands=(op.operands[0], op.operands[0])) if op.target == "linear" else op

    planted(monkeypatch, "transposed_weight", rows_twice)
    found = refuted("tiny-llama")
    assert any(each.startswith("model.layers.0.self_attn.qkv_proj: linear: ") for each in found)


def test_a_slice_that_starts_elsewhere_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    one = sympy.Integer(1)
    planted(monkeypatch, "slice_", lambda op: replace(op, attrs=attributes(**{**dict(op.attrs), "start": one})))
    assert any("slice: attribute start: claimed 1, predicted 1, found 0" in each for each in refuted("tiny-llama"))


def test_a_wrong_attribute_of_an_owner_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from dooly.capture import opaque_modules

    describe = opaque_modules._DESCRIBE["attention"]

    def wrong(module: Any, names: Mapping[int, str]) -> dict[str, object]:
        said = describe(module, names)
        return {**said, "kv_heads": said["heads"]}

    monkeypatch.setattr(opaque_modules, "_DESCRIBE", {**opaque_modules._DESCRIBE, "attention": wrong})
    first = refuted("tiny-llama")[0]
    assert first.startswith(
        "model.layers.0.self_attn.attn: attention: attribute kv_heads: claimed Nq, predicted 8, found 4"
    )


def test_a_wrong_number_of_layers_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = captured("tiny-llama")
    wrong = replace(graph, ops=tuple(replace(op, count=symbol("Nl")) if op.count != 1 else op for op in graph.ops))
    first = refuted("tiny-llama", graph=wrong)[0]
    assert first.startswith("model.layers.0.self_attn.qkv_proj.weight: weight: count of this operation: claimed 1 + Nl")


def test_an_operation_too_many_and_one_too_few_are_caught() -> None:
    graph = captured("tiny-llama")
    path = "model.layers.0.mlp.act_fn"
    silu = next(op for op in graph.ops if (op.path, op.target) == (path, "aten.silu"))
    twice = replace(silu, results=(replace(silu.results[0], name="again"),), nodes=())
    more = replace(graph, ops=(*graph.ops, twice))
    assert refuted("tiny-llama", graph=more)[0].startswith(f"{path}: aten.silu: operation: claimed aten.silu")
    other = changed(graph, path, "aten.silu", lambda op: replace(op, target="aten.gelu"))
    assert refuted("tiny-llama", graph=other)[0].startswith(f"{path}: aten.gelu: operation: ")


def test_the_command_says_what_is_refuted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from dooly.capture import opaque_modules
    from dooly.cli import main

    arguments = ["verify-provenance", "tiny-llama", "--witnesses", "1", "--json"]
    assert main(arguments) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert report["holds"]
    assert report["dimensions"] == report["confirmed"]
    monkeypatch.setattr(opaque_modules, "size_of", lambda value: 3)
    assert main(arguments) == 1
    assert "refuted: model.layers.0.self_attn.attn: attention: attribute head_size" in capsys.readouterr().err
    assert main(["verify-provenance", "no-such-model"]) == 2
