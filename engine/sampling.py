"""Monte-Carlo passes: masks drawn, layers evaluated, every sample a function of its address.

What no mask reaches is computed once, whatever the number of passes; the rest for (pass, row) pairs
by a compiled program of the block kernels where there is one, else in tiles on the general path.
Either gives a pair the same bits alone, among others or in pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from engine.blocks import Way, way_through
from engine.data.inputs import Inputs
from engine.errors import StoppedError
from engine.graph import Graph
from engine.layers import Layer, Shape
from engine.names import plain_name
from engine.network import Network, needed_layers
from engine.regularizers import Regularizer, Site, sites_of
from engine.streams import stream_key
from engine.tiles import Tiles

__all__ = ["PreparedRows", "Sampler", "readable_outputs"]

Array = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

_CHUNK_BYTES = 32 << 20
"""Samples held at once: all passes of as many rows as fit."""
_ROWS = 4096  # evaluated at a time, by programs


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
        """`stop` is asked every few hundredths of a second; where it says so, StoppedError ends it.

        `tile` is for few rows on the general path: how many to compute at a time, a multiple of 32;
        bits depend on it. They do not depend on `threads`, of which the compiled kernels use so
        many at most.
        """
        self.network = network
        self.threads = threads
        self.wanted = tuple(wanted)
        self._stop = stop
        self.shares_masks = masks == "shared"
        self._sites = sites_of(regularizers)
        self._seed = seed
        self._purpose = f"predict {masks}"
        self._random = _random_outputs(network.graph, self._sites)
        self.stochastic = tuple(name for name in self.wanted if name in self._random)
        """The wanted outputs that some mask reaches."""
        self.tiles = Tiles(network, self._sites, shared=self.shares_masks, rows=tile)

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

    def keys(
        self, sites: Sequence[Site], rows: int, seeds: Sequence[int] | None
    ) -> npt.NDArray[np.uint64]:
        """Return the key of each row's stream at each site, (sites, rows)."""
        keys = np.empty((len(sites), rows), dtype=np.uint64)
        for index, site in enumerate(sites):
            if seeds is None:
                keys[index] = stream_key(self._seed, self._purpose, *site.address)
                continue
            of_seed = {s: stream_key(s, self._purpose, *site.address) for s in set(seeds)}
            keys[index] = [of_seed[s] for s in seeds]
        return keys

    def all_sites(self) -> tuple[Site, ...]:
        """Return every site at which something may be drawn."""
        return tuple(site for sites in self._sites.values() for site in sites)

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
        """Evaluate outputs for every row, as their layers compute them."""
        plain = {name: plain_name(name) for name in wanted}
        needed = tuple(dict.fromkeys(plain.values()))
        if not needed:
            return {}
        way = self.way(tuple(x.values), needed, with_sites=False)
        size = self.tiles.rows if way is None else _ROWS
        results: dict[str, Array] = {}
        for start in range(0, len(x), size):
            self.go_on()
            rows = x[start : start + size].values
            values = self.tiles.evaluate(rows, needed) if way is None else self._run(way, rows)
            if len(x) <= size:
                results = values
                break
            for name, value in values.items():
                if name not in results:
                    results[name] = np.empty((len(x), *value.shape[1:]), dtype=np.float32)
                results[name][start : start + len(value)] = value
        return {name: results[raw] for name, raw in plain.items()}

    def way(
        self, known: tuple[str, ...], wanted: tuple[str, ...], *, with_sites: bool
    ) -> Way | None:
        """Return the compiled way from known to wanted outputs; None where there is none."""
        network = self.network
        if network.device.type != "cpu":
            return None
        sites = self._sites if with_sites else {}
        return network.kept(
            (known, wanted, self.all_sites() if with_sites else ()),
            lambda: way_through(
                network.graph,
                network.values,
                network.arranged,
                known=known,
                wanted=wanted,
                sites=sites,
            ),
        )

    def _run(self, way: Way, rows: Mapping[str, Array]) -> dict[str, Array]:
        """Take a deterministic way."""
        count = len(next(iter(rows.values())))
        outs = way.program.run(
            [rows[name].reshape(count, -1) for name in way.known],
            np.empty((0, count), dtype=np.uint64),
            np.zeros(count, dtype=np.int64),
            first_pass=0,
            passes=1,
            threads=self.threads,
            pause=self.go_on,
        )
        return {
            name: out.reshape(count, *shape)
            for name, shape, out in zip(way.wanted, way.shapes, outs, strict=True)
        }

    def go_on(self) -> None:
        """Raise StoppedError where the work was asked to stop."""
        if self._stop():
            raise StoppedError("the work was asked to stop")


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
        prefix = sampler.prefix_from(x)
        self._way = sampler.way(tuple(prefix), sampler.stochastic, with_sites=True)
        self._sites = sampler.all_sites() if self._way is None else self._way.sites
        self._keys = sampler.keys(self._sites, len(x), seeds)
        self._known = sampler.evaluate_rows(x, prefix)
        self.deterministic = sampler.deterministic(x)
        """The wanted outputs that no mask reaches, each (rows, *shape)."""

    def draw(self, first: int, count: int) -> dict[str, Array]:
        """Return passes `first` to `first + count - 1` of the wanted outputs that masks reach.

        Each is (count, rows, *shape).
        """
        if self._way is None:
            return self._drawn_in_tiles(np.arange(first, first + count, dtype=np.int64))
        outs = self._way.program.run(
            [self._known[name].reshape(self._rows, -1) for name in self._way.known],
            self._keys,
            self._row_ids,
            first_pass=first,
            passes=count,
            shared=self._sampler.shares_masks,
            threads=self._sampler.threads,
            pause=self._sampler.go_on,
        )
        return {
            name: out.reshape(count, self._rows, *shape)
            for name, shape, out in zip(self._way.wanted, self._way.shapes, outs, strict=True)
        }

    def samples(self, passes: Indices) -> dict[str, Array]:
        """Return the passes of these numbers, each output (passes, rows, *shape)."""
        if self._way is None:
            return self._drawn_in_tiles(passes)
        if len(passes) and np.array_equal(passes, np.arange(passes[0], passes[0] + len(passes))):
            return self.draw(int(passes[0]), len(passes))
        drawn = [self.draw(int(number), 1) for number in passes]
        return {
            name: np.concatenate([values[name] for values in drawn])
            for name in self._sampler.stochastic
        }

    def _drawn_in_tiles(self, passes: Indices) -> dict[str, Array]:
        sampler = self._sampler
        count = len(passes) * self._rows
        drawn: dict[str, Array] = {}
        for start in range(0, count, sampler.tiles.rows):
            sampler.go_on()
            pairs = np.arange(start, min(start + sampler.tiles.rows, count))
            which_pass, which_row = np.divmod(pairs, self._rows)
            values = sampler.tiles.draw(
                {name: value[which_row] for name, value in self._known.items()},
                {site: keys[which_row] for site, keys in zip(self._sites, self._keys, strict=True)},
                passes[which_pass],
                self._row_ids[which_row],
                sampler.stochastic,
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
