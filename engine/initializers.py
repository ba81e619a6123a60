"""Initial parameters, each from a random stream of its own."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from engine.graph import Graph
from engine.layers import Layer
from engine.spec import InitialSpec
from engine.streams import generator

__all__ = ["initial_parameters", "with_radius"]

_RECTIFIERS = ("relu", "rect:max", "elu", "gelu", "silu", "prelu", "lgrelu")

Values = npt.NDArray[np.float32]


def initial_parameters(graph: Graph, *, seed: int) -> dict[str, Values]:
    """Draw every parameter of `graph`: weights by name and seed, vectors zero.

    Weights of a layer that rectifies have standard deviation sqrt(2 / inputs) (He et al. 2015),
    the others sqrt(2 / (inputs + outputs)) (Glorot & Bengio 2010), where the layer's own `std`,
    `mean`, `sparsity`, `diagonal` and `radius` do not say otherwise; inputs are counted over all
    that the layer reads. Some forms begin some parameters in a way of their own. What `initial`
    says of a parameter comes before all of that.
    """
    values: dict[str, Values] = {}
    for layer in graph.layers:
        for local, shape in layer.own_parameters.items():
            name = layer.full_name(local)
            own = (layer.spec.initial or {}).get(local)
            special = layer.initial_value(local, seed) if own is None else None
            if special is not None:
                values[name] = special
            elif len(shape) == 1 and own is None:
                values[name] = np.zeros(shape, dtype=np.float32)
            else:
                values[name] = _drawn(layer, local, own, seed)
    return values


def _drawn(layer: Layer, local: str, own: InitialSpec | None, seed: int) -> Values:
    given, shape = _beginning(layer, local, own), layer.own_parameters[local]
    name = layer.full_name(local)
    blocks = max(1, layer.square_blocks(local)) if len(shape) == 2 else 1
    if given.diagonal is not None and len(shape) == 2:
        square = np.eye(shape[0], shape[1] // blocks, dtype=np.float32)
        return np.tile(square * np.float32(given.diagonal), (1, blocks))
    values = generator(seed, "parameter", name).standard_normal(shape, dtype=np.float32)
    values *= np.float32(given.std)
    values += np.float32(given.mean or 0.0)
    if given.sparsity:
        zero = generator(seed, "sparsity", name).random(shape) < given.sparsity
        if len(shape) == 2:
            np.fill_diagonal(zero, False)  # as in theanets: no weight matrix loses its rank
        values[zero] = 0.0
    if not given.radius:
        return values
    squares = np.split(values, blocks, axis=1)
    return np.concatenate([with_radius(square, given.radius) for square in squares], axis=1)


def with_radius(matrix: Values, radius: float) -> Values:
    """Scale a matrix so that its largest singular value is `radius`.

    It is what theanets' `radius` does, and bounds the spectral radius of a square matrix.
    """
    largest = np.linalg.norm(matrix.astype(np.float64), 2) if np.isfinite(matrix).all() else 0.0
    return matrix if largest == 0 else (matrix * (radius / largest)).astype(np.float32)


def _is_square(layer: Layer, local: str) -> bool:
    """Say whether the layer's `diagonal` and `radius` are for a parameter."""
    return len(layer.own_parameters[local]) == 2 and layer.square_blocks(local) > 0


def _beginning(layer: Layer, local: str, own: InitialSpec | None) -> InitialSpec:
    """Return how a parameter begins: what is said of it, then of the layer's weights."""
    if len(layer.own_parameters[local]) == 1:
        said: dict[str, float | None] = {"std": 0.0}
    else:
        rectifies = layer.activation.split("+")[0] in _RECTIFIERS
        fan_in, fan_out = layer.fans(local)
        usual = math.sqrt(2 / fan_in) if rectifies else math.sqrt(2 / (fan_in + fan_out))
        said = {"std": usual} | {
            key: getattr(layer.spec, key)
            for key in InitialSpec.model_fields
            if getattr(layer.spec, key) is not None
            and not (key in ("radius", "diagonal") and not _is_square(layer, local))
        }
        # A diagonal of the layer's is not for a parameter that is said to be drawn otherwise.
        if own is not None and own.diagonal is None:
            said.pop("diagonal", None)
    said |= {} if own is None else own.model_dump(exclude_none=True)
    return InitialSpec.model_construct(None, **said)  # each part was validated where it was said
