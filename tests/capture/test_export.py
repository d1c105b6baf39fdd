"""The frontend through torch.export: modules written by hand and those of transformers, with every size a symbol."""

import re
from functools import cache

import pytest
import torch

from dooly.capture import check, export_checked, resolve_model
from dooly.capture.export import export_module
from dooly.capture.options import Options
from dooly.errors import CaptureError
from dooly.ir import Graph, Kind, Program, evaluate, format_graph, symbols_of, verify_graph
from dooly.passes import PIPELINE, run
from dooly.passes.__main__ import main

pytestmark = pytest.mark.engine


class Block(torch.nn.Module):
    """A decoder layer as one might write it."""

    def __init__(self, hidden: int, inner: int, heads: int) -> None:
        super().__init__()
        assert hidden % heads == 0
        self.heads, self.size = heads, hidden // heads
        self.norm = torch.nn.LayerNorm(hidden)
        self.qkv, self.o = torch.nn.Linear(hidden, 3 * hidden), torch.nn.Linear(hidden, hidden)
        self.up, self.down = torch.nn.Linear(hidden, inner, bias=False), torch.nn.Linear(inner, hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        qkv = self.qkv(self.norm(x)).view(x.shape[0], 3, self.heads, self.size)
        q, k, v = qkv.permute(1, 2, 0, 3).unbind(0)
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(mixed.transpose(0, 1).reshape(x.shape[0], self.heads * self.size))
        return x + self.down(torch.nn.functional.silu(self.up(x)))


@cache
def block(hidden: int = 512, inner: int = 512, heads: int = 8) -> Graph:
    config = {"H": hidden, "I": inner, "N": heads}
    return export_module("block", lambda c: Block(c["H"], c["I"], c["N"]), config, {"x": ("f32", ("T", "H"))})


@cache
def transformer(model: str) -> Graph:
    return export_checked(*check(model, Options()))


def shapes(graph: Graph) -> dict[str, str]:
    """Shape of what each module's product gives."""
    return {op.path: str(op.results[0].type.shape) for op in graph.ops if op.target == "aten.linear"}


def test_sizes_of_a_module_are_symbols_even_where_two_are_equal() -> None:
    graph = block()
    verify_graph(graph)
    assert graph.config_values == {"H": 512, "I": 512, "N": 8}
    assert graph.request == ("T",)
    assert shapes(graph) == {"qkv": "(T, 3*H)", "o": "(T, H)", "up": "(T, I)", "down": "(T, H)"}
    attention = next(op for op in graph.ops if op.target == "aten.scaled_dot_product_attention")
    assert str(attention.results[0].type.shape) == "(N, T, H/N)"
    assert [(str(fact.divisor), str(fact.dividend)) for fact in graph.facts] == [("N", "H")]


def test_another_configuration_gives_the_same_text() -> None:
    one, two = (re.sub(r"config .*", "", format_graph(graph)) for graph in (block(), block(768, 1536, 12)))
    assert one == two


def test_sizes_are_those_of_the_module_run_in_plain_numbers() -> None:
    """A witness: 23 tokens through the module as it is, every module's result beside its expression."""
    values = {"H": 96, "I": 200, "N": 6, "T": 23}
    found: dict[str, tuple[int, ...]] = {}
    module = Block(96, 200, 6)
    for name, child in module.named_children():
        child.register_forward_hook(lambda *_, name=name: found.update({name: tuple(_[-1].shape)}))
    assert module(torch.zeros(23, 96)).shape == (23, 96)
    claimed = {op.path: op for op in block().ops if op.path in found}
    assert claimed.keys() == found.keys()
    for path, op in claimed.items():
        assert tuple(evaluate(dim, values) for dim in op.results[0].type.shape) == found[path], path


def test_a_size_that_the_module_fixes_is_an_error() -> None:
    def fixed(c):
        return torch.nn.Linear(int(c["H"]), c["I"])

    with pytest.raises(CaptureError, match="cannot be exported"):
        export_module("fixed", fixed, {"H": 64, "I": 96}, {"x": ("f32", ("T", "H"))})


PARAMETERS = {"llama-3.1-8b": 8_030_261_248, "qwen3-8b": 8_190_735_360}


@pytest.mark.parametrize("model", PARAMETERS)
def test_parameters_of_transformers_are_the_published_ones(model: str) -> None:
    graph = transformer(model)
    weights = [op for op in graph.ops if op.target == "weight" and op.path.endswith("weight")]
    total = sum(evaluate(op.count * op.results[0].type.numel, graph.config_values) for op in weights)
    assert total == PARAMETERS[model]
    assert all(symbols_of(dim) for op in weights for dim in op.results[0].type.shape)


@pytest.mark.parametrize("model", PARAMETERS)
def test_a_transformer_goes_through_all_passes_and_nothing_is_unknown(model: str) -> None:
    program = run(Program((transformer(model),)), PIPELINE)
    verify_graph(program.graphs[0])
    assert [operation.target for operation in program.operations if operation.kind is Kind.UNKNOWN] == []
    values = {**program.graphs[0].config_values, "T": 1000, "L": 1000}
    flops = sum(evaluate(operation.flops, values) * operation.count for operation in program.operations)
    _, config = resolve_model(model)
    embedding = config["vocab_size"] * config["hidden_size"]
    attention = 4 * config["num_attention_heads"] * config["head_dim"] * 500_500 * config["num_hidden_layers"]
    assert flops == pytest.approx(2 * 1000 * (PARAMETERS[model] - embedding) + attention, rel=0.01)


def test_models_of_a_family_have_one_text() -> None:
    def body(graph: Graph) -> str:
        return re.sub(r'graph ".*|config .*|scale = [0-9.e-]+', "", format_graph(graph))

    assert body(transformer("llama-3.1-8b")) == body(transformer("llama-3.1-70b"))


def test_the_command_line_exports(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--frontend", "export", "tiny-llama", "-p", "annotate-shapes,propagate-taint"]) == 0
    assert "aten.linear" in capsys.readouterr().out
    assert main(["--frontend", "export", "tiny-llama", "--tp", "2"]) == 2
    assert "--frontend export has no engine" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("gemma-2-9b", r"Gemma2Attention has a (sliding_window|softcap), .*; --frontend export takes dense models"),
        ("mixtral-8x7b", "mixtral-8x7b: transformers runs experts in a loop over them"),
        ("deepseek-v2-lite", "deepseek-v2-lite: transformers runs experts in a loop over them"),
        ("mamba2-2.7b", "mamba2-2.7b: transformers writes recurrent layers out chunk by chunk"),
    ],
)
def test_what_has_no_graph_over_symbols_is_refused(model: str, reason: str) -> None:
    with pytest.raises(CaptureError, match=reason):
        transformer(model)


def test_a_module_that_loops_over_a_size_says_which() -> None:
    class Loop(torch.nn.Module):
        def __init__(self, experts: int, hidden: int) -> None:
            super().__init__()
            self.experts, self.weight = experts, torch.nn.Parameter(torch.empty(hidden, hidden))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(self.experts):
                x = torch.nn.functional.linear(x, self.weight)
            return x

    with pytest.raises(CaptureError, match=r"loop: the module cannot be exported: its code takes E as plain numbers"):
        export_module("loop", lambda c: Loop(c["E"], c["H"]), {"E": 4, "H": 64}, {"x": ("f32", ("T", "H"))})
