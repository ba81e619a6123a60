"""Answers as columns: names, order and numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from engine.artifact import Model
from engine.data.encoding import Scaled
from engine.tabulation import Block, blocks_of
from tests.engine.test_prediction import answer, classifier, regressor

CLASSES = ("cat", "dog", "eel")


def tabulated(model: Model, **request: Any) -> dict[str, npt.NDArray[Any]]:
    return tabulation(answer(model, **request), model)


def tabulation(outputs: dict[str, Any], model: Model) -> dict[str, npt.NDArray[Any]]:
    blocks = blocks_of(outputs, model)
    return {name: column for block in blocks for name, column in block.columns()}


def with_one_target(model: Model, name: str = "price") -> Model:
    encoding = model.encoding.model_copy(update={"targets": (Scaled(name=name, size=2),)})
    return replace(model, encoding=encoding)


def test_several_targets_are_named_behind_the_statistic() -> None:
    model = regressor({"hidden_dropout": 0.5})
    columns = tabulated(model, num_samples=9, statistics=["mean", "variance", "quantiles"])
    assert list(columns) == [
        "mean.price",
        "mean.size",
        "variance_epistemic.price",
        "variance_epistemic.size",
        "variance_aleatoric.price",
        "variance_aleatoric.size",
        "variance_total.price",
        "variance_total.size",
        "quantile_0.05.price",
        "quantile_0.05.size",
        "quantile_0.5.price",
        "quantile_0.5.size",
        "quantile_0.95.price",
        "quantile_0.95.size",
    ]


def test_columns_are_the_numbers_of_the_answer() -> None:
    model = regressor({"hidden_dropout": 0.5})
    outputs = answer(model, num_samples=9)
    columns = tabulation(outputs, model)
    np.testing.assert_array_equal(columns["std.size"], outputs["std"][:, 1])
    np.testing.assert_array_equal(
        columns["quantile_0.95.price"], outputs["quantiles"]["0.95"][:, 0]
    )
    assert len(columns) == 2 * (3 + 3 + 3)


def test_the_only_number_of_a_row_has_the_plain_name() -> None:
    outputs = {"mean": np.ones((3, 1)), "quantiles": {"0.5": np.ones((3, 1))}}
    model = regressor()
    assert list(tabulation(outputs, model)) == ["mean", "quantile_0.5"]
    assert list(tabulation({"prediction": np.ones((3, 1))}, model)) == ["prediction"]


def test_a_target_of_several_numbers_names_each() -> None:
    model = with_one_target(regressor())
    assert list(tabulated(model)) == ["prediction.price[0]", "prediction.price[1]"]


def test_classes_are_named_behind_their_probability() -> None:
    columns = tabulated(classifier(), num_samples=9)
    assert list(columns) == [
        "label",
        "probability.cat",
        "probability.dog",
        "probability.eel",
        "std.cat",
        "std.dog",
        "std.eel",
        "entropy",
        "expected_entropy",
        "mutual_information",
        "variation_ratio",
    ]


def test_one_pass_of_a_classifier_gives_each_probability_once() -> None:
    assert list(tabulated(classifier())) == [
        "label",
        "probability.cat",
        "probability.dog",
        "probability.eel",
    ]


def test_labels_are_spelt_as_in_json_and_counted_where_no_column_can_be_called_so() -> None:
    model = classifier()
    classes = (True, "a" * 300, "tab\t")
    model = replace(model, encoding=model.encoding.model_copy(update={"classes": classes}))
    assert list(tabulated(model))[1:] == ["probability.true", "probability[1]", "probability[2]"]


def test_elements_of_other_outputs_count_from_zero() -> None:
    columns = tabulated(regressor(), outputs=["hid1:out"])
    assert list(columns)[2:4] == ["hid1:out[0]", "hid1:out[1]"]
    asked = {"num_samples": 5, "hidden_dropout": 0.5, "statistics": ["mean"]}
    columns = tabulated(regressor(), outputs=["hid1:out"], **asked)
    assert list(columns)[2:4] == ["hid1:out.mean[0]", "hid1:out.mean[1]"]


def test_samples_have_the_rows_first_and_are_no_columns() -> None:
    model = regressor({"hidden_dropout": 0.5})
    outputs = answer(model, num_samples=5, statistics=["samples"])
    (block,) = blocks_of(outputs, model)
    assert block.name == "samples"
    assert block.labels == ("price", "size")
    np.testing.assert_array_equal(block.values[7, 3], outputs["samples"][3, 7])
    with pytest.raises(ValueError, match="more than a list"):
        list(block.columns())


def test_an_axis_of_steps_is_not_taken_for_the_classes() -> None:
    model = classifier()
    outputs = {"entropy": np.ones(4), "std": np.ones((4, 3)), "samples": np.ones((3, 4, 3))}
    labels = {block.name: block.labels for block in blocks_of(outputs, model)}
    assert labels == {"entropy": None, "std": CLASSES, "samples": CLASSES}
    of_steps = {"entropy": np.ones((4, 3, 3))}
    assert [block.labels for block in blocks_of(of_steps, model)] == [None]


def test_what_is_the_same_for_all_rows_is_no_block() -> None:
    interval = {"lower": np.zeros((2, 2)), "coverage": 0.9, "calibrated": True}
    names = [block.name for block in blocks_of({"interval": interval}, regressor())]
    assert names == ["interval_lower"]


def test_a_list_without_names_is_counted() -> None:
    block = Block(name="std", values=np.ones((2, 2)))
    assert [name for name, _ in block.columns()] == ["std[0]", "std[1]"]
