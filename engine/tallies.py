"""Tallies: what is kept of an output's passes while they are drawn, piece after piece."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.covariance import Covariance
from engine.quantiles import pass_quantiles
from engine.sketches import Sketch
from engine.statistics import Blocks, Moments, count_votes, entropy, reduce_blocks

__all__ = ["EXACT_NUMBERS", "EXACT_PASSES", "Kept", "Piece", "Tally", "exact_passes"]

Samples = npt.NDArray[np.float32]
Values = npt.NDArray[np.float64]

EXACT_PASSES = 65_536
"""Quantiles of up to so many passes are exact; those of more come from a sketch."""
EXACT_NUMBERS = 1 << 24
"""The same for passes x numbers of an output for one row."""


def exact_passes(numbers: int) -> int:
    """Return up to how many passes of an output of so many numbers have exact quantiles."""
    return max(1, min(EXACT_PASSES, EXACT_NUMBERS // numbers))


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What is kept of an output's passes; their mean always is."""

    spread: bool = False
    quantiles: bool = False
    """The passes themselves as long as they are few, then a sketch of them."""
    samples: bool = False
    """All passes, however many."""
    entropies: bool = False
    """Of class probabilities, the mean of each pass's entropy."""
    votes: bool = False
    covariance: bool = False
    """Of rows, which then are all in one tally; with `spread`."""

    @property
    def holds(self) -> bool:
        """Whether single passes are read again when they are added."""
        return self.samples or self.quantiles or self.covariance


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Some passes, reduced to what is kept of them."""

    blocks: Blocks
    entropies: Blocks | None
    votes: npt.NDArray[np.int64] | None
    samples: Samples | None
    members: tuple[Blocks, ...] = ()
    """Of an ensemble the passes of each member by itself, for their spread."""


class Tally:
    """What is known of an output after some passes, (rows, *shape)."""

    def __init__(self, kept: Kept, *, constant: bool = False, members: int = 1) -> None:
        """Of a `constant` output one sample is added, which stands for all passes.

        Of an ensemble the members take turns: a pass of each, and then the next of each.
        """
        self._kept = kept
        self._members = tuple(Moments() for _ in range(members)) if members > 1 else ()
        self.constant = constant
        self._moments = Moments()
        self._entropies = Moments()
        self._votes: npt.NDArray[np.int64] | None = None
        self._samples: list[Samples] = []
        self._sketch: Sketch | None = None
        self._covariance = Covariance()

    def reduce(self, samples: Samples) -> Piece:
        """Reduce the passes that follow, (passes, rows, *shape), without adding them."""
        kept = self._kept
        spread = kept.spread and not self.constant
        entropies = reduce_blocks(entropy(samples), spread=False) if kept.entropies else None
        return Piece(
            blocks=reduce_blocks(samples, spread=spread),
            entropies=entropies,
            votes=count_votes(samples) if kept.votes else None,
            samples=samples if kept.holds else None,
            members=self._apart(samples) if spread else (),
        )

    def _apart(self, samples: Samples) -> tuple[Blocks, ...]:
        count = len(self._members)
        return tuple(reduce_blocks(samples[index::count]) for index in range(count))

    def add(self, piece: Piece) -> None:
        """Add the passes that follow."""
        self._moments.add(piece.blocks)
        for moments, blocks in zip(self._members, piece.members, strict=False):
            moments.add(blocks)
        if piece.entropies is not None:
            self._entropies.add(piece.entropies)
        if piece.votes is not None:
            self._votes = piece.votes if self._votes is None else self._votes + piece.votes
        if piece.samples is None:
            return
        if self._kept.covariance and not self.constant:
            self._covariance.add(piece.samples, piece.blocks)
        if self._kept.samples or self._kept.quantiles:
            self._keep(piece.samples)

    def _keep(self, samples: Samples) -> None:
        kept = self._kept
        if kept.quantiles and self._moments.passes > exact_passes(math.prod(samples.shape[2:])):
            if self._sketch is None:
                self._sketch = Sketch(self._moments.first.reshape(-1))
                for earlier in self._samples:
                    self._sketch.add(earlier.reshape(len(earlier), -1))
            self._sketch.add(samples.reshape(len(samples), -1))
            if not kept.samples:
                self._samples = []
                return
        self._samples.append(samples)

    @property
    def mean(self) -> Values:
        return self._moments.mean

    def variance(self, passes: int) -> Values | None:
        """Return the sample variance, which of one pass does not exist; needs `spread`."""
        if self.constant:
            return np.zeros(self.mean.shape) if passes > 1 else None
        return self._moments.variance

    def error_variance(self, passes: int) -> Values | None:
        """Return the variance of the mean, which of one pass does not exist; needs `spread`.

        The members of an ensemble are given and not drawn: only their passes' spread counts.
        """
        variance = self.variance(passes)
        if not self._members:
            return None if variance is None else variance / passes
        count = len(self._members)
        within = [moments.variance for moments in self._members]
        known = [own for own in within if own is not None]
        if len(known) < count:
            return None
        total: Values = np.add.reduce(known) / (passes * count)
        return total

    def covariance(self, passes: int) -> Values:
        """Return the sample covariance between rows, (rows, rows, *shape); NaN for one pass."""
        variance = self.variance(passes)
        if not self.constant:
            return self._covariance.matrix(variance)
        shape = self.mean.shape
        return np.full((shape[0], *shape), np.nan if variance is None else 0.0)

    @property
    def expected_entropy(self) -> Values:
        return self._entropies.mean

    @property
    def votes(self) -> npt.NDArray[np.int64]:
        assert self._votes is not None
        return self._votes

    @property
    def samples(self) -> Samples:
        """The passes so far, (passes, rows, *shape); of a constant output a single one."""
        if len(self._samples) > 1:
            self._samples = [np.concatenate(self._samples)]
        return self._samples[0]

    def quantiles(self, quantiles: tuple[float, ...]) -> Values:
        """Return quantiles of the passes, (quantiles, rows, *shape); they must be kept.

        Of few passes they are exact, of more they lie within 0.001 of their distance from the mean
        of the first block.
        """
        if self._sketch is None:
            return pass_quantiles(self.samples, quantiles)
        return self._sketch.quantiles(quantiles).reshape(-1, *self._moments.first.shape)
