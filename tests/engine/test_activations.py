"""Activations against their formulas, worked in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special

from engine.activations import ACTIVATIONS, activate

X = np.linspace(-6, 6, 97).reshape(1, -1)

FORMULAS = {
    "linear": X,
    "relu": np.maximum(X, 0),
    "tanh": np.tanh(X),
    "sigmoid": special.expit(X),
    "softplus": np.logaddexp(0, X),
    "softmax": special.softmax(X, axis=1),
    "elu": np.where(X > 0, X, np.expm1(X)),
    "gelu": X * special.ndtr(X),
    "silu": X * special.expit(X),
    "rect:max": np.maximum(X, 0),
    "rect:min": np.minimum(X, 1),
    "rect:minmax": np.clip(X, 0, 1),
    "norm:mean": X - X.mean(),
    "norm:max": X / (np.abs(X).max() + 1e-8),
    "norm:std": X / (X.std() + 1e-8),
    "norm:z": (X - X.mean()) / (X.std() + 1e-8),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_its_formula(name: str) -> None:
    ours = ACTIVATIONS[name](torch.from_numpy(X)).numpy()
    np.testing.assert_allclose(ours, FORMULAS[name], rtol=1e-12, atol=1e-15)


def test_activations_joined_by_plus_apply_from_left_to_right() -> None:
    ours = activate("tanh+norm:max", torch.from_numpy(X)).numpy()
    np.testing.assert_allclose(ours, np.tanh(X) / (np.abs(np.tanh(X)).max() + 1e-8), rtol=1e-12)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    x = torch.linspace(-3, 3, 8, dtype=torch.float64) + 0.01  # not on the kink of relu
    x = x.reshape(1, -1).requires_grad_()
    assert torch.autograd.gradcheck(ACTIVATIONS[name], (x,))
