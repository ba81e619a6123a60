"""A prediction may start at a hidden layer: what encodes is passed over, the rest is the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.artifact import Model
from engine.data.encoding import Encoding
from engine.errors import SpecError
from engine.prediction import plan_prediction
from engine.regularizers import resolve
from engine.spec import PredictSpec, RegularizationSpec
from tests.engine.networks import random_network, rows_of

ROWS = np.random.default_rng(3).standard_normal((5, 4)).astype(np.float32)


def autoencoder() -> Model:
    network = random_network([4, [6, "tanh"], [3, "tanh"], "tied", "tied"], form="autoencoder")
    trained = resolve(RegularizationSpec(hidden_dropout=0.3), network.graph)
    return Model(
        network=network,
        encoding=Encoding.identity({"in": (4,)}, (4,), "autoencoder"),
        trained=trained,
        noise_precision=None,
    )


def answer(model: Model, rows: Any, **request: Any) -> dict[str, Any]:
    plan = plan_prediction(model, PredictSpec.model_validate(request), seed=5)
    return plan.run(rows_of(rows) if plan.start is None else rows, np.arange(5))


@pytest.mark.parametrize("start", ["hid1", "hid2:out", "out:out", "in"])
def test_a_code_is_decoded_as_the_whole_network_would(start: str) -> None:
    model = autoencoder()
    name = start if ":" in start else f"{start}:out"
    whole = answer(model, ROWS, outputs=[name])
    code = whole[name]
    rows = rows_of(code, name.removesuffix(":out"))
    np.testing.assert_array_equal(
        answer(model, rows, start=start)["prediction"], whole["prediction"]
    )


@pytest.mark.parametrize("dropout", [{"hid1:out": 0.5}, {"hid1:out": 0.5, "hid3:out": 0.5}])
def test_masks_from_the_start_on_are_those_of_the_whole_network(dropout: dict[str, float]) -> None:
    model = autoencoder()
    code = answer(model, ROWS, outputs=["hid1:out"])["hid1:out"]
    request = {"dropout": dropout, "num_samples": 20}
    whole = answer(model, ROWS, **request)
    part = answer(model, rows_of(code, "hid1"), start="hid1", **request)
    assert "reconstruction_error" not in part
    assert np.array_equal(part["std"], whole["std"])
    assert part["std"].min() > 0


def test_masks_before_the_start_do_not_act() -> None:
    model = autoencoder()
    code = rows_of(answer(model, ROWS, outputs=["hid2:out"])["hid2:out"], "hid2")
    request = {"start": "hid2", "num_samples": 20}
    before = answer(model, code, dropout={"hid1:out": 0.5}, **request)
    assert not before["std"].any()
    plain = answer(model, code, start="hid2")["prediction"]
    np.testing.assert_allclose(before["mean"], plain, rtol=1e-6)
    both = answer(model, code, dropout={"hid1:out": 0.5, "hid3:out": 0.5}, **request)
    behind = answer(model, code, dropout={"hid3:out": 0.5}, **request)
    assert np.array_equal(both["std"], behind["std"])
    assert both["std"].min() > 0


@pytest.mark.parametrize(
    ("request_", "pointer"),
    [
        ({"start": "hid9"}, "#/start"),
        ({"start": "hid1:pre"}, "#/start"),
        ({"start": "hid2", "outputs": ["hid1:out"]}, "#/start"),
        ({"start": "hid2", "outputs": ["hid2:pre"]}, "#/start"),
        ({"start": "hid2", "num_samples": 3, "statistics": ["reconstruction_error"]},
         "#/statistics/0"),
    ],
)  # fmt: skip
def test_what_the_start_cannot_give_is_refused(request_: dict[str, Any], pointer: str) -> None:
    with pytest.raises(SpecError) as caught:
        plan_prediction(autoencoder(), PredictSpec.model_validate(request_), seed=1)
    assert caught.value.pointer == pointer
