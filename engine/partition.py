"""Partitions: what of a network is deterministic under given masks, and what is stochastic."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from engine.blocks import Way, way_through
from engine.graph import Graph
from engine.layers import Layer
from engine.names import plain_name
from engine.network import Network, needed_layers
from engine.regularizers import Regularizer, Site, sites_of
from engine.tiles import Tiles

__all__ = ["Partition", "Parts"]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The two parts of the work for rows of which some outputs are given."""

    computed: tuple[str, ...]
    """Raw outputs to compute once, before any mask."""
    before: Way | None
    """The compiled way to them; None where there is none, or nothing to compute."""
    prefix: tuple[str, ...]
    """Raw outputs, given or computed, from which the passes start."""
    after: Way | None
    """The compiled way of a pass; None where there is none."""
    sites: tuple[Site, ...]
    """Which draw, in the order of the pass's keys."""


class Partition:
    """What masks reach of some wanted outputs; made once, for any rows and seeds."""

    def __init__(
        self,
        network: Network,
        regularizers: Sequence[Regularizer],
        *,
        wanted: Iterable[str],
        shared: bool = False,
        tile: int | None = None,
    ) -> None:
        """`shared` masks depend on the pass alone; `tile` is the general path's number of rows."""
        self.network = network
        self.shared = shared
        self._sites = sites_of(regularizers)
        self._random = _random_outputs(network.graph, self._sites)
        wanted = tuple(wanted)
        self.stochastic = tuple(name for name in wanted if name in self._random)
        """The wanted outputs that some mask reaches."""
        self.deterministic = tuple(name for name in wanted if name not in self._random)
        self.tiles = Tiles(network, self._sites, shared=shared, rows=tile)
        """The general path."""
        self._parts: dict[tuple[str, ...], Parts] = {}

    def parts(self, given: tuple[str, ...]) -> Parts:
        """Return the parts of the work where these outputs are given."""
        if given not in self._parts:
            self._parts[given] = self._split(given)
        return self._parts[given]

    def is_compiled(self, given: tuple[str, ...]) -> bool:
        """Whether the compiled kernels compute both parts."""
        parts = self.parts(given)
        has_before = parts.before is not None or not parts.computed
        return has_before and (parts.after is not None or not self.stochastic)

    def _split(self, given: tuple[str, ...]) -> Parts:
        prefix = tuple(self._prefix_from(given))
        raw = dict.fromkeys((*prefix, *map(plain_name, self.deterministic)))
        computed = tuple(name for name in raw if name not in given)
        after = self._way(prefix, self.stochastic, self._sites)
        everywhere = (site for sites in self._sites.values() for site in sites)
        return Parts(
            computed=computed,
            before=self._way(given, computed, {}) if computed else None,
            prefix=prefix,
            after=after,
            sites=tuple(everywhere) if after is None else after.sites,
        )

    def _way(
        self,
        known: tuple[str, ...],
        wanted: tuple[str, ...],
        sites: Mapping[str, tuple[Site, ...]],
    ) -> Way | None:
        network = self.network
        if network.device.type != "cpu":
            return None
        return network.kept(
            (known, wanted, tuple(sites.items())),
            lambda: way_through(
                network.graph,
                network.values,
                network.arranged,
                known=known,
                wanted=wanted,
                sites=sites,
            ),
        )

    def _prefix_from(self, given: Collection[str]) -> list[str]:
        """Return the raw outputs, given or deterministic, from which the stochastic part starts.

        Of a layer whose values are given it is `out` alone, also where a mask before it would make
        them random.
        """
        graph = self.network.graph
        fixed = {
            layer.out: (layer.out,) if layer.out in given else tuple(layer.outputs)
            for layer in graph.layers
            if layer.out in given or not _is_random(layer, self._random, self._sites)
        }
        visited = needed_layers(graph, self.stochastic, fixed)
        return [name for layer in visited for name in fixed.get(layer.out, ())]


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
