"""Finding a learning rate: a few steps at rates that grow, and where their loss falls.

The range test of Smith (2017), "Cyclical Learning Rates for Training Neural Networks", section 3.3,
with rates that grow exponentially instead of linearly, one step at each. A batch's loss says more
about the batch than about the rate. So what counts is its difference from the loss of the same
batch, under the same masks, before anything was learnt.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.errors import DivergedError
from engine.kernels.descent import Descent

__all__ = ["RATES", "RateFinder", "RateFound", "found"]

RATES = tuple(np.geomspace(1e-7, 10.0, 100).tolist())
"""Those tried, in this order."""
_MEMORY = 0.9  # of the running mean of losses
_SKIPPED = 5  # first steps, whose running means are of few differences
_RISE = 3.0  # times the best loss above it: four times the best where that is positive


@dataclass(frozen=True, kw_only=True)
class RateFound:
    """A learning rate, and what spoke for it."""

    learning_rate: float
    """The smaller of the two that follow; the optimizer's own default where there are none."""
    steepest: float | None
    """Where the loss fell fastest, over the logarithm of the rate."""
    tenth: float | None
    """A tenth of the rate with the least loss."""
    curve: tuple[tuple[float, float], ...]
    """Each rate tried and the running mean of the losses up to it, for batches that are alike."""
    stopped: bool
    """Whether the loss rose so far, or became infinite, that larger rates were not tried."""

    def told(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {**vars(self), "curve": [list(point) for point in self.curve]}


class RateFinder:
    """The test of one training, which is of no more use after it."""

    def __init__(self, default: float) -> None:
        """`default` is the rate that is taken where no rate lowers the loss."""
        self._default = default
        self._means: list[float] = []
        self._stopped = False

    def drive(
        self, resting: Iterator[Descent | float], moving: Iterator[Descent | float]
    ) -> Iterator[Descent]:
        """Go through the losses of a training's steps at `RATES` until they rise too far.

        `resting` are the losses of the same steps at rates of 0, and come first. Yields the steps
        that others have to take before this goes on.
        """
        before: list[float] = []
        for piece in resting:
            if isinstance(piece, Descent):
                yield piece
            else:
                before.append(piece)
        level = sum(before) / len(before)
        total = weight = 0.0
        best = math.inf
        losses = iter(before)
        try:
            for piece in moving:
                if isinstance(piece, Descent):
                    yield piece
                    continue
                total = _MEMORY * total + (1 - _MEMORY) * (piece - next(losses))
                weight = _MEMORY * weight + (1 - _MEMORY)
                mean = level + total / weight
                if mean > best + _RISE * abs(best):
                    self._stopped = True
                    return
                best = min(best, mean)
                self._means.append(mean)
        except DivergedError:
            self._stopped = True

    def found(self) -> RateFound:
        """Return what the test has found."""
        return found(self._means, stopped=self._stopped, default=self._default)


def found(means: Sequence[float], *, stopped: bool, default: float) -> RateFound:
    """Return the rate that running means of losses, one for each of `RATES`, speak for."""
    curve = tuple(zip(RATES, means, strict=False))
    least = int(np.argmin(means)) if means else 0
    steepest = tenth = None
    if least > _SKIPPED + 1:
        logs = np.log(RATES[: least + 1])
        slopes = np.gradient(np.array(means[: least + 1]), logs)[_SKIPPED:]
        steepest = RATES[_SKIPPED + int(np.argmin(slopes))]
        tenth = RATES[least] / 10
    given: Iterable[float] = [rate for rate in (steepest, tenth) if rate is not None]
    return RateFound(
        learning_rate=min(given, default=default),
        steepest=steepest,
        tenth=tenth,
        curve=curve,
        stopped=stopped,
    )
