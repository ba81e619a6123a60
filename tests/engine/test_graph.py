"""Graphs: names, sizes, partners, and refusals that point at the field."""

from __future__ import annotations

from typing import Any

import pytest

from engine.errors import SpecError
from engine.graph import build_graph
from engine.spec import NetworkSpec
from tests.engine.networks import graph_of


def test_layers_are_named_by_their_position() -> None:
    graph = graph_of([4, 5, {"size": 6, "name": "middle"}, 7, 2])
    assert [layer.name for layer in graph.layers] == ["in", "hid1", "middle", "hid3", "out"]
    assert list(graph.outputs) == [
        "in:out", "hid1:pre", "hid1:out", "middle:pre", "middle:out",
        "hid3:pre", "hid3:out", "out:pre", "out:out",
    ]  # fmt: skip


def test_weights_are_inputs_by_outputs() -> None:
    graph = graph_of([4, 5, 2])
    assert graph.parameters == {
        "hid1.w": (4, 5),
        "hid1.b": (5,),
        "out.w": (5, 2),
        "out.b": (2,),
    }
    assert graph.parameter_count == 4 * 5 + 5 + 5 * 2 + 2


def test_first_and_last_sizes_come_from_the_data() -> None:
    spec = NetworkSpec.model_validate({"layers": [None, 8, None]})
    graph = build_graph(spec, form="regressor", input_shapes={"in": (13,)}, output_shape=(2,))
    assert (graph.inputs[0].size, graph.last.size) == (13, 2)


@pytest.mark.parametrize(
    ("layer", "activation", "size", "form"),
    [
        (7, "relu", 7, "ff"),
        ([7, "tanh"], "tanh", 7, "ff"),
        (["sigmoid", 7], "sigmoid", 7, "ff"),
        ([7, "ff", "elu"], "elu", 7, "ff"),
        ({"size": 7, "activation": "gelu", "form": "feedforward"}, "gelu", 7, "ff"),
        ([7, "softmax"], "softmax", 7, "softmax"),
    ],
)
def test_a_layer_may_be_a_size_a_list_or_an_object(
    layer: Any, activation: str, size: int, form: str
) -> None:
    hidden = graph_of([3, layer, 1]).layers[1]
    assert (hidden.activation, hidden.size, hidden.form) == (activation, size, form)


def test_a_classifier_ends_in_softmax_and_takes_cross_entropy() -> None:
    graph = graph_of([4, 5, 3], form="classifier")
    assert (graph.last.form, graph.last.activation, graph.loss) == ("softmax", "softmax", "xe")


def test_tied_layers_pair_up_like_brackets() -> None:
    graph = graph_of([9, 6, 3, "tied", "tied"], form="autoencoder")
    assert [layer.partner for layer in graph.layers] == [None, None, None, "hid2", "hid1"]
    assert [layer.size for layer in graph.layers] == [9, 6, 3, 6, 9]
    assert "hid3.w" not in graph.parameters
    assert graph.parameters["hid3.b"] == (6,)


def test_a_partner_may_be_named() -> None:
    layers = [9, {"size": 4, "name": "code"}, {"form": "tied", "partner": "code"}]
    assert graph_of(layers, form="autoencoder").last.partner == "code"


@pytest.mark.parametrize(
    ("spec", "pointer", "words"),
    [
        ({"layers": [5, 2]}, "#/network/layers/0/size", "13 inputs"),
        ({"layers": [None, 5]}, "#/network/layers/1/size", "1 outputs"),
        ({"layers": [None, None, None]}, "#/network/layers/1/size", "needs a `size`"),
        ({"layers": [None, "tied", None]}, "#/network/layers/1", "mirror"),
        (
            {"layers": [None, {"form": "tied", "partner": "no"}, None]},
            "#/network/layers/1/partner",
            "'no'",
        ),
        ({"layers": [None, 4, 3, {"form": "tied", "partner": "hid1"}, None]},
         "#/network/layers/3", "reads 4"),
        ({"layers": [None, {"size": 4, "name": "in"}, None]}, "#/network/layers/1/name", "'in'"),
        ({"layers": [None, 4, "input"]}, "#/network/layers/2/form", "last"),
        ({"layers": [None, {"form": "input"}, None]}, "#/network/layers/1/size", "no data"),
        ({"layers": [[13, "relu"], None]}, "#/network/layers/0/activation", "input"),
        ({"layers": [1, {"size": 4, "partner": "x"}]}, "#/network/layers/0/size", "13"),
        ({"layers": [None, {"size": 4, "partner": "x"}, 1]},
         "#/network/layers/1/partner", "tied"),
        ({"layers": [None, None], "loss": "xe"}, "#/network/loss", "mse"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_where_it_stands(
    spec: dict[str, Any], pointer: str, words: str
) -> None:
    network = NetworkSpec.model_validate(spec)
    with pytest.raises(SpecError, match=words) as caught:
        build_graph(network, form="regressor", input_shapes={"in": (13,)}, output_shape=(1,))
    assert caught.value.pointer == pointer


def test_a_classifiers_last_layer_is_softmax() -> None:
    with pytest.raises(SpecError, match="softmax") as caught:
        graph_of([4, [3, "tanh"]], form="classifier")
    assert caught.value.pointer == "#/network/layers/1/activation"
