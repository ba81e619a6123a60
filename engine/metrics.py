"""Metrics of predictions against truths."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from engine.graph import Graph

__all__ = ["DeterministicMetrics", "PiecewiseMetrics"]


class DeterministicMetrics:
    """The metrics of deterministic passes over the same rows.

    Regressors and autoencoders: `rmse` and `mae` in original units, the mean over the targets of
    each one's, which is over rows and steps (pixels), and `r2`, the coefficient of determination,
    likewise; it is left out where a target is the same everywhere and so has none. Classifiers,
    with class indices (rows,) or (rows, steps) as targets: `accuracy`.
    """

    def __init__(
        self,
        graph: Graph,
        targets: npt.NDArray[np.float32] | npt.NDArray[np.int64],
        *,
        target_scale: npt.NDArray[np.float64] | None,
    ) -> None:
        """`target_scale` takes encoded targets, (rows, *shape), to original units."""
        self._is_classifier = graph.form == "classifier"
        self._scale = 1.0 if target_scale is None else target_scale
        self._targets = targets
        if self._is_classifier:
            return
        target_axis = 1 if targets.ndim == 4 else targets.ndim - 1
        self._others = tuple(axis for axis in range(targets.ndim) if axis != target_axis)
        self._count = targets.size // targets.shape[target_axis]
        self._variances: npt.NDArray[np.float64] | None = None
        if (np.ptp(targets, axis=self._others) > 0).all():
            self._variances = np.var(targets.astype(np.float64) * self._scale, axis=self._others)

    def of(self, outputs: npt.NDArray[np.float32]) -> dict[str, float]:
        """Return the metrics of outputs (rows, *shape), as the network gives them."""
        if self._is_classifier:
            return {"accuracy": float(np.mean(outputs.argmax(axis=-1) == self._targets))}
        # Sums by the ufunc itself: NumPy's `mean` of so few numbers takes longer than all the rest.
        errors = (outputs.astype(np.float64) - self._targets) * self._scale
        squares = np.add.reduce(np.square(errors), axis=self._others)
        squares /= self._count
        metrics = {
            "rmse": _mean(np.sqrt(squares)),
            "mae": float(np.add.reduce(np.abs(errors), axis=None) / errors.size),
        }
        if self._variances is not None:
            metrics["r2"] = _mean(1 - squares / self._variances)
        return metrics


def _mean(values: npt.NDArray[np.float64]) -> float:
    return float(np.add.reduce(values) / values.size)


class PiecewiseMetrics:
    """The same metrics, to rounding, of one pass over rows that come in pieces."""

    def __init__(self, graph: Graph, *, target_scale: npt.NDArray[np.float64] | None) -> None:
        """`target_scale` takes encoded targets, (rows, *shape), to original units."""
        self._is_classifier = graph.form == "classifier"
        self._scale = 1.0 if target_scale is None else target_scale
        self._count = 0
        self._right = 0
        # By target, in original units: the sums of squared and of absolute errors, and of the
        # targets' deviations and their squares from `_around`, the mean of the first piece.
        self._squares = self._sizes = self._deviations = self._spreads = np.zeros(())
        self._low = self._high = self._around = np.zeros(())

    def add(
        self,
        outputs: npt.NDArray[np.float32],
        targets: npt.NDArray[np.float32] | npt.NDArray[np.int64],
    ) -> None:
        """Count a piece: outputs (rows, *shape), and targets as the network has them."""
        if self._is_classifier:
            self._right += int(np.count_nonzero(outputs.argmax(axis=-1) == targets))
            self._count += targets.size
            return
        axis = 1 if targets.ndim == 4 else targets.ndim - 1
        others = tuple(other for other in range(targets.ndim) if other != axis)
        true = targets.astype(np.float64) * self._scale
        errors = outputs.astype(np.float64) * self._scale - true
        if not self._count:
            self._around = true.mean(axis=others, keepdims=True)
            self._low, self._high = targets.min(axis=others), targets.max(axis=others)
        self._low = np.minimum(self._low, targets.min(axis=others))
        self._high = np.maximum(self._high, targets.max(axis=others))
        away = true - self._around
        self._squares = self._squares + (errors**2).sum(axis=others)
        self._sizes = self._sizes + np.abs(errors).sum(axis=others)
        self._deviations = self._deviations + away.sum(axis=others)
        self._spreads = self._spreads + (away**2).sum(axis=others)
        self._count += targets.size // targets.shape[axis]

    def values(self) -> dict[str, float]:
        """Return the metrics of all pieces."""
        if self._is_classifier:
            return {"accuracy": self._right / self._count}
        squares = self._squares / self._count
        metrics = {
            "rmse": float(np.sqrt(squares).mean()),
            "mae": float((self._sizes / self._count).mean()),
        }
        if (self._high > self._low).all():
            variances = self._spreads / self._count - (self._deviations / self._count) ** 2
            metrics["r2"] = float(np.mean(1 - squares / variances))
        return metrics
