"""The demo's plots, written as PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

__all__ = ["plot_digits", "plot_intervals"]

Array = npt.NDArray[np.float64]

_INSIDE, _OUTSIDE = "#0072b2", "#d55e00"  # told apart by colour-blind readers, too


def plot_intervals(
    path: Path, truth: Array, mean: Array, low: Array, high: Array, *, covered: float
) -> None:
    """Draw each row's interval over its true value; the diagonal is where truths lie."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.subplots()
    ends = [min(low.min(), truth.min()), max(high.max(), truth.max())]
    axes.plot(ends, ends, color="0.6", linewidth=1, label="truth")
    inside = (low <= truth) & (truth <= high)
    for rows, colour, word in ((inside, _INSIDE, "covered"), (~inside, _OUTSIDE, "missed")):
        axes.errorbar(
            truth[rows],
            mean[rows],
            yerr=np.stack([mean - low, high - mean])[:, rows],
            fmt="o",
            markersize=4,
            linewidth=1,
            alpha=0.7,
            color=colour,
            label=f"mean and 90 % interval, {word} ({rows.sum()})",
        )
    axes.set_xlabel("true progression after one year")
    axes.set_ylabel("predicted progression")
    axes.set_title(f"Diabetes: 90 % intervals cover {covered:.1%} of {len(truth)} test rows")
    axes.legend(loc="upper left")
    figure.savefig(path, dpi=120)


def plot_digits(
    path: Path,
    images: npt.NDArray[Any],
    truth: npt.NDArray[Any],
    label: npt.NDArray[Any],
    probabilities: Array,
    information: Array,
) -> None:
    """Draw each image beside the probabilities of the ten digits."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    figure.suptitle(
        "Digits: the test images with most mutual information (MI, nats); orange: wrong"
    )
    rows = 2
    grid = figure.subplots(
        rows, len(images) // rows * 2, width_ratios=[1, 1.3] * (len(images) // 2)
    )
    for i, (picture, bars) in enumerate(np.reshape(grid, (-1, 2))):
        picture.imshow(images[i].reshape(8, 8), cmap="gray_r")
        picture.set_axis_off()
        right = truth[i] == label[i]
        picture.set_title(f"true {truth[i]}, says {label[i]}\nMI {information[i]:.2f}", fontsize=10)
        bars.barh(range(10), probabilities[i], color=_INSIDE if right else _OUTSIDE)
        bars.set_yticks(range(10))
        bars.invert_yaxis()
        bars.set_xlim(0, 1)
        bars.set_xticks([0, 1])
        bars.tick_params(labelsize=8)
    figure.savefig(path, dpi=120)
