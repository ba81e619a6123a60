"""Layers that arrange the numbers of a row in another shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.errors import SpecError
from engine.graph import build_graph, resolved_network
from engine.sampling import Sampler
from engine.spec import NetworkSpec
from tests.engine.networks import graph_of, random_network, rows_of

SHAPES = [(24,), (6, 4), (2, 3, 4)]


@pytest.mark.parametrize("given", SHAPES, ids=str)
@pytest.mark.parametrize("wanted", SHAPES, ids=str)
def test_numbers_keep_their_order_in_any_shape(
    given: tuple[int, ...], wanted: tuple[int, ...]
) -> None:
    layers: list[Any] = [
        {"form": "input", "shape": list(given)},
        {"form": "reshape", "shape": list(wanted)},
        "flat",
        2,
    ]
    x = np.random.default_rng(1).standard_normal((5, *given)).astype(np.float32)
    sampler = Sampler(random_network(layers), (), wanted=("hid1:out", "hid2:out"))
    values = sampler.deterministic(rows_of(x))
    assert np.array_equal(values["hid1:out"], x.reshape(5, *wanted))
    assert np.array_equal(values["hid2:out"], x.reshape(5, 24))


def test_a_last_reshape_takes_the_shape_of_the_data() -> None:
    spec = NetworkSpec.model_validate({"layers": [None, "flatten", 6, 24, "reshape"]})
    graph = build_graph(
        spec, form="autoencoder", input_shapes={"in": (2, 3, 4)}, output_shape=(2, 3, 4)
    )
    assert graph.last.shape == (2, 3, 4)
    again = build_graph(
        resolved_network(graph), form="autoencoder", input_shapes=None, output_shape=None
    )
    assert again == graph


@pytest.mark.parametrize(
    ("layer", "pointer", "said"),
    [
        ({"form": "reshape", "shape": [5, 5]}, "/shape", "holds 25 numbers, but 'in:out' has 24"),
        ({"form": "reshape"}, "/shape", "needs a `shape`"),
        ({"form": "reshape", "shape": [4, 6], "size": 4}, "/size", "6 values"),
        ({"form": "flatten", "size": 23}, "/size", "24 numbers"),
        ({"form": "flatten", "shape": [24]}, "/shape", "takes no `shape`"),
        ({"form": "flatten", "activation": "relu"}, "/activation", "no activation"),
        ({"form": "flatten", "inputs": ["in", "in:out"]}, "/inputs/1", "twice"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_and_pointed_at(layer: Any, pointer: str, said: str) -> None:
    with pytest.raises(SpecError, match=said) as caught:
        graph_of([{"form": "input", "shape": [2, 3, 4]}, layer, "flatten", 2])
    assert caught.value.pointer == f"#/network/layers/1{pointer}"


@pytest.mark.parametrize("shape", [[3, 600, 600], [600, 600, 3], [40_000, 30]], ids=str)
def test_no_layer_is_wider_than_a_spec_can_say(shape: list[int]) -> None:
    with pytest.raises(SpecError, match="values for each row; at most 1000000") as caught:
        graph_of([{"form": "input", "shape": shape}, "flatten", 2])
    assert caught.value.pointer == "#/network/layers/1"


@pytest.mark.parametrize("layer", ["flatten", {"form": "reshape", "shape": [24]}], ids=str)
def test_a_classifier_ends_with_weights(layer: Any) -> None:
    with pytest.raises(SpecError, match="softmax"):
        graph_of([{"form": "input", "shape": [2, 3, 4]}, layer], form="classifier")
