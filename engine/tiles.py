"""Tiles: the general path through any network, a fixed number of rows at a time.

A tile always has the same number of rows, padded where need be, so that a product takes the same
path through the BLAS and gives a row the same bits alone, among others or in pieces.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from engine.graph import Graph
from engine.layers import Shape
from engine.network import Network, evaluate
from engine.regularizers import Site
from engine.streams import row_states

__all__ = ["Tiles"]

Array = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
Keys = Mapping[Site, npt.NDArray[np.uint64]]
"""The key of each row's stream, by site."""

_TILES = ((512, 128), (128, 512), (64, 4096))
"""Rows of a tile for a network whose widest output has at most so many numbers; else 32.

Elementwise functions take 32 numbers at once and compute what is left of a tile in another way, so
nothing may be left: tiles have a multiple of 32 rows.
"""
_TILE_WEIGHTS = 1 << 24
_TILE_NUMBERS = 1 << 22  # of the widest output


class Tiles:
    """Evaluates a network's layers by torch, on its device."""

    def __init__(
        self,
        network: Network,
        sites: Mapping[str, tuple[Site, ...]],
        *,
        shared: bool,
        rows: int | None = None,
    ) -> None:
        """`shared` says that masks depend on the pass alone; `rows` is a multiple of 32."""
        self._network = network
        self._sites = sites
        self._shared = shared
        self.rows = rows or _tile_rows(network.graph, sites)

    def evaluate(self, known: Mapping[str, Array], wanted: Iterable[str]) -> dict[str, Array]:
        """Return outputs as their layers compute them, of at most a tile of rows."""
        count = len(next(iter(known.values())))
        with torch.inference_mode():
            values = evaluate(
                self._network.graph,
                self._network.weights,
                {name: self._to_tile(value) for name, value in known.items()},
                wanted=tuple(dict.fromkeys(wanted)),
            )
        return {name: value[:count].cpu().numpy() for name, value in values.items()}

    def draw(
        self,
        known: Mapping[str, Array],
        keys: Keys,
        passes: Indices,
        rows: Indices,
        wanted: Sequence[str],
    ) -> dict[str, Array]:
        """Return outputs of at most a tile of (pass, row) pairs.

        All arguments have one row, key, or number a pair.
        """
        tensors = {name: self._to_tile(value) for name, value in known.items()}
        with torch.inference_mode():
            values = evaluate(
                self._network.graph,
                self._network.weights,
                tensors,
                sites=self._sites,
                draw=lambda site, shape: self._draw(site, keys[site], passes, rows, shape),
                wanted=wanted,
            )
        return {name: value[: len(passes)].cpu().numpy() for name, value in values.items()}

    def _to_tile(self, rows: Array) -> torch.Tensor:
        tile = np.zeros((self.rows, *rows.shape[1:]), dtype=np.float32)
        tile[: len(rows)] = rows
        return torch.from_numpy(tile).to(self._network.device)

    def _draw(
        self,
        site: Site,
        keys: npt.NDArray[np.uint64],
        passes: Indices,
        rows: Indices,
        shape: Shape,
    ) -> torch.Tensor:
        """Draw what the site multiplies an output (tile, *shape) by, or adds to it.

        For a weight, each row of the tile has its own.
        """
        if self._shared:
            pairs = np.stack([passes.astype(np.uint64), keys])
            _, first, inverse = np.unique(pairs, axis=1, return_index=True, return_inverse=True)
            states = row_states(keys[first], passes[first], np.zeros_like(passes[first]))
            drawn = site.draw(states, shape)[inverse]
        else:
            drawn = site.draw(row_states(keys, passes, rows), shape)
        return self._to_tile(drawn)


def _tile_rows(graph: Graph, sites: Mapping[str, tuple[Site, ...]]) -> int:
    """Return how many rows a tile has: a function of the network and its sites alone.

    Where weights are dropped, each row of a tile has its own.
    """
    width = max(math.prod(shape) for shape in graph.outputs.values())
    rows = next((rows for rows, widest in _TILES if width <= widest), 32)
    dropped = max((math.prod(graph.parameters.get(name, ())) for name in sites), default=1)
    rows = min(rows, _TILE_WEIGHTS // dropped, _TILE_NUMBERS // width)
    return rows - rows % 32 if rows >= 32 else 1
