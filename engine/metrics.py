"""Metrics of predictions against truths."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from engine.graph import Graph

__all__ = ["DeterministicMetrics"]


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
        self._variances: npt.NDArray[np.float64] | None = None
        if (np.ptp(targets, axis=self._others) > 0).all():
            self._variances = np.var(targets.astype(np.float64) * self._scale, axis=self._others)

    def of(self, outputs: npt.NDArray[np.float32]) -> dict[str, float]:
        """Return the metrics of outputs (rows, *shape), as the network gives them."""
        if self._is_classifier:
            return {"accuracy": float(np.mean(outputs.argmax(axis=-1) == self._targets))}
        errors = (outputs.astype(np.float64) - self._targets) * self._scale
        squares = np.mean(errors**2, axis=self._others)
        metrics = {"rmse": float(np.sqrt(squares).mean()), "mae": float(np.abs(errors).mean())}
        if self._variances is not None:
            metrics["r2"] = float(np.mean(1 - squares / self._variances))
        return metrics
