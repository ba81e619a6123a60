"""First weights that are rows of the data, and not random."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from engine.data.inputs import Inputs
from engine.graph import Graph
from engine.layers import Layer
from engine.layers.feedforward import Feedforward
from engine.network import Network
from engine.sampling import Sampler
from engine.streams import generator
from engine.training_data import TrainingRows

__all__ = ["sampled_layers", "sampled_parameters"]

Values = npt.NDArray[np.float32]
_SAMPLED_ROWS = 10_000


def sampled_parameters(
    graph: Graph, initial: Mapping[str, Values], data: TrainingRows, *, seed: int
) -> dict[str, Values]:
    """Put normalised rows of the data in the place of random weights.

    The columns of a feedforward layer's weights become rows of what it reads, one layer after the
    other; the rows of a regressor's last weights become rows of the targets.
    """
    values = dict(initial)
    order = generator(seed, "sample").permutation(data.rows)[:_SAMPLED_ROWS]
    taken = data.take(order)
    x = taken.x.map(lambda tensor: tensor.cpu().numpy())
    for layer in sampled_layers(graph):
        name = f"{layer.name}.w"
        if layer is graph.last:
            targets = taken.y.cpu().numpy().reshape(-1, layer.size)
            values[name] = _rows(targets, graph.parameters[name][0], seed, name)
        else:
            read = _evaluated(graph, values, x, layer.inputs[0])
            values[name] = _rows(read, layer.size, seed, name).T.copy()
    return values


def sampled_layers(graph: Graph) -> list[Layer]:
    """Return the layers whose weights `sampled_parameters` sets."""
    layers = graph.layers[:-1] if graph.form == "classifier" else graph.layers
    return [layer for layer in layers if type(layer) is Feedforward and len(layer.inputs) == 1]


def _evaluated(graph: Graph, values: Mapping[str, Values], x: Inputs, output: str) -> Values:
    sampler = Sampler(Network(graph, values), (), wanted=(output,))
    read = sampler.deterministic(x)[output]
    return read.reshape(-1, read.shape[-1])


def _rows(source: Values, count: int, seed: int, name: str) -> Values:
    """Return `count` rows of length 1; where there are too few, distorted copies of them.

    A row of zeros has no direction, and is not taken.
    """
    draw = generator(seed, "sample", name)
    lengths = np.linalg.norm(source, axis=1, keepdims=True)
    known = (source / np.where(lengths > 0, lengths, 1))[lengths[:, 0] > 0]
    if len(known) == 0:
        known = np.ones((1, source.shape[1]), dtype=np.float32)
    chosen = known[draw.permutation(len(known))[:count]]
    missing = count - len(chosen)
    if missing:
        copies = known[draw.integers(len(known), size=missing)]
        spread = np.maximum(known.std(axis=0), 1e-3)
        copies = copies + spread * draw.standard_normal(copies.shape)
        chosen = np.concatenate([chosen, copies])
    scaled: Values = (chosen / np.linalg.norm(chosen, axis=1, keepdims=True)).astype(np.float32)
    return scaled
