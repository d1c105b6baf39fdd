from dooly.batch import Batch
from dooly.fit import Observation, fit
from dooly.fit.format import equation, latex, line
from tests.fit import laws


def test_one_line_says_it_all() -> None:
    op = laws.linear(4096, 6144)
    law = laws.noisy(lambda v: 3.0 + max(laws.flops(op, v) / 600e6, laws.moved(op, v) / 2.5e6), 0.01, seed=1)
    formula = fit(op, laws.over_tokens(law))
    text = line(formula)
    assert "\n" not in text
    for part in (op.name, "max(", "TFLOP/s", "GB/s", "T 1..7462", "held-out", f"{len(laws.SIZES)} points"):
        assert part in text
    assert equation(formula) in text
    tflops, gbs = formula.achieved({"T": 7000.0})
    assert 500 < tflops < 650
    assert 100 < gbs < 2500


def test_latex_has_numbers_of_the_operation_and_names_of_the_parameters() -> None:
    op = laws.norm(4096)
    text = latex(fit(op, laws.over_tokens(lambda v: 2.0 + laws.moved(op, v) / 1e6)))
    assert text.startswith(r"t_{\mathrm{us}} = ")
    assert r"\mathrm{launch}" in text


def test_a_long_worst_point_is_told_in_brief() -> None:
    op = laws.attention()
    wide = [Batch.of(*[(1, 10 * i + j) for j in range(1, 20)]) for i in range(1, 9)]
    formula = fit(
        op, [Observation((), b, 5.0 + laws.moved(op, {k: float(v) for k, v in b.attention().items()})) for b in wide]
    )
    assert "a decode step (R=19, T=19, S=" in line(formula)


def test_expression_reads_as_sympy() -> None:
    op = laws.norm(4096)
    formula = fit(op, laws.over_tokens(lambda v: 2.0 + laws.moved(op, v) / 1e6))
    assert {str(s) for s in formula.expression.free_symbols} == {"T", "launch", "bandwidth"}
    assert {str(s) for s in formula.fitted.free_symbols} == {"T"}


def test_what_counts_for_some_batches_stands_behind_its_condition() -> None:
    op = laws.attention(backend="TRITON_ATTN")

    def law(values: dict[str, float]) -> float:
        return (20.0 if values["M"] else 6.0 if values["R"] <= 16 else 9.0) + laws.moved(op, values) / 2000e3

    many = [Batch.of(*[(1, cached)] * count) for count in (20, 40) for cached in (16, 128, 512)]
    text = equation(fit(op, laws.over_batches(law, [*laws.batches(), *many])))
    for start in ("*[6 + ", "*[9 + ", "M*[20 + "):
        assert start in text
    assert text.count("(1 - M)") == 2
    assert text.count("(1 - min(1, R//17))") == 1
