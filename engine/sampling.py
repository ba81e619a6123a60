"""Monte-Carlo passes: masks drawn, layers evaluated, every sample a function of its address.

What no mask reaches is computed once, whatever the number of passes; the rest in tiles of (pass,
row) pairs. A tile always has the same number of rows, padded where need be, so that a product takes
the same path through the BLAS and gives a row the same bits alone, among others or in pieces.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from engine.data.inputs import Inputs
from engine.errors import StoppedError
from engine.graph import Graph
from engine.layers import Layer, Shape
from engine.names import plain_name
from engine.network import Network, evaluate, needed_layers
from engine.regularizers import Regularizer, Site, sites_of
from engine.streams import row_states, stream_key

__all__ = ["PreparedRows", "Sampler", "readable_outputs"]

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
_CHUNK_BYTES = 32 << 20
"""Samples held at once: all passes of as many rows as fit."""


def readable_outputs(graph: Graph, regularizers: Sequence[Regularizer]) -> dict[str, Shape]:
    """Return the shape of every output that can be asked for, those before dropout included."""
    shapes = dict(graph.outputs)
    for name, sites in sites_of(regularizers).items():
        if name in graph.outputs:
            shapes |= {name + site.suffix: graph.outputs[name] for site in sites}
    return shapes


class Sampler:
    """Samples named outputs of one network under given regularizers, seed and kind of masks."""

    def __init__(
        self,
        network: Network,
        regularizers: Sequence[Regularizer],
        *,
        wanted: Sequence[str],
        seed: int = 0,
        masks: Literal["independent", "shared"] = "independent",
        stop: Callable[[], bool] = lambda: False,
        tile: int | None = None,
        threads: int = 1,
    ) -> None:
        """`stop` is asked before every tile; where it says so, StoppedError ends the work.

        `tile` is for few rows: how many to compute at a time, a multiple of 32; bits depend on it.
        They do not depend on `threads`, of which the compiled kernels use so many at most.
        """
        self.network = network
        self.threads = threads
        self.wanted = tuple(wanted)
        self._stop = stop
        self._shares_masks = masks == "shared"
        self._sites = sites_of(regularizers)
        self._seed = seed
        self._purpose = f"predict {masks}"
        self._random = _random_outputs(network.graph, self._sites)
        self.stochastic = tuple(name for name in self.wanted if name in self._random)
        """The wanted outputs that some mask reaches."""
        self.tile = tile or _tile_rows(network.graph, self._sites)

    def deterministic(self, x: Inputs) -> dict[str, Array]:
        """Return the wanted outputs that no mask reaches, each (rows, *shape)."""
        wanted = [name for name in self.wanted if name not in self._random]
        return self.evaluate_rows(x, wanted)

    def chunks(self, rows: int, num_samples: int) -> Iterator[slice]:
        """Cut rows into pieces whose samples fit in memory together; no bit depends on the cut."""
        width = sum(self.network.graph.size_of(name) for name in self.stochastic)
        size = max(1, _CHUNK_BYTES // max(1, 4 * num_samples * width))
        for start in range(0, rows, size):
            yield slice(start, min(start + size, rows))

    def samples(self, x: Inputs, row_ids: Indices, passes: Indices) -> dict[str, Array]:
        """Return samples of the wanted outputs that masks reach, each (passes, rows, *shape).

        `x` are rows as the network reads them, `row_ids` their positions in the random streams,
        `passes` the numbers of the passes to draw.
        """
        return PreparedRows(self, x, row_ids).samples(passes)

    def prepare(
        self, x: Inputs, row_ids: Indices, seeds: Sequence[int] | None = None
    ) -> PreparedRows:
        """Compute for some rows what no mask reaches, so that passes of them can be drawn.

        `seeds` has one for each row; by default it is the sampler's for all.
        """
        return PreparedRows(self, x, row_ids, seeds)

    def keys(self, rows: int, seeds: Sequence[int] | None) -> Keys:
        """Return the key of each row's stream, by site."""
        given = [self._seed] * rows if seeds is None else seeds
        keys: dict[Site, npt.NDArray[np.uint64]] = {}
        for site in (site for sites in self._sites.values() for site in sites):
            of_seed = {s: stream_key(s, self._purpose, *site.address) for s in set(given)}
            keys[site] = np.array([of_seed[s] for s in given], dtype=np.uint64)
        return keys

    # -- the plan ----------------------------------------------------------------------------------

    def prefix_from(self, x: Inputs) -> list[str]:
        """Return the raw outputs, given or deterministic, from which the stochastic part starts.

        Of a layer whose values are given it is `out` alone, also where a mask before it would make
        them random.
        """
        graph = self.network.graph
        fixed = {
            layer.out: (layer.out,) if layer.out in x.values else tuple(layer.outputs)
            for layer in graph.layers
            if layer.out in x.values or not _is_random(layer, self._random, self._sites)
        }
        visited = needed_layers(graph, self.stochastic, fixed)
        return [name for layer in visited for name in fixed.get(layer.out, ())]

    def evaluate_rows(self, x: Inputs, wanted: Sequence[str]) -> dict[str, Array]:
        """Evaluate outputs for every row, in tiles, as their layers compute them."""
        plain = {name: plain_name(name) for name in wanted}
        results: dict[str, Array] = {}
        if not plain:
            return results
        for start in range(0, len(x), self.tile):
            self._go_on()
            rows = x[start : start + self.tile]
            known = {name: self._to_tile(value) for name, value in rows.values.items()}
            with torch.inference_mode():
                values = evaluate(
                    self.network.graph,
                    self.network.weights,
                    known,
                    wanted=tuple(dict.fromkeys(plain.values())),
                )
            for name, raw in plain.items():
                value = values[raw][: len(rows)].cpu().numpy()
                if name not in results:
                    results[name] = np.empty((len(x), *value.shape[1:]), dtype=np.float32)
                results[name][start : start + len(rows)] = value
        return results

    def _go_on(self) -> None:
        if self._stop():
            raise StoppedError("the work was asked to stop")

    # -- one tile ----------------------------------------------------------------------------------

    def draw_tile(
        self, known: Mapping[str, Array], keys: Keys, passes: Indices, rows: Indices
    ) -> dict[str, Array]:
        """Return the stochastic outputs of at most a tile of (pass, row) pairs.

        All arguments have one row, key, or number a pair.
        """
        self._go_on()
        tensors = {name: self._to_tile(value) for name, value in known.items()}
        with torch.inference_mode():
            values = evaluate(
                self.network.graph,
                self.network.weights,
                tensors,
                sites=self._sites,
                draw=lambda site, shape: self._draw(site, keys[site], passes, rows, shape),
                wanted=self.stochastic,
            )
        return {name: value[: len(passes)].cpu().numpy() for name, value in values.items()}

    def _to_tile(self, rows: Array) -> torch.Tensor:
        tile = np.zeros((self.tile, *rows.shape[1:]), dtype=np.float32)
        tile[: len(rows)] = rows
        return torch.from_numpy(tile).to(self.network.device)

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
        if self._shares_masks:
            pairs = np.stack([passes.astype(np.uint64), keys])
            _, first, inverse = np.unique(pairs, axis=1, return_index=True, return_inverse=True)
            states = row_states(keys[first], passes[first], np.zeros_like(passes[first]))
            drawn = site.draw(states, shape)[inverse]
        else:
            drawn = site.draw(row_states(keys, passes, rows), shape)
        return self._to_tile(drawn)


class PreparedRows:
    """Some rows, of which any passes can be drawn; what no mask reaches is computed already."""

    def __init__(
        self,
        sampler: Sampler,
        x: Inputs,
        row_ids: Indices,
        seeds: Sequence[int] | None = None,
    ) -> None:
        """See `Sampler.prepare`."""
        self._sampler = sampler
        self._rows = len(x)
        self._row_ids = row_ids
        self._keys = sampler.keys(len(x), seeds)
        self._known = sampler.evaluate_rows(x, sampler.prefix_from(x))
        self.deterministic = sampler.deterministic(x)
        """The wanted outputs that no mask reaches, each (rows, *shape)."""

    def draw(self, first: int, count: int) -> dict[str, Array]:
        """Return passes `first` to `first + count - 1` of the wanted outputs that masks reach.

        Each is (count, rows, *shape).
        """
        return self.samples(np.arange(first, first + count, dtype=np.int64))

    def samples(self, passes: Indices) -> dict[str, Array]:
        """Return the passes of these numbers, each output (passes, rows, *shape)."""
        sampler = self._sampler
        count = len(passes) * self._rows
        drawn: dict[str, Array] = {}
        for start in range(0, count, sampler.tile):
            pairs = np.arange(start, min(start + sampler.tile, count))
            which_pass, which_row = np.divmod(pairs, self._rows)
            values = sampler.draw_tile(
                {name: value[which_row] for name, value in self._known.items()},
                {site: keys[which_row] for site, keys in self._keys.items()},
                passes[which_pass],
                self._row_ids[which_row],
            )
            for name, value in values.items():
                if name not in drawn:
                    drawn[name] = np.empty((count, *value.shape[1:]), dtype=np.float32)
                drawn[name][start : start + len(pairs)] = value
        return {
            name: value.reshape(len(passes), self._rows, *value.shape[1:])
            for name, value in drawn.items()
        }


def _random_outputs(graph: Graph, sites: Mapping[str, tuple[Site, ...]]) -> frozenset[str]:
    """Return every output, those before dropout and noise included, that differs between passes."""
    random: set[str] = set()
    for layer in graph.layers:
        computes_random = _is_random(layer, random, sites)
        for name in layer.outputs:
            is_random = computes_random
            decided: set[str] = set()
            for site in sites.get(name, ()):
                if is_random and site.suffix not in decided:
                    random.add(name + site.suffix)
                decided.add(site.suffix)
                is_random = is_random or site.acts
            if is_random:
                random.add(name)
    return frozenset(random)


def _is_random(
    layer: Layer, random: Collection[str], sites: Mapping[str, tuple[Site, ...]]
) -> bool:
    """Say whether a layer computes something else in each pass."""
    dropped = (site.acts for name in layer.used_parameters for site in sites.get(name, ()))
    return any(name in random for name in layer.inputs) or any(dropped)


def _tile_rows(graph: Graph, sites: Mapping[str, tuple[Site, ...]]) -> int:
    """Return how many rows a tile has: a function of the network and its sites alone.

    Where weights are dropped, each row of a tile has its own.
    """
    width = max(math.prod(shape) for shape in graph.outputs.values())
    rows = next((rows for rows, widest in _TILES if width <= widest), 32)
    dropped = max((math.prod(graph.parameters.get(name, ())) for name in sites), default=1)
    rows = min(rows, _TILE_WEIGHTS // dropped, _TILE_NUMBERS // width)
    return rows - rows % 32 if rows >= 32 else 1
