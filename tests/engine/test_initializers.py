"""How parameters begin: by the layer's keys, and by what `initial` says of single ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from engine.errors import SpecError
from engine.initializers import initial_parameters
from tests.engine.networks import graph_of

WIDE = 4000


def begun(**layer: Any) -> dict[str, npt.NDArray[np.float32]]:
    return initial_parameters(graph_of([5, {"size": WIDE, **layer}, 1]), seed=3)


def test_weights_begin_as_the_layer_says_and_biases_at_zero() -> None:
    values = begun(mean=0.5, std=0.1)
    w = values["hid1.w"]
    assert abs(w.mean() - 0.5) < 4 * 0.1 / np.sqrt(w.size)
    assert abs(w.std() - 0.1) < 4 * 0.1 / np.sqrt(2 * w.size)
    assert not values["hid1.b"].any()


def test_one_parameter_may_begin_otherwise() -> None:
    values = begun(std=0.1, initial={"b": {"mean": 2.0, "std": 0.5}})
    assert np.array_equal(values["hid1.w"], begun(std=0.1)["hid1.w"])
    b = values["hid1.b"]
    assert abs(b.mean() - 2) < 4 * 0.5 / np.sqrt(WIDE)
    assert abs(b.std() - 0.5) < 4 * 0.5 / np.sqrt(2 * WIDE)


def test_a_vector_with_a_mean_alone_is_that_mean() -> None:
    assert (begun(initial={"b": {"mean": 2.0}})["hid1.b"] == 2).all()


def test_what_is_said_of_a_parameter_comes_before_the_layers_keys() -> None:
    values = begun(std=0.1, initial={"w": {"std": 3.0}})
    assert np.allclose(values["hid1.w"], 30 * begun(std=0.1)["hid1.w"])
    diagonal = begun(diagonal=2.0)["hid1.w"]
    assert np.array_equal(begun(initial={"w": {"diagonal": 2.0}})["hid1.w"], diagonal)
    assert (begun(diagonal=2.0, initial={"w": {"std": 1.0}})["hid1.w"] != 0).all()
    sparse = begun(initial={"w": {"sparsity": 0.3}})["hid1.w"]
    assert abs((sparse == 0).mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / sparse.size)


@pytest.mark.parametrize("size", [5, 3, 40])
def test_weights_have_the_radius_asked_for(size: int) -> None:
    """theanets' `random_matrix`, worked in float64: u diag(radius s / s_0) v."""
    graph = graph_of([5, {"size": size, "radius": 1.3, "sparsity": 0.6}, 1])
    ours = initial_parameters(graph, seed=3)["hid1.w"]
    plain = graph_of([5, {"size": size, "sparsity": 0.6}, 1])
    u, s, v = np.linalg.svd(initial_parameters(plain, seed=3)["hid1.w"].astype(np.float64), False)
    np.testing.assert_allclose(ours, u @ np.diag(1.3 * s / s[0]) @ v, atol=1e-6)
    assert np.linalg.svd(ours)[1][0] == pytest.approx(1.3, rel=1e-6)


def test_a_parameters_own_radius_comes_before_the_layers() -> None:
    values = begun(radius=2.0, initial={"w": {"radius": 0.5}})
    assert np.linalg.norm(values["hid1.w"], 2) == pytest.approx(0.5, rel=1e-5)
    assert np.array_equal(begun(radius=0.0)["hid1.w"], begun()["hid1.w"])
    with pytest.raises(SpecError, match="zeros") as refused:
        begun(std=0.0, initial={"w": {"radius": 2.0}})
    assert refused.value.pointer == "#/network/layers/1/initial/w/radius"


def test_sparse_weights_keep_their_diagonal() -> None:
    w = begun(sparsity=0.9)["hid1.w"]
    assert np.diagonal(w).all()
    assert abs((w == 0).mean() - 0.9) < 4 * np.sqrt(0.9 * 0.1 / w.size) + 5 / w.size


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ({"diagonal": 1.0, "std": 0.1}, "without `std`"),
        ({"diagonal": 1.0, "radius": 0.1}, "without `radius`"),
        ({"std": 0.0, "radius": 0.1}, "all zero"),
        ({"radius": -1.0}, "greater than or equal to 0"),
        ({"initial": {"w": {"diagonal": 1.0, "sparsity": 0.1}}}, "without `sparsity`"),
    ],
)
def test_a_beginning_of_which_a_part_would_mean_nothing_is_refused(
    layer: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        begun(**layer)


@pytest.mark.parametrize(
    ("initial", "pointer", "words"),
    [
        ({"w2": {"std": 1.0}}, "#/network/layers/1/initial/w2", "w, b"),
        ({"b": {"diagonal": 1.0}}, "#/network/layers/1/initial/b/diagonal", "matrices"),
        ({"b": {"radius": 1.0}}, "#/network/layers/1/initial/b/radius", "matrices"),
    ],
)
def test_what_a_layer_has_not_cannot_begin(
    initial: dict[str, Any], pointer: str, words: str
) -> None:
    with pytest.raises(SpecError, match=words) as refused:
        begun(initial=initial)
    assert refused.value.pointer == pointer
