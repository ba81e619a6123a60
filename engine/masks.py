"""Masks of training: what every site draws, a block of rows at a time, and how much was dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.graph import Graph
from engine.layers import Shape
from engine.regularizers import ConcreteDropout, Regularizer, Site, sites_of
from engine.streams import row_states, stream_key

__all__ = ["Masks", "Tally", "TrainingMasks"]

Address = tuple[int | str, ...]
Masks = Mapping[Address, Tensor]
"""What is drawn for some rows, by the site's address."""


class Tally:
    """How many elements were drawn, and how many of them dropped, by regularizer and name."""

    def __init__(
        self, dropped: dict[str, int] | None = None, elements: dict[str, int] | None = None
    ) -> None:
        self.dropped = dropped or {}
        self.elements = elements or {}

    def add(self, site: Site, drawn: npt.NDArray[np.float32]) -> None:
        """Count what was drawn: zeros are dropped."""
        self.count(site, drawn.size, drawn.size - int(np.count_nonzero(drawn)))

    def count(self, site: Site, elements: int, dropped: int) -> None:
        """Count so many more elements, and so many of them dropped."""
        key = f"{site.regularizer} {site.output}"
        self.dropped[key] = self.dropped.get(key, 0) + dropped
        self.elements[key] = self.elements.get(key, 0) + elements

    def rates(self, regularizer: int, names: Sequence[str]) -> dict[str, float]:
        """Return the share that was really dropped of each output or weight."""
        return {
            name: self.dropped[key] / self.elements[key]
            for name in names
            if (key := f"{regularizer} {name}") in self.elements
        }


class TrainingMasks:
    """Draws masks and noise for the rows of an epoch, as functions of seed, epoch and position."""

    def __init__(
        self, graph: Graph, regularizers: Sequence[Regularizer], *, seed: int, device: torch.device
    ) -> None:
        self.sites = sites_of(regularizers)
        self._graph = graph
        self._device = device
        every = tuple(site for sites in self.sites.values() for site in sites)
        self._connections = tuple(site for site in every if site.kind == "connection")
        self._outputs = tuple(site for site in every if site.kind != "connection")
        self._keys = {site: stream_key(seed, "train", *site.address) for site in every}
        self._concrete = {
            index: regularizer
            for index, regularizer in enumerate(regularizers)
            if isinstance(regularizer, ConcreteDropout)
        }

    @property
    def numbers_per_row(self) -> int:
        """How many numbers are drawn for a row."""
        return sum(self._graph.size_of(site.output) for site in self._outputs)

    def block(self, epoch: int, row: int, count: int, tally: Tally) -> dict[Address, Tensor]:
        """Draw for `count` rows of the epoch's order, from this one on, (count, …) each."""
        positions = np.arange(row, row + count, dtype=np.int64)
        masks: dict[Address, Tensor] = {}
        for site in self._outputs:
            states = row_states(self._keys[site], np.full_like(positions, epoch), positions)
            drawn = site.draw(states, self._graph.outputs[site.output])
            if site.kind == "dropout":
                tally.add(site, drawn)
            masks[site.address] = torch.from_numpy(drawn).to(self._device)
        return masks

    def batch(
        self, block: Masks, rows: slice, epoch: int, first: int, tally: Tally
    ) -> dict[Address, Tensor]:
        """Return the masks of one batch: its rows of a block's, and the weights it drops.

        `first` is the position of the block's first row; weights are drawn once for a batch.
        """
        masks = {address: mask[rows] for address, mask in block.items()}
        for site in self._connections:
            if site.acts:
                position = np.array([first + rows.start])
                states = row_states(self._keys[site], np.array([epoch]), position)
                drawn = site.draw(states, self._graph.parameters[site.output])
                tally.add(site, drawn)
                masks[site.address] = torch.from_numpy(drawn).to(self._device)
        return masks

    def key(self, site: Site) -> int:
        """Return the key of a site's stream."""
        return self._keys[site]

    def mask(
        self, site: Site, _shape: Shape, masks: Masks, parameters: Mapping[str, Tensor]
    ) -> Tensor:
        """Return what a site multiplies by or adds; Concrete dropout's depends on its rate."""
        if site.kind != "concrete":
            return masks[site.address]
        regularizer = self._concrete[site.regularizer]
        name = regularizer.parameter(site.regularizer, site.output)
        return regularizer.mask(parameters[name], masks[site.address])
