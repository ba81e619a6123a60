"""Convolutions of sequences and images: what they compute, to the bit, and what they refuse."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from engine.artifact import document_of, graph_of_steps, load_model, weights_of
from engine.data.encoding import Encoding
from engine.errors import SpecError
from engine.graph import build_graph
from engine.initializers import initial_parameters
from engine.network import Network
from engine.regularizers import resolve
from engine.sampling import Sampler
from engine.spec import NetworkSpec, RegularizationSpec
from tests.engine.networks import Floats, graph_of, random_network, rows_of

IMAGE = [3, 9, 7]
STEPS = [11, 3]
KEYWORDS: list[dict[str, Any]] = [
    {"filter_size": 3},
    {"filter_size": 1},
    {"filter_size": 4, "border_mode": "same"},
    {"filter_size": 3, "border_mode": "full"},
    {"filter_size": 3, "stride": 2},
    {"filter_size": 5, "stride": 3, "border_mode": "same"},
    {"filter_size": 4, "stride": 2, "border_mode": "full"},
]
UNEVEN: list[dict[str, Any]] = [
    {"filter_size": [4, 2]},
    {"filter_size": [1, 7], "border_mode": "same", "stride": [3, 1]},
    {"filter_size": [9, 2], "border_mode": "full", "stride": [1, 2]},
    {"filter_size": [12, 8], "border_mode": "same"},
]
CONVOLUTIONS = [
    *(("conv1", STEPS, keywords) for keywords in KEYWORDS),
    *(("conv2", IMAGE, keywords) for keywords in [*KEYWORDS, *UNEVEN]),
]
each = pytest.mark.parametrize(("form", "shape", "keywords"), CONVOLUTIONS, ids=str)


def convolution(form: str, shape: list[int], keywords: dict[str, Any], **more: Any) -> Network:
    """A network whose `hid1` is one linear convolution with 5 filters and biases that are not 0."""
    layer = {"form": form, "size": 5, "activation": "linear", **keywords, **more}
    layer["initial"] = {"b": {"std": 1}}
    return random_network([{"form": "input", "shape": shape}, layer, "flatten", 2])


def computed(network: Network, x: Floats, name: str = "hid1:out") -> Floats:
    return Sampler(network, (), wanted=(name,)).deterministic(rows_of(x))[name]


def normal(*shape: int) -> Floats:
    return np.random.default_rng(5).standard_normal(shape).astype(np.float32)


def parameters(network: Network) -> dict[str, Floats]:
    return initial_parameters(network.graph, seed=1)


def padded(x: Any, filter_size: list[int], border_mode: str) -> Any:
    """Zeros around the last axes of x (rows, channels, …), as the modes of borders say."""
    for axis, wide in enumerate(filter_size, start=2):
        whole = {"valid": 0, "same": wide - 1, "full": 2 * (wide - 1)}[border_mode]
        widths = [(0, 0)] * x.ndim
        widths[axis] = (whole // 2, whole - whole // 2)
        x = np.pad(x, widths)
    return x


def by_loop(x: Any, w: Any, b: Any, stride: list[int]) -> Any:
    """Convolve images in float64, window by window."""
    height, width = w.shape[2:]
    tops = range(0, x.shape[2] - height + 1, stride[0])
    lefts = range(0, x.shape[3] - width + 1, stride[1])
    result = np.empty((len(x), len(w), len(tops), len(lefts)))
    for i, top in enumerate(tops):
        for j, left in enumerate(lefts):
            window = x[:, None, :, top : top + height, left : left + width]
            result[:, :, i, j] = (window * w).sum(axis=(2, 3, 4)) + b
    return result


def by_hand(form: str, keywords: dict[str, Any], x: Any, w: Any, b: Any) -> Any:
    """Convolve in float64 by the loop; sequences as images one pixel wide."""

    def both(key: str) -> list[int]:
        given = keywords.get(key, 1)
        return [given, given] if isinstance(given, int) else list(given)

    x, w, b = (np.asarray(values, dtype=np.float64) for values in (x, w, b))
    if form == "conv2":
        images = padded(x, both("filter_size"), keywords.get("border_mode", "valid"))
        return by_loop(images, w, b, both("stride"))
    images = padded(
        x.transpose(0, 2, 1), both("filter_size")[:1], keywords.get("border_mode", "valid")
    )
    return by_loop(images[..., None], w[..., None], b, [*both("stride")[:1], 1])[..., 0].transpose(
        0, 2, 1
    )


@each
def test_a_convolution_is_the_sum_over_its_windows(
    form: str, shape: list[int], keywords: dict[str, Any]
) -> None:
    network = convolution(form, shape, keywords)
    values, x = parameters(network), normal(6, *shape)
    expected = by_hand(form, keywords, x, values["hid1.w"], values["hid1.b"])
    assert (6, *network.graph.outputs["hid1:out"]) == expected.shape
    for ours in (computed(network, x), at_once(network, x)):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def at_once(network: Network, x: Floats) -> Floats:
    """What training computes: gradients flow, and no row's bits are promised."""
    weights = {name: tensor.requires_grad_() for name, tensor in network.weights["hid1"].items()}
    result = network.graph.layers[1].compute([torch.from_numpy(x)], weights)["hid1:out"]
    assert result.requires_grad
    return result.detach().numpy()


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@each
def test_a_convolution_agrees_with_pytorchs_in_double_precision(
    form: str, shape: list[int], keywords: dict[str, Any]
) -> None:
    if keywords.get("border_mode", "valid") == "same" and keywords.get("stride", 1) != 1:
        keywords = {**keywords, "stride": 1}  # PyTorch has no "same" of other strides
    network = convolution(form, shape, keywords)
    layer = network.graph.layers[1]
    values = {name: torch.from_numpy(v).double() for name, v in parameters(network).items()}
    x = torch.from_numpy(normal(4, *shape)).double()
    with torch.inference_mode():
        ours = layer.compute([x], layer.bound(values))["hid1:pre"]
    w, b = values["hid1.w"], values["hid1.b"]
    mode = keywords.get("border_mode", "valid")
    padding: Any = [size - 1 for size in w.shape[2:]] if mode == "full" else mode
    stride = keywords.get("stride", 1)
    if form == "conv2":
        theirs = functional.conv2d(x, w, b, stride, padding)
    else:
        theirs = functional.conv1d(x.transpose(1, 2), w, b, stride, padding).transpose(1, 2)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        layer.compute([x], layer.bound(values))["hid1:pre"], theirs, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize(
    ("form", "shape", "keywords"),
    [
        ("conv1", [5, 2], {"filter_size": 2, "stride": 2, "border_mode": "full"}),
        ("conv2", [2, 4, 3], {"filter_size": [2, 3], "border_mode": "same"}),
    ],
)
def test_gradients_are_those_of_finite_differences(
    form: str, shape: list[int], keywords: dict[str, Any]
) -> None:
    network = convolution(form, shape, keywords, activation="tanh")
    layer = network.graph.layers[1]
    values = [torch.from_numpy(v).double() for v in parameters(network).values()][:2]
    x = torch.from_numpy(normal(2, *shape)).double()

    def out(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return layer.compute([x], layer.bound({"hid1.w": w, "hid1.b": b}))["hid1:out"]

    inputs = tuple(tensor.requires_grad_() for tensor in (x, *values))
    assert torch.autograd.gradcheck(out, inputs)
    assert torch.autograd.gradgradcheck(out, inputs)


@pytest.mark.parametrize(
    ("shape", "layers"),
    [
        (
            [3, 9, 7],
            [
                {"form": "conv2", "size": 7, "filter_size": 3, "border_mode": "same"},
                {"form": "pool2", "pool_size": 2},
                {"form": "conv2", "size": 21, "filter_size": [3, 2], "activation": "tanh"},
                {"form": "pool2", "pool_size": 2, "mode": "mean"},
                "flatten",
            ],
        ),
        (
            [1, 28, 28],
            [{"form": "conv2", "size": 33, "filter_size": 5, "stride": 2}, "flatten"],
        ),
        (
            [37, 5],
            [
                {"form": "conv1", "size": 19, "filter_size": 4, "border_mode": "full"},
                {"form": "pool1", "pool_size": 3, "mode": "sum"},
                {"form": "conv1", "size": 3, "filter_size": 1, "activation": "prelu"},
                "flatten",
            ],
        ),
        ([4, 4], [{"form": "conv1", "size": 1, "filter_size": 4}, "flatten"]),
        ([2, 64, 64], [{"form": "conv2", "size": 4, "filter_size": 7}, "flatten"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("connections", [False, True])
def test_samples_are_the_same_in_any_piece(
    shape: list[int], layers: list[Any], connections: bool
) -> None:
    network = random_network([{"form": "input", "shape": shape}, *layers, 3])
    dropped: dict[str, Any] = {"dropout": {"hid1:out": 0.3, "in:out": 0.1}}
    if connections:
        dropped["regularizers"] = [{"form": "drop_connect", "pattern": "hid*.w", "weight": 0.4}]
    spec = RegularizationSpec.model_validate(dropped)
    wanted = ("out:out", "hid1:out")
    sampler = Sampler(network, resolve(spec, network.graph), wanted=wanted, seed=3)
    x, ids = normal(9, *shape), np.arange(9)
    whole = sampler.samples(rows_of(x), ids, np.arange(11))
    for rows, passes in (
        (slice(4, 6), slice(3, 11)), (slice(8, 9), slice(0, 7)), (slice(0, 7), slice(10, 11)),
    ):  # fmt: skip
        part = sampler.samples(rows_of(x[rows]), ids[rows], np.arange(11)[passes])
        for name in wanted:
            assert np.array_equal(part[name], whole[name][passes, rows])
    plain = Sampler(network, (), wanted=wanted)
    together = plain.deterministic(rows_of(x))
    for row in range(9):
        alone = plain.deterministic(rows_of(x[row : row + 1]))
        assert all(np.array_equal(alone[name][0], together[name][row]) for name in wanted)


@pytest.mark.parametrize(
    ("form", "shape", "keywords"),
    [
        ("conv2", [2, 30, 41], {"filter_size": [20, 31], "border_mode": "full", "stride": [1, 2]}),
        ("conv2", [1, 31, 700], {"filter_size": [30, 40]}),
        ("conv2", [1, 50, 64], {"filter_size": [20, 60], "border_mode": "same"}),
        ("conv1", [3000, 2], {"filter_size": 1500, "border_mode": "same", "stride": 3}),
    ],
    ids=str,
)
def test_windows_of_one_row_need_not_fit_into_memory_at_once(
    form: str, shape: list[int], keywords: dict[str, Any]
) -> None:
    network = convolution(form, shape, keywords)
    x = normal(2, *shape)
    with torch.profiler.profile(profile_memory=True) as profiled:
        ours = computed(network, x)
    held = max(event.self_cpu_memory_usage for event in profiled.events())
    layer = network.graph.layers[1]
    places = math.prod(layer.shape) // layer.size
    windows = places * math.prod(layer.own_parameters["w"][1:])
    assert held < 4 * windows
    double = {
        local: torch.from_numpy(parameters(network)[f"hid1.{local}"]).double()
        for local in ("w", "b")
    }
    expected = layer.compute(
        [torch.from_numpy(x).double()],
        layer.bound({f"hid1.{local}": value for local, value in double.items()}),
    )
    np.testing.assert_allclose(ours, expected["hid1:out"], rtol=1e-4, atol=1e-4)
    assert np.array_equal(computed(network, x[1:]), ours[1:])


def test_masks_fall_on_single_pixels_or_on_whole_channels() -> None:
    layers = [{"form": "input", "shape": [1, 8, 8]}, convolve(size=30), "flatten", 2]
    network = random_network(layers)
    x = normal(20, 1, 8, 8)
    for spatial in (False, True):
        spec = RegularizationSpec.model_validate(
            {"regularizers": [{"form": "bernoulli_dropout", "pattern": "hid1:out", "weight": 0.3,
                               "spatial": spatial}]}
        )  # fmt: skip
        wanted = ("hid1:out", "hid1:out-predrop")
        sampler = Sampler(network, resolve(spec, network.graph), wanted=wanted, seed=3)
        drawn = sampler.samples(rows_of(x), np.arange(20), np.arange(10))
        before = np.broadcast_to(computed(network, x), drawn["hid1:out"].shape)
        seen = before > 0
        kept = drawn["hid1:out"][seen] != 0
        np.testing.assert_allclose(
            drawn["hid1:out"][seen][kept], before[seen][kept] / 0.7, rtol=1e-6
        )
        masks = 10 * 20 * 30 * (1 if spatial else 64)
        share = (drawn["hid1:out"] == 0)[seen].mean()
        assert abs(share - 0.3) < 5 * math.sqrt(0.3 * 0.7 / masks) * (2 if spatial else 1.5)


def convolve(**keywords: Any) -> dict[str, Any]:
    return {"form": "conv2", "size": 4, "filter_size": 3, **keywords}


def test_a_weight_of_each_rows_own_is_convolved_with_its_row() -> None:
    network = convolution("conv2", IMAGE, {"filter_size": 3})
    spec = RegularizationSpec.model_validate(
        {"regularizers": [{"form": "drop_connect", "pattern": "hid1.w", "weight": 0.5}]}
    )
    sampler = Sampler(network, resolve(spec, network.graph), wanted=("hid1:out",), seed=3)
    x = normal(1, *IMAGE)
    values, count = parameters(network), 4000
    drawn = sampler.samples(rows_of(x), np.arange(1), np.arange(count))["hid1:out"][:, 0]
    expected = by_hand("conv2", {"filter_size": 3}, x, values["hid1.w"], values["hid1.b"])[0]
    windows = np.lib.stride_tricks.sliding_window_view(x[0].astype(np.float64), (3, 3), axis=(1, 2))
    variance = np.einsum("chwij,fcij->fhw", windows**2, values["hid1.w"].astype(np.float64) ** 2)
    errors = (drawn.mean(axis=0) - expected) / np.sqrt(variance / count)
    assert np.abs(errors).max() < 5
    np.testing.assert_allclose(drawn.var(axis=0), variance, rtol=0.2)


def test_filters_begin_by_what_they_read_and_feed() -> None:
    graph = graph_of([
        {"form": "input", "shape": [8, 12, 12]},
        convolve(size=400),
        convolve(size=300, activation="tanh"),
        convolve(size=50, std=0.5, mean=1, sparsity=0.5),
        "flatten",
        2,
    ])  # fmt: skip
    values = initial_parameters(graph, seed=1)
    assert values["hid1.w"].shape == (400, 8, 3, 3)
    for name, std in (
        ("hid1.w", math.sqrt(2 / (8 * 9))),
        ("hid2.w", math.sqrt(2 / (400 * 9 + 300 * 9))),
    ):
        assert values[name].std() == pytest.approx(std, rel=4 / math.sqrt(2 * values[name].size))
    third = values["hid3.w"]
    assert (third == 0).mean() == pytest.approx(0.5, abs=0.01)
    assert third[third != 0].mean() == pytest.approx(1, abs=0.01)
    assert not values["hid1.b"].any()


def test_the_work_of_a_convolution_is_counted() -> None:
    graph = graph_of([{"form": "input", "shape": IMAGE}, convolve(stride=2), "flatten", 2])
    assert graph.outputs["hid1:out"] == (4, 4, 3)
    assert graph.layers[1].flops_per_row == 2 * (4 * 4 * 3) * (3 * 3 * 3)
    graph = graph_of(
        [{"form": "input", "shape": STEPS}, convolve(form="conv1", filter_size=2), "flatten", 2]
    )
    assert graph.layers[1].flops_per_row == 2 * (10 * 4) * (2 * 3)


def test_a_convolution_reads_sequences_of_any_length_that_it_keeps() -> None:
    layers: list[Any] = [{"form": "input", "shape": STEPS}, convolve(form="conv1", filter_size=4)]
    layers[1]["border_mode"] = "same"
    network = random_network([*layers, {"form": "last"}, 2])
    x = normal(3, 20, 3)
    longest = graph_of_steps(network.graph, 20)
    assert longest is not None
    whole = computed(network.of_graph(longest), x)
    for steps in (1, 3, 7):
        graph = graph_of_steps(network.graph, steps)
        assert graph is not None
        ours = computed(network.of_graph(graph), x[:, :steps])
        assert ours.shape == (3, steps, 4)
        inner = max(0, steps - 2)  # the others read zeros where the whole has steps
        np.testing.assert_allclose(ours[:, :inner], whole[:, :inner], rtol=1e-5, atol=1e-6)
    assert graph_of_steps(random_network([*layers, "flatten", 2]).graph, 7) is None


def test_channels_join_and_add_up() -> None:
    layers: list[Any] = [
        {"form": "input", "shape": [2, 6, 5]},
        convolve(border_mode="same", name="a"),
        convolve(border_mode="same", name="b", inputs="in", size=4),
        {"form": "concatenate", "inputs": ["a", "b", "in"], "name": "joined"},
        {"form": "add", "inputs": ["a", "b"], "name": "sum"},
        {"form": "product", "inputs": ["a", "b"], "name": "product"},
        {"form": "concatenate", "inputs": ["joined", "sum", "product"], "name": "all"},
        "flatten",
        2,
    ]
    network = random_network(layers)
    wanted = ("a:out", "b:out", "joined:out", "sum:out", "product:out", "all:out")
    x = normal(3, 2, 6, 5)
    values = Sampler(network, (), wanted=wanted).deterministic(rows_of(x))
    a, b = values["a:out"], values["b:out"]
    assert np.array_equal(values["joined:out"], np.concatenate([a, b, x], axis=1))
    assert np.array_equal(values["sum:out"], a + b)
    assert np.array_equal(values["product:out"], a * b)
    assert network.graph.outputs["all:out"] == (18, 6, 5)


def test_a_stored_network_predicts_to_the_same_bits() -> None:
    layers: list[Any] = [
        {"form": "input", "shape": [1, 8, 8]},
        convolve(border_mode="full", stride=[2, 1], activation="prelu"),
        {"form": "pool2", "pool_size": 2, "stride": 1, "mode": "average_inc_pad"},
        "flat",
        10,
        {"form": "reshape", "shape": [5, 2]},
        {"form": "conv1", "size": 3, "filter_size": 2},
        {"form": "pool1", "pool_size": 2, "mode": "sum"},
    ]  # fmt: skip
    network = random_network(layers)
    stored = weights_of(initial_parameters(network.graph, seed=1))
    document = document_of(
        network.graph,
        Encoding.identity({"in": (1, 8, 8)}, (2, 3), "regressor"),
        (),
        stored,
        spec=None,
        noise_precision=None,
        metrics={},
        kept_epoch=None,
        version="1",
    )
    model = load_model(document, stored)
    assert model.graph == network.graph
    x = normal(5, 1, 8, 8)
    ours = computed(network, x, "out:out")
    assert ours.shape == (5, 2, 3)
    assert np.array_equal(computed(model.network, x, "out:out"), ours)


@pytest.mark.parametrize(
    ("shape", "layer", "pointer", "said"),
    [
        (IMAGE, convolve(filter_size=[3, 8]), "filter_size", "9 x 7 pixels"),
        (IMAGE, convolve(filter_size=10, border_mode="valid"), "filter_size", "at most"),
        (IMAGE, convolve(filter_size=10_000, border_mode="full"), None, "at most 16777216"),
        (STEPS, convolve(form="conv1", filter_size=12), "filter_size", "11 steps"),
        (STEPS, convolve(form="conv1", filter_size=[2, 2]), "filter_size", "one number"),
        (STEPS, convolve(form="conv1", stride=[2, 2]), "stride", "one number"),
        (IMAGE, convolve(filter_size=None), "filter_size", "needs a `filter_size`"),
        (IMAGE, convolve(size=None), "size", "needs a `size`"),
        (IMAGE, convolve(size=1_000_000), None, "at most 16777216"),
        (IMAGE, convolve(form="conv1"), None, "a sequence"),
        (STEPS, convolve(), None, "an image"),
        ([12], convolve(), None, "reshape"),
        (IMAGE, convolve(pool_size=2), "pool_size", "takes no `pool_size`"),
        (IMAGE, convolve(diagonal=1.0), "diagonal", "filters"),
        (IMAGE, convolve(radius=1.0), "radius", "filters"),
        (IMAGE, convolve(initial={"w": {"diagonal": 1}}), "initial/w/diagonal", "matrices"),
        (IMAGE, convolve(shape=[4, 7, 5]), "shape", "takes no `shape`"),
        ([7], {"size": 3, "filter_size": 3}, "filter_size", "takes no `filter_size`"),
        ([7], {"size": 3, "border_mode": "same"}, "border_mode", "takes no `border_mode`"),
        (IMAGE, 3, None, "flatten"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_and_pointed_at(
    shape: list[int], layer: Any, pointer: str | None, said: str
) -> None:
    place = "" if pointer is None else f"/{pointer}"
    with pytest.raises(SpecError, match=said) as caught:
        graph_of([{"form": "input", "shape": shape}, layer, "flatten", 2])
    assert caught.value.pointer == f"#/network/layers/1{place}"


def test_a_last_convolution_has_the_channels_of_the_data() -> None:
    spec = NetworkSpec.model_validate({"layers": [None, convolve(size=None, border_mode="same")]})
    graph = build_graph(
        spec, form="autoencoder", input_shapes={"in": (3, 6, 5)}, output_shape=(3, 6, 5)
    )
    assert (graph.last.shape, graph.last.activation) == ((3, 6, 5), "linear")
    with pytest.raises(SpecError, match="flatten"):
        build_graph(spec, form="regressor", input_shapes={"in": (3, 6, 5)}, output_shape=(3,))
    with pytest.raises(SpecError, match="softmax") as caught:
        build_graph(spec, form="classifier", input_shapes={"in": (3, 6, 5)}, output_shape=(3,))
    assert caught.value.pointer == "#/network/layers/1/form"
