"""Pooling of sequences and images."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from engine.errors import SpecError
from engine.sampling import Sampler
from tests.engine.networks import Floats, graph_of, random_network, rows_of

IMAGE = (3, 9, 7)


def pooled(shape: tuple[int, ...], x: Floats, **keywords: Any) -> Floats:
    form = "pool1" if len(shape) == 2 else "pool2"
    layers = [{"form": "input", "shape": list(shape)}, {"form": form, **keywords}, "flatten", 2]
    sampler = Sampler(random_network(layers), (), wanted=("hid1:out",))
    return sampler.deterministic(rows_of(x))["hid1:out"]


def normal(*shape: int) -> Floats:
    return np.random.default_rng(5).standard_normal(shape).astype(np.float32)


def starts(there: int, wide: int, step: int, ignore_border: bool) -> range:
    """Where windows begin, as Theano documents: inside, and while what is behind is not covered."""
    if ignore_border:
        return range(0, there - wide + 1, step)
    count = -(-there // step) if step >= wide else -(-max(0, there - wide) // step) + 1
    return range(0, count * step, step)


def by_loop(x: Any, size: tuple[int, int], stride: tuple[int, int], mode: str, ignore: bool) -> Any:
    """Pool the last two axes in float64, window by window."""
    x = x.astype(np.float64)
    tops = starts(x.shape[-2], size[0], stride[0], ignore)
    lefts = starts(x.shape[-1], size[1], stride[1], ignore)
    result = np.empty((*x.shape[:-2], len(tops), len(lefts)))
    of: Any = {"max": np.max, "mean": np.mean, "sum": np.sum}[mode]
    for (i, top), (j, left) in itertools.product(enumerate(tops), enumerate(lefts)):
        result[..., i, j] = of(x[..., top : top + size[0], left : left + size[1]], axis=(-2, -1))
    return result


@pytest.mark.parametrize("ignore_border", [False, True])
@pytest.mark.parametrize("mode", ["max", "mean", "sum"])
@pytest.mark.parametrize(
    ("size", "stride"),
    [((2, 2), (2, 2)), ((3, 2), (2, 3)), ((9, 7), (1, 1)), ((1, 1), (1, 1)), ((2, 2), (4, 5))],
)
def test_a_window_becomes_one_number_of_each_channel(
    size: tuple[int, int], stride: tuple[int, int], mode: str, ignore_border: bool
) -> None:
    keywords: Any = {"mode": mode, "ignore_border": ignore_border}
    x = normal(4, *IMAGE)
    expected = by_loop(x, size, stride, mode, ignore_border)
    ours = pooled(IMAGE, x, pool_size=list(size), stride=list(stride), **keywords)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)

    steps = normal(4, 9, 5)
    expected = by_loop(steps.transpose(0, 2, 1)[..., None], (size[0], 1), (stride[0], 1), mode,
                       ignore_border)[..., 0].transpose(0, 2, 1)  # fmt: skip
    ours = pooled((9, 5), steps, pool_size=size[0], stride=stride[0], **keywords)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_windows_stand_side_by_side_and_take_the_largest_unless_told() -> None:
    x = normal(4, *IMAGE)
    theirs = functional.max_pool2d(torch.from_numpy(x), 2, ceil_mode=True).numpy()
    assert np.array_equal(pooled(IMAGE, x, pool_size=2), theirs)
    whole = functional.max_pool2d(torch.from_numpy(x), 2).numpy()
    assert np.array_equal(pooled(IMAGE, x, pool_size=[2, 2], ignore_border=True), whole)
    mean = functional.avg_pool2d(torch.from_numpy(x), (3, 2), ceil_mode=True).numpy()
    assert np.array_equal(pooled(IMAGE, x, pool_size=[3, 2], mode="average_exc_pad"), mean)


@pytest.mark.parametrize("mode", ["max", "mean", "sum"])
def test_gradients_are_those_of_finite_differences(mode: str) -> None:
    for shape, form in (((5, 2), "pool1"), ((2, 3, 5), "pool2")):
        layers = [
            {"form": "input", "shape": list(shape)},
            {"form": form, "pool_size": 2, "mode": mode},
            "flatten",
            2,
        ]
        layer = graph_of(layers).layers[1]

        def out(x: torch.Tensor, layer: Any = layer) -> Any:
            return layer.compute([x], {})[layer.out]

        x = torch.from_numpy(normal(2, *shape)).double().requires_grad_()
        assert torch.autograd.gradcheck(out, (x,))


@pytest.mark.parametrize(
    ("shape", "layer", "pointer", "said"),
    [
        (IMAGE, {"form": "pool2", "pool_size": [3, 8]}, "/pool_size", "9 x 7"),
        (IMAGE, {"form": "pool2"}, "/pool_size", "needs a `pool_size`"),
        (IMAGE, {"form": "pool2", "pool_size": 2, "size": 4}, "/size", "3 values"),
        (IMAGE, {"form": "pool1", "pool_size": 2}, "", "a sequence"),
        ((9, 5), {"form": "pool1", "pool_size": 10}, "/pool_size", "at most"),
        ((9, 5), {"form": "pool1", "pool_size": [2, 2]}, "/pool_size", "one number"),
        ((9, 5), {"form": "pool2", "pool_size": 2}, "", "an image"),
        ((9, 5), {"form": "pool1", "pool_size": 2, "filter_size": 2}, "/filter_size", "takes no"),
        ((9, 5), {"form": "pool1", "pool_size": 2, "activation": "relu"}, "/activation", "no act"),
        ((9, 5), {"form": "pool1", "pool_size": 2, "std": 1.0}, "/std", "no weights"),
        ((9, 5), {"size": 2, "pool_size": 2}, "/pool_size", "takes no"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_and_pointed_at(
    shape: tuple[int, ...], layer: Any, pointer: str, said: str
) -> None:
    with pytest.raises(SpecError, match=said) as caught:
        graph_of([{"form": "input", "shape": list(shape)}, layer, "flatten", 2])
    assert caught.value.pointer == f"#/network/layers/1{pointer}"
