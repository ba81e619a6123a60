"""Activations against their formulas, worked in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special

from engine.activations import ACTIVATIONS

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
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_its_formula(name: str) -> None:
    ours = ACTIVATIONS[name](torch.from_numpy(X)).numpy()
    np.testing.assert_allclose(ours, FORMULAS[name], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    x = torch.linspace(-3, 3, 8, dtype=torch.float64) + 0.01  # not on the kink of relu
    x = x.reshape(1, -1).requires_grad_()
    assert torch.autograd.gradcheck(ACTIVATIONS[name], (x,))
