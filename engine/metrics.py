"""Metrics of predictions against truths."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from engine.graph import Graph

__all__ = ["deterministic_metrics"]


def deterministic_metrics(
    graph: Graph,
    outputs: npt.NDArray[np.float32],
    targets: npt.NDArray[np.float32] | npt.NDArray[np.int64],
    *,
    target_scale: npt.NDArray[np.float64] | None,
) -> dict[str, float]:
    """Return the metrics of one deterministic pass.

    `outputs` are (rows, *shape) as the network gives them. Regressors and autoencoders: `rmse` and
    `mae` in original units, the mean over the targets of each one's, which is over rows and steps
    (pixels), and `r2`, the coefficient of determination, likewise; it is left out where a target
    is the same everywhere and so has none. Classifiers, with class indices (rows,) or (rows, steps)
    as targets: `accuracy`.
    """
    if graph.form == "classifier":
        return {"accuracy": float(np.mean(outputs.argmax(axis=-1) == targets))}
    scale = 1.0 if target_scale is None else target_scale
    errors = (outputs.astype(np.float64) - targets) * scale
    target_axis = 1 if errors.ndim == 4 else errors.ndim - 1
    others = tuple(axis for axis in range(errors.ndim) if axis != target_axis)
    squares = np.mean(errors**2, axis=others)
    metrics = {"rmse": float(np.sqrt(squares).mean()), "mae": float(np.abs(errors).mean())}
    if (np.ptp(targets, axis=others) > 0).all():
        variances = np.var(targets.astype(np.float64) * scale, axis=others)
        metrics["r2"] = float(np.mean(1 - squares / variances))
    return metrics
