"""Which columns a run reads follows from names and patterns, and what is wrong is pointed at."""

from __future__ import annotations

from typing import Any

import pytest

from engine.data.schema import Array, Column, ColumnType, Schema
from engine.data.selection import select
from engine.errors import PatternError, SpecError
from engine.spec import TrainSpec


def _spec(**fields: Any) -> TrainSpec:
    network = {"layers": [None, None], "form": fields.pop("form", None)}
    return TrainSpec.model_validate({"network": network, **fields})


def _table(nulls: int = 0, **types: ColumnType) -> Schema:
    return _named(types, nulls)


def _named(types: dict[str, ColumnType], nulls: int = 0) -> Schema:
    columns = tuple(
        Column(name=name, type=kind, nulls=nulls if name == "gap" else 0, min=0, max=1)
        for name, kind in types.items()
    )
    return Schema(kind="table", rows=9, columns=columns)


def _arrays(**arrays: tuple[tuple[int, ...], str]) -> Schema:
    items = tuple(Array(name=n, shape=shape, dtype=dtype) for n, (shape, dtype) in arrays.items())
    return Schema(kind="arrays", rows=9, arrays=items)


NUMBERS = _table(a="number", b="integer", c="boolean", y="number")


def test_the_last_column_is_the_target_and_the_rest_are_inputs() -> None:
    chosen = select(NUMBERS, _spec())

    assert (chosen.kind, chosen.form) == ("table", "regressor")
    assert (chosen.inputs, chosen.targets) == (("a", "b", "c"), ("y",))


def test_the_weight_is_neither_input_nor_target() -> None:
    chosen = select(NUMBERS, _spec(sample_weight="y"))
    starred = select(NUMBERS, _spec(sample_weight="a", inputs=["*"], targets=["[y]"]))

    assert (chosen.inputs, chosen.targets, chosen.sample_weight) == (("a", "b"), ("c",), "y")
    assert (starred.inputs, starred.targets) == (("b", "c"), ("y",))


def test_patterns_keep_their_order_and_each_that_of_the_data() -> None:
    chosen = select(NUMBERS, _spec(inputs=["c", "[ab]", "*"], targets=["y"]))

    assert chosen.inputs == ("c", "a", "b")


def test_a_columns_own_name_matches_it_even_if_it_reads_as_a_glob() -> None:
    schema = _named({"a[0]": "number", "a0": "number", "y": "number"})

    assert select(schema, _spec(inputs=["a[0]"])).inputs == ("a[0]", "a0")


@pytest.mark.parametrize(
    ("target", "form"),
    [("text", "classifier"), ("boolean", "classifier"), ("integer", "regressor")],
)
def test_the_form_follows_the_target(target: ColumnType, form: str) -> None:
    assert select(_table(a="number", y=target), _spec()).form == form


def test_an_integer_target_may_be_classified_and_a_boolean_one_regressed() -> None:
    assert select(_table(a="number", y="integer"), _spec(form="classifier")).form == "classifier"
    assert select(_table(a="number", y="boolean"), _spec(form="regressor")).form == "regressor"


def test_an_autoencoder_predicts_its_inputs() -> None:
    chosen = select(NUMBERS, _spec(form="autoencoder", sample_weight="b"))

    assert chosen.inputs == chosen.targets == ("a", "c", "y")


def test_texts_times_and_gaps_may_be_inputs_but_an_autoencoders() -> None:
    schema = _table(3, t="text", d="datetime", gap="number", y="number")

    assert select(schema, _spec()).inputs == ("t", "d", "gap")
    assert select(schema, _spec(form="autoencoder", inputs=["y"])).inputs == ("y",)


def test_arrays_are_x_and_y_unless_named() -> None:
    schema = _arrays(x=((9, 4), "float32"), y=((9,), "text"), w=((9,), "int64"))
    chosen = select(schema, _spec(sample_weight="w"))
    named = select(schema, _spec(inputs=["w"], targets=["x"]))

    assert (chosen.kind, chosen.form) == ("arrays", "classifier")
    assert (chosen.inputs, chosen.targets) == (("x",), ("y",))
    assert (named.inputs, named.targets, named.form) == (("w",), ("x",), "regressor")


def test_a_pattern_without_match_lists_what_exists() -> None:
    with pytest.raises(PatternError) as caught:
        select(NUMBERS, _spec(inputs=["a", "A*"]))

    assert caught.value.pointer == "#/inputs/1"
    assert caught.value.exist == ("a", "b", "c", "y")


def test_a_long_list_of_what_exists_is_cut() -> None:
    schema = _named({f"c{index}": "number" for index in range(1000)})
    with pytest.raises(PatternError, match="950 more"):
        select(schema, _spec(targets=["none"]))


@pytest.mark.parametrize(
    ("schema", "fields", "pointer", "says"),
    [
        (NUMBERS, {"inputs": ["*", "y"]}, "#/inputs/1", "'y' is a target"),
        (NUMBERS, {"inputs": ["y*"]}, "#/inputs/0", "nothing but targets"),
        (NUMBERS, {"inputs": ["b"], "sample_weight": "b"}, "#/inputs/0", "is the sample weight"),
        (NUMBERS, {"targets": ["b"], "sample_weight": "b"}, "#/targets/0", "is the sample weight"),
        (NUMBERS, {"targets": ["b*"], "sample_weight": "b"}, "#/targets", "weight only"),
        (NUMBERS, {"targets": ["*"]}, "#/inputs", "no column is left"),
        (NUMBERS, {"sample_weight": "z"}, "#/sample_weight", "a, b, c, y"),
        (NUMBERS, {"form": "classifier", "targets": ["a", "b"]}, "#/targets", "exactly one"),
        (NUMBERS, {"form": "autoencoder", "targets": ["y"]}, "#/targets", "leave `targets` out"),
        (NUMBERS, {"inputs": ["*"] * 300}, "#/inputs/256", "256 globs"),
        (_table(t="text", d="datetime"), {"form": "autoencoder"}, "#/inputs", "'t', 'd' hold text"),
        (_table(3, gap="number"), {"form": "autoencoder"}, "#/inputs", "'gap' (3)"),
        (_table(3, a="number", gap="number"), {}, "#/targets", "'gap' (3)"),
        (_table(3, gap="number", y="number"), {"sample_weight": "gap"}, "#/sample_weight", "3 mis"),
        (_table(a="number", y="datetime"), {}, "#/targets", "hold times"),
        (_table(a="number", y="text"), {"form": "regressor"}, "#/targets", "hold text"),
        (_table(a="number", t="text", y="text"), {"targets": ["t", "y"]}, "#/targets", "hold text"),
        (_table(t="text", y="number"), {"sample_weight": "t"}, "#/sample_weight", "not weights"),
        (_arrays(a=((9, 1), "int8"), y=((9,), "int8")), {}, "#/inputs", "these exist: a, y"),
        (_arrays(x=((9, 1), "int8")), {}, "#/targets", "these exist: x"),
        (_arrays(x=((9, 2, 2, 2, 2), "int8"), y=((9,), "int8")), {}, "#/inputs", "images"),
        (_arrays(x=((9, 1, 1), "text"), y=((9,), "int8")), {}, "#/inputs", "a text for each row"),
        (_arrays(x=((9,), "int8"), y=((9, 1, 1, 1, 1), "int8")), {}, "#/targets", "[9, 1"),
        (_arrays(x=((9,), "int8"), y=((9, 2, 2), "bool")), {}, "#/targets", "one for each"),
        (
            _arrays(x=((9,), "int8"), y=((9,), "int8"), w=((9, 2, 1), "int8")),
            {"sample_weight": "w"}, "#/sample_weight", "one number for each row",
        ),
    ],
)  # fmt: skip
def test_a_selection_that_makes_no_sense_is_pointed_at(
    schema: Schema, fields: dict[str, Any], pointer: str, says: str
) -> None:
    with pytest.raises(SpecError) as caught:
        select(schema, _spec(**fields))

    assert caught.value.pointer == pointer
    assert says in caught.value.detail


@pytest.mark.parametrize(("low", "high", "says"), [(-1, 2, "-1.0"), (0, 0, "are 0")])
def test_weights_that_weigh_nothing_are_refused(low: float, high: float, says: str) -> None:
    weight = Column(name="w", type="number", nulls=0, min=low, max=high)
    schema = Schema(kind="table", rows=2, columns=(*NUMBERS.columns, weight))
    with pytest.raises(SpecError) as caught:
        select(schema, _spec(sample_weight="w"))

    assert says in caught.value.detail
