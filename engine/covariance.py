"""Joint covariance of rows over Monte-Carlo passes that share their masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.statistics import BLOCK, Blocks

__all__ = ["Covariance"]

Samples = npt.NDArray[np.floating[Any]]
Values = npt.NDArray[np.float64]


class Covariance:
    """Sample covariance between rows, of each output by itself, of passes that come in pieces.

    Each block of 64 passes is centred on its own mean, and blocks are merged in their order by the
    formula of Chan, Golub & LeVeque (1979), in float64.
    """

    def __init__(self) -> None:
        self._passes = 0
        self._sum: Any = 0.0
        self._products: Any = 0.0

    def add(self, samples: Samples, blocks: Blocks) -> None:
        """Merge the passes that follow, (passes, rows, *shape); `blocks` are what they reduce to.

        They begin a block.
        """
        for index, mean in enumerate(blocks.means):
            self._merge(samples[index * BLOCK : (index + 1) * BLOCK], mean)

    def _merge(self, block: Samples, mean: Values) -> None:
        count = len(block)
        if self._passes == 0:
            self._first = mean
        deviations = np.empty((count + 1, *mean.shape))
        np.subtract(block, mean, out=deviations[:count])
        # How far the block's mean is from those before weighs like one more pass.
        shift = mean - self._first
        before = self._passes
        away = shift - self._sum / before if before else 0.0 * shift
        deviations[count] = away * np.sqrt(before * count / (before + count))
        along = np.moveaxis(deviations.reshape(count + 1, len(mean), -1), -1, 0)
        # (numbers, rows, passes) by its transpose
        columns = np.ascontiguousarray(along.swapaxes(1, 2))
        self._products = self._products + columns @ columns.swapaxes(1, 2)
        self._sum = self._sum + shift * count
        self._passes = before + count

    def matrix(self, variance: Values | None) -> Values:
        """Return (rows, rows, *shape), with divisor T - 1; `variance` is its diagonal, (rows, …).

        NaN for one pass, whose covariance does not exist.
        """
        shape = self._first.shape
        if variance is None:
            return np.full((shape[0], *shape), np.nan)
        products = self._products / (self._passes - 1)
        matrix: Values = np.moveaxis(products, 0, -1).reshape(shape[0], *shape)
        diagonal = np.arange(len(matrix))
        matrix[diagonal, diagonal] = variance
        return matrix
