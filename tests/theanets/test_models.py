"""The scenarios of theanets' tests of its models: each trains, predicts and tells its layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.theanets.conftest import Lab
from tests.theanets.datasets import BASES, ROWS, STEPS

HID1, HID2 = 8, 12
DENSE: list[Any] = [None, HID1, HID2, None]
RECURRENT: list[Any] = [None, [HID1, "rnn"], [HID2, "rnn"], None]
CONVOLUTION: list[Any] = [
    None,
    {"size": HID1, "form": "conv2", "filter_size": [4, 3]},
    {"size": HID2, "form": "conv2", "filter_size": [4, 3]},
    "flat",
    None,
]
#: The layers of each kind of data, the shape of a row's hidden outputs, and that of its prediction.
MODELS: dict[str, tuple[list[Any], tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "vectors": (DENSE, (HID1,), (HID2,), (5,)),
    "labels": (DENSE, (HID1,), (HID2,), (6,)),
    "alone": (DENSE, (HID1,), (HID2,), (7,)),
    "sequences": (RECURRENT, (STEPS, HID1), (STEPS, HID2), (STEPS, 2)),
    "sequence labels": (RECURRENT, (STEPS, HID1), (STEPS, HID2), (STEPS, 6)),
    "sequences alone": (RECURRENT, (STEPS, HID1), (STEPS, HID2), (STEPS, 3)),
    "images": (CONVOLUTION, (HID1, 6, 6), (HID2, 3, 4), (5,)),
    "image labels": (CONVOLUTION, (HID1, 6, 6), (HID2, 3, 4), (6,)),
}
EVERY = pytest.mark.parametrize("base", MODELS)
CLASSIFIERS = pytest.mark.parametrize("base", ["labels", "sequence labels", "image labels"])
AUTOENCODERS = pytest.mark.parametrize("base", ["alone", "sequences alone"])


def trained(lab: Lab, base: str) -> dict[str, Any]:
    """Return the job of a base's two-layer network, trained once."""
    return lab.once(base, layers=MODELS[base][0])


@EVERY
@pytest.mark.parametrize("weighted", [False, True])
def test_training_makes_progress(lab: Lab, base: str, weighted: bool) -> None:
    spec = BASES[base].spec(layers=MODELS[base][0])
    lab.assert_progress(base, {**spec, "sample_weight": "w"} if weighted else spec)


@EVERY
def test_predictions_have_the_shape_of_the_targets(lab: Lab, base: str) -> None:
    outputs = lab.predict(base, trained(lab, base))
    name = "prediction" if "prediction" in outputs else "probabilities"
    assert np.shape(outputs[name]) == (2, *MODELS[base][3])


@EVERY
def test_a_forward_pass_gives_every_layers_outputs(lab: Lab, base: str) -> None:
    outputs = lab.predict(base, trained(lab, base), outputs=["*"])
    _, hid1, hid2, out = MODELS[base]
    x = (BASES[base].arrays or {})["x"]
    assert np.shape(outputs["in:out"]) == (2, *x.shape[1:])
    assert np.shape(outputs["hid1:out"]) == np.shape(outputs["hid1:pre"]) == (2, *hid1)
    assert np.shape(outputs["hid2:out"]) == np.shape(outputs["hid2:pre"]) == (2, *hid2)
    assert np.shape(outputs["out:out"]) == np.shape(outputs["out:pre"]) == (2, *out)


@EVERY
def test_a_model_is_scored_on_its_validation_rows(lab: Lab, base: str) -> None:
    valid = lab.model(trained(lab, base))["metrics"]["valid"]
    if BASES[base].form == "classifier":
        assert 0 <= valid["accuracy"] <= 1
    else:
        assert valid["r2"] <= 1


@CLASSIFIERS
def test_classes_probabilities_and_logits_agree(lab: Lab, base: str) -> None:
    outputs = lab.predict(base, trained(lab, base), outputs=["out:pre"])
    probabilities, logits = (np.array(outputs[name]) for name in ("probabilities", "out:pre"))
    assert np.array(outputs["label"]).tolist() == probabilities.argmax(axis=-1).tolist()
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    np.testing.assert_allclose(probabilities, odds / odds.sum(axis=-1, keepdims=True), rtol=1e-5)


@AUTOENCODERS
@pytest.mark.parametrize("layer", ["hid1", "hid2"])
def test_what_is_encoded_can_be_decoded(lab: Lab, base: str, layer: str) -> None:
    job = trained(lab, base)
    outputs = lab.predict(base, job, outputs=[f"{layer}:out"])
    code = outputs[f"{layer}:out"]
    assert np.shape(code) == (2, *MODELS[base][1 if layer == "hid1" else 2])
    decoded = lab.predict(base, job, inputs=code, start=f"{layer}:out")["prediction"]
    np.testing.assert_allclose(decoded, outputs["prediction"], rtol=1e-5, atol=1e-6)


def test_the_last_layer_may_read_several(lab: Lab) -> None:
    spec = BASES["vectors"].spec(layers=[None, HID1, HID2, {"inputs": ["hid2:out", "hid1:out"]}])
    outputs = lab.predict("vectors", lab.train("vectors", spec), outputs=["*:out"])
    assert np.shape(outputs["out:out"]) == (2, 5)


def test_a_recurrent_layer_starts_where_another_input_says(lab: Lab) -> None:
    layers = [
        {"form": "input", "name": "h0", "columns": ["h"]},
        {"form": "input", "name": "in", "columns": ["x"]},
        {"form": "rnn", "size": 6, "name": "rnn", "inputs": ["in"], "h_0": "h0"},
        None,
    ]
    spec = BASES["initial states"].spec(layers=layers)
    lab.assert_progress("initial states", {**spec, "inputs": ["h", "x"]})


def test_a_sequence_may_be_longer_than_those_of_training(lab: Lab) -> None:
    job = trained(lab, "sequences")
    longer = np.zeros((2, 3 * STEPS, 3)).tolist()
    assert np.shape(lab.predict("sequences", job, inputs=longer)["prediction"]) == (2, 3 * STEPS, 2)


def test_rows_are_enough_for_each_set() -> None:
    assert all(len(b.arrays["x"]) == ROWS for b in BASES.values() if b.arrays)
