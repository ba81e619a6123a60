"""The scenarios of theanets' tests of layers, activations and graphs: what is built, or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.theanets.conftest import Lab
from tests.theanets.datasets import BASES, STEPS

NI, NH = 3, 6


def plan(lab: Lab, base: str, layers: list[Any], **more: Any) -> dict[str, Any]:
    """Return what the service says that it would train."""
    body = {"dataset": lab.dataset(base), **BASES[base].spec(layers=layers), **more}
    answer = lab.api.post("/train", params={"validate_only": True}, json=body)
    assert answer.status_code == 200, answer.text
    resolved: dict[str, Any] = answer.json()
    return resolved


def refused(lab: Lab, base: str, layers: list[Any]) -> dict[str, Any]:
    body = {"dataset": lab.dataset(base), **BASES[base].spec(layers=layers)}
    answer = lab.api.post("/train", json=body)
    assert answer.status_code == 422, answer.text
    problem: dict[str, Any] = answer.json()
    assert problem["errors"][0]["pointer"].startswith("#/network/layers")
    return problem


def of(layer: str, names: Any) -> set[str]:
    """Return the kinds of a layer's outputs, or the last words of its parameters."""
    mark = "." if any("." in name for name in names) else ":"
    return {n.split(mark, 1)[1] for n in names if n.startswith(f"{layer}{mark}")}


@pytest.mark.parametrize(
    ("form", "parameters", "count", "outputs"),
    [
        ({"form": "feedforward", "size": 7}, "w b", (1 + 7) * 7, "out pre"),
        ({"form": "ff", "size": 7}, "w b", (1 + 7) * 7, "out pre"),
        ({"form": "classifier", "size": 7}, "w b", (1 + 7) * 7, "out pre"),
        ("flatten", "", 0, "out"),
        ("flat", "", 0, "out"),
        ({"form": "concatenate", "inputs": ["in"]}, "", 0, "out"),
        ({"form": "concat", "inputs": ["in"]}, "", 0, "out"),
        ({"form": "product", "inputs": ["in"]}, "", 0, "out"),
        ({"form": "prod", "inputs": ["in"]}, "", 0, "out"),
        ({"form": "reshape", "shape": [7]}, "", 0, "out"),
    ],
    ids=str,
)
def test_a_layer_of_vectors_has_its_outputs_and_parameters(
    lab: Lab, form: Any, parameters: str, count: int, outputs: str
) -> None:
    found = plan(lab, "vectors", [None, form, None])
    assert of("hid1", found["outputs"]) == set(outputs.split())
    assert of("hid1", found["parameters"]) == set(parameters.split())
    assert found["parameter_count"] == count + (7 + 1) * 5


@pytest.mark.parametrize(
    ("form", "keywords", "parameters", "count", "outputs"),
    [
        ("rnn", {}, "xh hh b", (1 + NI + NH) * NH, "out pre"),
        ("clockwork", {"periods": [1, 2, 4]}, "xh hh b", (1 + NI + NH) * NH, "out pre"),
        ("rrnn", {"rate": "uniform"}, "xh hh b", (1 + NI + NH) * NH, "out pre rate hid"),
        ("rrnn", {"rate": "log"}, "xh hh b", (1 + NI + NH) * NH, "out pre rate hid"),
        ("rrnn", {"rate": "vector"}, "xh hh b r", (2 + NI + NH) * NH, "out pre rate hid"),
        ("rrnn", {"rate": "matrix"}, "xh hh b r xr", (2 + NH + 2 * NI) * NH, "out pre rate hid"),
        ("gru", {}, "b w hh hr hz", 3 * (1 + NI + NH) * NH, "hid out pre rate"),
        ("mut1", {}, "bh br bz hh hr xh xr xz", (3 + 3 * NI + 2 * NH) * NH, "hid out pre rate"),
        ("lstm", {}, "xh hh b cf ci co", (7 + 4 * NH + 4 * NI) * NH, "out cell"),
        ("mrnn", {"factors": 3}, "xh xf hf fh b", (7 + NI) * NH + 3 * NI, "out pre factors"),
        ("bcrnn", {"num_modules": 3}, "xh hh b", (1 + NI + NH) * NH, "out pre"),
        ("conv1", {"filter_size": 3, "border_mode": "same"}, "w b", (1 + 3 * NI) * NH, "pre out"),
    ],
)
def test_a_layer_of_sequences_has_its_outputs_and_parameters(
    lab: Lab, form: str, keywords: dict[str, Any], parameters: str, count: int, outputs: str
) -> None:
    found = plan(lab, "sequences", [None, {"form": form, "size": NH, **keywords}, None])
    assert of("hid1", found["outputs"]) == set(outputs.split())
    assert of("hid1", found["parameters"]) == set(parameters.split())
    assert found["parameter_count"] == count + (NH + 1) * 2


def test_an_scrn_has_its_outputs_and_parameters(lab: Lab) -> None:
    found = plan(lab, "sequences", [None, [NH, "scrn"], None])
    assert of("hid1", found["outputs"]) == {"out", "hid", "rate", "state"}
    assert of("hid1", found["parameters"]) == {"w", "ho", "so", "hh", "sh", "b", "r"}


def test_a_bidirectional_layer_has_those_of_its_workers(lab: Lab) -> None:
    found = plan(lab, "sequences", [None, [NH, "bidirectional"], None])
    ways = {f"{way}_{kind}" for way in ("fw", "bw") for kind in ("out", "pre")}
    assert of("hid1", found["outputs"]) == {"out", "pre"} | ways
    for way in ("fw", "bw"):
        assert of(f"hid1_{way}", found["parameters"]) == {"xh", "hh", "b"}
    assert found["parameter_count"] == (1 + NI + NH // 2) * NH + (NH + 1) * 2


def test_a_convolution_of_images_has_its_outputs_and_parameters(lab: Lab) -> None:
    layer = {"form": "conv2", "size": NH, "filter_size": [4, 3]}
    found = plan(lab, "images", [None, layer, "flat", None])
    assert of("hid1", found["outputs"]) == {"out", "pre"}
    assert of("hid1", found["parameters"]) == {"w", "b"}
    assert found["parameter_count"] == (1 + NI * 4 * 3) * NH + (NH * 6 * 6 + 1) * 5


@pytest.mark.parametrize(
    "layer",
    [
        8,
        {"form": "ff", "inputs": ["hid1", "hid2"], "size": 8},
        {"form": "tied", "partner": "hid2"},
        {"form": "prod", "inputs": ["hid1", "hid2"]},
        {"form": "concat", "inputs": ["hid1", "hid2"]},
        "flat",
    ],
    ids=str,
)
def test_an_autoencoder_takes_any_layer(lab: Lab, layer: Any) -> None:
    job = lab.once("alone", layers=[None, 8, 8, layer, None])
    assert np.shape(lab.predict("alone", job)["prediction"]) == (2, 7)


def test_a_convolution_shortens_a_sequence(lab: Lab) -> None:
    layer = {"size": 8, "form": "conv1", "filter_size": 3}
    job = lab.once("sequence vectors", layers=[None, layer, "flat", None])
    outputs = lab.predict("sequence vectors", job, outputs=["hid1:out"])
    assert np.shape(outputs["hid1:out"]) == (2, STEPS - 2, 8)


@pytest.mark.parametrize(
    ("layers", "parameters"),
    [
        ([7, [2, "relu"], 5], "hid1.w hid1.b out.w out.b"),
        ([7, 2, {"size": 5, "inputs": "hid1"}], "hid1.w hid1.b out.w out.b"),
        (
            [7, 2, {"size": 5, "inputs": ["in", "hid1"]}],
            "hid1.w hid1.b out.w_in:out out.w_hid1:out out.b",
        ),
        ([7, {"size": 6}, 5], "hid1.w hid1.b out.w out.b"),
        ([7, [6], 5], "hid1.w hid1.b out.w out.b"),
        ([7, {"size": 6, "form": "ff", "activation": "linear"}, 5], "hid1.w hid1.b out.w out.b"),
        ([7, 2, {"size": 5, "name": "foo"}], "hid1.w hid1.b foo.w foo.b"),
    ],
    ids=str,
)
def test_layers_are_written_in_every_way(lab: Lab, layers: list[Any], parameters: str) -> None:
    assert set(plan(lab, "vectors", layers)["parameters"]) == set(parameters.split())


@pytest.mark.parametrize("last", [[7, "tied"], {"size": 7, "form": "tied", "partner": "hid1"}])
def test_a_tied_layer_finds_its_partner(lab: Lab, last: Any) -> None:
    assert set(plan(lab, "alone", [7, 2, last])["parameters"]) == {"hid1.w", "hid1.b", "out.b"}


@pytest.mark.parametrize(
    "layers",
    [
        [None, 2, {"inputs": "hid2"}],
        [None, "tied", "tied", None],
        [None, [6, "tied", 7], 4, None],
        [None, "ff", 4, None],
        [None, "tied", 4, None],
        [None, {"form": "ff"}, 4, None],
        [None, {"form": "tied", "partner": "hello"}, 4, None],
        [None, {"form": "ff", "inputs": ["a", "b"]}, 4, None],
        [None, None, 4, None],
    ],
    ids=str,
)
def test_what_is_no_network_is_refused(lab: Lab, layers: list[Any]) -> None:
    refused(lab, "vectors", layers)


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("*", ["hid1.w", "hid2.w", "out.w"]),
        ("*.w", ["hid1.w", "hid2.w", "out.w"]),
        ("o*.?", ["out.w"]),
    ],
)
def test_patterns_match_parameters(lab: Lab, pattern: str, matched: list[str]) -> None:
    """Biases are parameters, too; the regularizers of weights leave them out."""
    asked = {"form": "weight_l2", "pattern": pattern, "weight": 0.1}
    found = plan(lab, "alone", [None, 20, 30, None], regularizers=[asked])
    assert found["regularizers"][0]["matched"] == matched


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("*", "in:out hid1:pre hid1:out hid2:pre hid2:out out:pre out:out"),
        ("hid?:*", "hid1:pre hid1:out hid2:pre hid2:out"),
        ("*:pre", "hid1:pre hid2:pre out:pre"),
    ],
)
def test_patterns_match_outputs(lab: Lab, pattern: str, matched: str) -> None:
    found = plan(lab, "alone", [None, 20, 30, None], dropout={pattern: 0.1})
    assert found["regularizers"][0]["matched"] == matched.split()
