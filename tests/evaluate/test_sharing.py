"""Shares between models, and the picture of them."""

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dooly.evaluate.sharing import Sharing, heat_map
from dooly.ir import parse_program
from dooly.passes import PIPELINE, run

MODELS = """graph "NAME" {
  config H = 64, I = WIDE
  request T
  captured 0
  %x = input() : bf16[T, H] at "x"
  %w = weight() : bf16[I, H] at "up.weight"
  %v = weight() : bf16[H, I] at "down.weight"
  %y = linear(%x, %w) : bf16[T, I] at "up"
  %s = silu(%y) : bf16[T, I] at "act"
  %z = linear(%s, %v) : bf16[T, H] at "down"
  return %z
}
"""


def text(name: str, wide: int) -> str:
    return MODELS.replace("NAME", name).replace("WIDE", str(wide))


def test_shares_follow_the_operation_table():
    program = run(parse_program(text("a", 96) + text("b", 96) + text("c", 128)), PIPELINE)
    sharing = Sharing.of(program.operations, ("a", "b", "c"), lambda operation: 1.0)
    assert sharing.matrix() == ((1.0, 1.0, 0.0), (1.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    assert sharing.adds("a") == 0.0
    assert sharing.adds("c") == 3.0
    assert (sharing.apart(), sharing.together()) == (9.0, 6.0)


weights = st.dictionaries(
    st.sampled_from("abc"), st.dictionaries(st.sampled_from("uvwxyz"), st.floats(0.5, 100.0), min_size=1), min_size=1
)


@given(weights)
def test_shares_are_parts_and_more_models_share_no_less(by_model):
    sharing = Sharing(by_model)
    for row, model in zip(sharing.matrix(), sharing.models, strict=True):
        assert row[sharing.models.index(model)] == 1.0
        assert all(0.0 <= share <= 1.0 for share in row)
        assert sharing.share(model, sharing.others(model)) >= max([*row[: sharing.models.index(model)], 0.0])
        assert 0.0 <= sharing.adds(model) <= sum(by_model[model].values()) * (1 + 1e-12)
    assert sharing.together() <= sharing.apart() * (1 + 1e-12)


def test_a_model_without_work_shares_nothing():
    assert Sharing({"a": {}, "b": {"x": 1.0}}).matrix() == ((0.0, 0.0), (0.0, 1.0))


def test_the_heat_map_is_a_picture_with_every_share_and_name():
    picture = ET.fromstring(heat_map("shares of <work>", ["a & b", "c"], [[1.0, 0.25], [0.0, 1.0]]))
    words = [element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert words.count("a & b") == words.count("c") == 2
    assert [word for word in words if word.isdigit()] == ["100", "25", "0", "100"]
    assert "shares of <work>" in words


def test_a_matrix_that_fits_no_names_is_refused():
    with pytest.raises(ValueError, match="2 names needs as many rows"):
        heat_map("x", ["a", "b"], [[1.0, 0.0]])
