"""Monte-Carlo passes: masks drawn, layers evaluated, every sample a function of its address.

What no mask reaches is computed once, whatever the number of passes; the rest for (pass, row) pairs
by a compiled program of the block kernels where there is one, else in tiles on the general path.
Either gives a pair the same bits alone, among others or in pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from engine.blocks import Way
from engine.data.inputs import Inputs
from engine.errors import StoppedError
from engine.graph import Graph
from engine.layers import Shape
from engine.names import plain_name
from engine.network import Network
from engine.partition import Partition
from engine.regularizers import Regularizer, Site, sites_of
from engine.streams import key_of, told

__all__ = ["PreparedRows", "Sampler", "readable_outputs"]

Array = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

_CHUNK_BYTES = 32 << 20
"""Samples held at once: all passes of as many rows as fit."""
_ROWS = 4096  # computed at a time, by programs
_NO_KEYS = np.empty((0, 0), dtype=np.uint64)


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
        partition: Partition | None = None,
    ) -> None:
        """`stop` is asked every few hundredths of a second; where it says so, StoppedError ends it.

        `tile` is for few rows on the general path: how many to compute at a time, a multiple of 32;
        bits depend on it. They do not depend on `threads`, of which the compiled kernels use so
        many at most. `partition` is what the other arguments come to, where it was made before.
        """
        self.network = network
        self.partition = partition or Partition(
            network, regularizers, wanted=wanted, shared=masks == "shared", tile=tile
        )
        self.threads = threads
        self.stochastic = self.partition.stochastic
        """The wanted outputs that some mask reaches."""
        self._stop = stop
        self.seed = seed
        self._purpose = f"predict {masks}"

    @property
    def members(self) -> int:
        """One network draws one pass at a time; see `engine.ensembles`."""
        return 1

    @property
    def numbers_per_row(self) -> int:
        """What is held for a row that is prepared."""
        return self.network.graph.numbers_per_row

    def size_of(self, name: str) -> int:
        """Return how many numbers an output has."""
        return self.network.graph.size_of(name)

    def deterministic(self, x: Inputs) -> dict[str, Array]:
        """Return the wanted outputs that no mask reaches, each (rows, *shape)."""
        return self.prepare(x, np.zeros(len(x), dtype=np.int64)).deterministic

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
        return self.prepare(x, row_ids).samples(passes)

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
        if seeds is None:
            begin = told(self.seed, self._purpose)
            for of_site, site in zip(keys, sites, strict=True):
                of_site[:] = key_of(begin + site.told)
            return keys
        own = {seed: told(seed, self._purpose) for seed in set(seeds)}
        for of_site, site in zip(keys, sites, strict=True):
            of_seed = {seed: key_of(begin + site.told) for seed, begin in own.items()}
            of_site[:] = [of_seed[seed] for seed in seeds]
        return keys

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
        parts = self._parts = sampler.partition.parts(tuple(x.values))
        self._keys = sampler.keys(parts.sites, self._rows, seeds) if parts.sites else _NO_KEYS
        computed = self._computed(x)

        def raw(name: str) -> Array:
            return computed[name] if name in computed else _array(x.values[name])

        self._known = {name: raw(name) for name in parts.prefix}
        wanted = sampler.partition.deterministic
        self.deterministic = {name: raw(plain_name(name)) for name in wanted}
        """The wanted outputs that no mask reaches, each (rows, *shape)."""

    def _computed(self, x: Inputs) -> dict[str, Array]:
        """Compute raw outputs for every row, some thousand rows or a tile at a time."""
        if not self._parts.computed:
            return {}
        size = self._sampler.partition.tiles.rows if self._parts.before is None else _ROWS
        if self._rows <= size:
            return self._computed_part(x, self._rows)
        results: dict[str, Array] = {}
        for start in range(0, self._rows, size):
            some = x[start : start + size]
            for name, value in self._computed_part(some, len(some)).items():
                if name not in results:
                    results[name] = np.empty((self._rows, *value.shape[1:]), dtype=np.float32)
                results[name][start : start + len(value)] = value
        return results

    def _computed_part(self, x: Inputs, count: int) -> dict[str, Array]:
        sampler, before = self._sampler, self._parts.before
        sampler.go_on()
        rows = {name: _array(values) for name, values in x.values.items()}
        if before is None:
            return sampler.partition.tiles.evaluate(rows, self._parts.computed)
        outs = before.program.run(
            [rows[name].reshape(count, -1) for name in before.known],
            _NO_KEYS,
            np.zeros(count, dtype=np.int64),
            first_pass=0,
            passes=1,
            threads=sampler.threads,
            pause=sampler.go_on,
        )
        return _shaped(before, outs, (count,))

    def draw(self, first: int, count: int) -> dict[str, Array]:
        """Return passes `first` to `first + count - 1` of the wanted outputs that masks reach.

        Each is (count, rows, *shape).
        """
        after, sampler = self._parts.after, self._sampler
        if after is None:
            return self._drawn_in_tiles(np.arange(first, first + count, dtype=np.int64))
        outs = after.program.run(
            [self._known[name].reshape(self._rows, -1) for name in after.known],
            self._keys,
            self._row_ids,
            first_pass=first,
            passes=count,
            shared=sampler.partition.shared,
            threads=sampler.threads,
            pause=sampler.go_on,
        )
        return _shaped(after, outs, (count, self._rows))

    def samples(self, passes: Indices) -> dict[str, Array]:
        """Return the passes of these numbers, each output (passes, rows, *shape)."""
        if self._parts.after is None:
            return self._drawn_in_tiles(passes)
        if len(passes) and np.array_equal(passes, np.arange(passes[0], passes[0] + len(passes))):
            return self.draw(int(passes[0]), len(passes))
        drawn = [self.draw(int(number), 1) for number in passes]
        return {
            name: np.concatenate([values[name] for values in drawn])
            for name in self._sampler.stochastic
        }

    def _drawn_in_tiles(self, passes: Indices) -> dict[str, Array]:
        sampler, tiles = self._sampler, self._sampler.partition.tiles
        count = len(passes) * self._rows
        drawn: dict[str, Array] = {}
        for start in range(0, count, tiles.rows):
            sampler.go_on()
            pairs = np.arange(start, min(start + tiles.rows, count))
            which_pass, which_row = np.divmod(pairs, self._rows)
            keys = zip(self._parts.sites, self._keys, strict=True)
            values = tiles.draw(
                {name: value[which_row] for name, value in self._known.items()},
                {site: of_rows[which_row] for site, of_rows in keys},
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


def _array(values: Any) -> Array:
    """Return rows as an array; of windows and tensors, too."""
    return values if isinstance(values, np.ndarray) else np.asarray(values[:], dtype=np.float32)


def _shaped(way: Way, outs: Sequence[Array], leading: tuple[int, ...]) -> dict[str, Array]:
    return {
        name: out.reshape(*leading, *shape)
        for name, shape, out in zip(way.wanted, way.shapes, outs, strict=True)
    }
