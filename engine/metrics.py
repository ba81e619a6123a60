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

    `outputs` are (rows, outputs) as the network gives them. Regressors and autoencoders: `rmse` and
    `mae` in original units, the mean over the targets of each one's; classifiers, with class
    indices (rows,) as targets: `accuracy`.
    """
    if graph.form == "classifier":
        return {"accuracy": float(np.mean(outputs.argmax(axis=1) == targets))}
    scale = np.ones(outputs.shape[1]) if target_scale is None else target_scale
    errors = (outputs.astype(np.float64) - targets) * scale
    return {
        "rmse": float(np.sqrt(np.mean(errors**2, axis=0)).mean()),
        "mae": float(np.abs(errors).mean()),
    }
