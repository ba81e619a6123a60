"""How `bench.pictures` draws: every figure as an SVG file, the same bytes from the same numbers."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Doubles = npt.NDArray[np.float64]
Outputs = Mapping[str, Any]
"""Statistics by name, as arrays."""

_SIZES: Any = {"font.size": 9, "axes.titlesize": 9, "legend.fontsize": 8}
_FEW = 8
"""Rows of a bin whose share of right ones says something."""
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "0.45"
"""Told apart by colour-blind readers, too."""


@contextmanager
def drawn(
    path: Path, *, panels: int, title: str, width: float = 4.4, height: float = 3.4
) -> Iterator[list[Axes]]:
    """Yield the panels of a figure, side by side, and write it when the body has ended."""
    with mpl.rc_context({"svg.hashsalt": path.stem, "path.simplify": False, **_SIZES}):
        figure = Figure(figsize=(width * panels, height), layout="constrained")
        figure.suptitle(title, fontsize=10)
        yield list(figure.subplots(1, panels, squeeze=False)[0])
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_PATH.sub(_shortened, text.getvalue()))


def dots(axes: Axes, data: Doubles, size: float) -> None:
    """Draw training rows as one path, which takes a fifth of the bytes that markers would."""
    ends = np.repeat(data, 3, axis=0)
    ends[2::3] = np.nan
    axes.plot(*ends.T, color=GREY, linewidth=size, solid_capstyle="round")
    axes.plot([], [], ".", color=GREY, label="training rows")


_PATH = re.compile(r' d="[^"]*"')


def _shortened(found: re.Match[str]) -> str:
    """Leave out the digits of a path that nobody can see: a hundredth of a point is enough."""
    return re.sub(r"(\.\d\d)\d+", r"\1", found.group())


def passes(path: Path, x: Sequence[float], told: Outputs) -> None:
    """Draw the passes of two rows, and what is said of them."""
    title = "The passes of two rows, and the numbers that sum them up"
    with drawn(path, panels=2, title=title) as panels:
        every = told["samples"]
        bins = np.linspace(every.min(), every.max(), 50).tolist()
        for row, axes in enumerate(panels):
            axes.hist(every[:, row, 0], bins, color=BLUE, alpha=0.35, label="passes")
            mean, std = told["mean"][row, 0], told["std"][row, 0]
            top = axes.get_ylim()[1]
            axes.plot([mean, mean], [0, top], color=BLUE, label=f"mean {mean:.2f}")
            low, high = (told["quantiles"][level][row, 0] for level in ("0.05", "0.95"))
            axes.plot([low, high], [top * 1.05] * 2, "|-", color=BLUE, label="quantiles 5 to 95 %")
            low, high = (told["predictive_quantiles"][level][row, 0] for level in ("0.05", "0.95"))
            label = "predictive quantiles 5 to 95 %"
            axes.plot([low, high], [top * 1.13] * 2, "|-", color=ORANGE, label=label)
            error = told["standard_error"][row, 0]
            axes.set_title(f"x = {x[row]:g}: std {std:.3f}, standard error {error:.4f}")
            axes.set_xlabel("y")
            axes.set_ylabel("passes")
            axes.set_ylim(0, top * 1.75)
            axes.legend(loc="upper left", frameon=False)


def gap(
    path: Path, data: Doubles, curve: tuple[Doubles, Doubles], told: Outputs, functions: Doubles
) -> None:
    """Draw functions, epistemic band, total band and calibrated interval over a curve's x."""
    x, truth = curve
    title = "Trained on the dots alone: what the network knows, and what a measurement will be"
    with drawn(path, panels=2, title=title, height=4) as (left, right):
        for axes in (left, right):
            dots(axes, data, 2)
            axes.plot(x, truth, ":", color="black", linewidth=1, label="what they were measured of")
            axes.set_xlabel("x")
            axes.set_ylabel("y")
            axes.set_ylim(-4.2, 2.6)
        mean, std = told["mean"][:, 0], told["std"][:, 0]
        for one in functions:
            left.plot(x, one, color=BLUE, linewidth=0.5, alpha=0.5)
        label = "mean ± 2 std: epistemic"
        left.fill_between(x, mean - 2 * std, mean + 2 * std, color=BLUE, alpha=0.25, label=label)
        left.plot(x, mean, color=BLUE, label="mean")
        left.set_title(f"{len(functions)} passes with shared masks, and their spread")
        low, high = (told["predictive_quantiles"][level][:, 0] for level in ("0.05", "0.95"))
        label = "predictive quantiles 5 to 95 %: total"
        right.fill_between(x, low, high, color=ORANGE, alpha=0.25, label=label)
        interval = told["interval"]
        for end, text in (("lower", "calibrated interval, 90 %"), ("upper", None)):
            right.plot(x, interval[end][:, 0], "--", color=GREEN, linewidth=1, label=text)
        right.plot(x, mean, color=BLUE, label="mean")
        right.set_title("the same with the noise of the measurements")
        for axes in (left, right):
            axes.legend(loc="lower right", frameon=False)


def kinds(path: Path, data: Doubles, x: Doubles, told: Outputs, noise: Doubles) -> None:
    """Draw learnt noise beside what the network does not know."""
    with drawn(path, panels=2, title="Noise that the network has learnt (`gll`)") as panels:
        left, right = panels
        dots(left, data, 1.5)
        low, high = (told["predictive_quantiles"][level][:, 0] for level in ("0.05", "0.95"))
        label = "predictive quantiles 5 to 95 %"
        left.fill_between(x, low, high, color=ORANGE, alpha=0.25, label=label)
        left.plot(x, told["mean"][:, 0], color=BLUE, label="mean")
        left.set_title("what a measurement will be")
        left.set_ylim(top=2.9)
        left.legend(loc="upper left", frameon=False)
        left.set_xlabel("x")
        for name, colour in (("total", GREY), ("aleatoric", ORANGE), ("epistemic", BLUE)):
            right.plot(x, np.sqrt(told["variance"][name][:, 0]), color=colour, label=f"√{name}")
        right.plot(x, noise, ":", color="black", label="the noise that was put in")
        right.set_ylim(bottom=0)
        right.legend(loc="upper left", frameon=False)
        right.set_title("`variance`, as deviations")
        right.set_xlabel("x")


def reliability(path: Path, evaluations: Mapping[str, Any]) -> None:
    """Draw the bins of `ece` of several evaluations."""
    title = "Reliability: is it right as often as it says?"
    with drawn(path, panels=len(evaluations), title=title, height=4) as panels:
        for axes, (name, told) in zip(panels, evaluations.items(), strict=True):
            total = sum(own["count"] for own in told["reliability"])
            bins = [own for own in told["reliability"] if own["count"] >= _FEW]
            centres = [(own["lower"] + own["upper"]) / 2 for own in bins]
            shares = [own["count"] / total for own in bins]
            axes.bar(centres, shares, 1 / 15, color=GREY, alpha=0.3, label="share of the rows")
            axes.plot([0, 1], [0, 1], color="black", linewidth=0.7, label="as often as it says")
            confidence, accuracy = (
                [own[key] for own in bins] for key in ("confidence", "accuracy")
            )
            axes.plot(confidence, accuracy, "o-", color=BLUE, label="accuracy", markersize=4)
            axes.set_title(f"{name}: ece {told['ece']:.3f}, log_loss {told['log_loss']:.3f}")
            axes.set_xlabel("confidence: probability of the label")
            axes.legend(loc="upper left", frameon=False)


def coverage(path: Path, evaluations: Mapping[str, Any]) -> None:
    """Draw quantiles, intervals and the PIT of several evaluations."""
    title = "Do truths fall where the predictive distribution says?"
    with drawn(path, panels=3, title=title, height=3.8) as (left, middle, right):
        for axes in (left, middle):
            axes.plot([0, 1], [0, 1], color="black", linewidth=0.7)
        for (name, told), colour in zip(evaluations.items(), (BLUE, ORANGE), strict=True):
            own = told["calibration"]
            label = f"{name}: calibration_error {told['calibration_error']:.3f}"
            left.plot(own["expected"], own["observed"], ".-", color=colour, label=label)
            levels = [one["level"] for one in told["intervals"]]
            covered = [one["coverage"] for one in told["intervals"]]
            label = f"{name}: log_likelihood {told['log_likelihood']:.2f}"
            middle.plot(levels, covered, "o-", color=colour, label=label, markersize=4)
            edges = np.linspace(0, 1, len(own["pit"]) + 1)
            right.stairs(own["pit"], edges, color=colour, label=name)
        right.axhline(0.05, color="black", linewidth=0.7)
        left.set_title("`calibration`: share of truths below each quantile")
        left.set_xlabel("expected")
        middle.set_title("`intervals`: share of truths inside")
        middle.set_xlabel("level")
        middle.set_xlim(0.4, 1)
        middle.set_ylim(0.2, 1)
        right.set_title("`calibration.pit`: flat where the noise is right")
        right.set_xlabel("F(y)")
        right.set_ylim(0, 1.3 * right.get_ylim()[1])
        for axes in (left, middle, right):
            axes.legend(loc="upper left", frameon=False)


def risk(path: Path, evaluations: Mapping[str, tuple[str, Any]]) -> None:
    """Draw the risk-coverage curve of several evaluations."""
    title = "Risk and coverage: answer only where it is sure"
    with drawn(path, panels=len(evaluations), title=title) as panels:
        for axes, (name, (loss, told)) in zip(panels, evaluations.items(), strict=True):
            curve = told["risk_coverage"]
            axes.plot(curve["coverage"], curve["risk"], color=BLUE, label="the surest rows first")
            level = curve["risk"][-1]
            axes.axhline(level, color=GREY, linewidth=0.7, label="rows in any order")
            area = told["uncertainty"][curve["by"]]["aurc"]
            axes.set_title(f"{name}, by {curve['by']}: aurc {area:.3f}")
            axes.set_xlabel("share of the rows that are answered")
            axes.set_ylabel(loss)
            axes.set_ylim(bottom=0)
            axes.legend(loc="lower right", frameon=False)


def sites(path: Path, x: Doubles, explained: Any) -> None:
    """Draw what each site of dropout accounts for, over x."""
    title = "Which layer's dropout makes it unsure (`explain`)"
    with drawn(path, panels=2, title=title) as (left, right):
        whole = np.array(explained["variance"])[:, 0]
        left.plot(x, whole, color="black", label="variance of the passes")
        parts = [*explained["sites"], {"site": "interaction"} | explained["interaction"]]
        for part, colour in zip(parts, (BLUE, ORANGE, GREEN), strict=True):
            left.plot(x, np.array(part["variance"])[:, 0], color=colour, label=part["site"])
            right.plot(x, np.array(part["share"])[:, 0], color=colour, label=part["site"])
        left.set_title("`variance`: by site, and what is left over")
        right.set_title("`share` of the whole: they add up to 1")
        right.set_ylim(-0.1, 1.15)
        for axes in (left, right):
            axes.set_xlabel("x")
            axes.axhline(0, color=GREY, linewidth=0.7)
            axes.legend(loc="upper right", frameon=False)


def histograms(path: Path, known: Outputs, other: Outputs, auroc: Mapping[str, float]) -> None:
    """Draw kinds of uncertainty of rows like those of training and of others."""
    title = "Digits 0 to 7, which it was trained on, and 8 and 9, which it has never seen"
    with drawn(path, panels=2, title=title) as panels:
        for axes, name in zip(panels, ("entropy", "mutual_information"), strict=True):
            bins = np.linspace(0, max(known[name].max(), other[name].max()), 31).tolist()
            for told, colour, label in ((known, BLUE, "0 to 7"), (other, ORANGE, "8 and 9")):
                weights = np.full(len(told[name]), 1 / len(told[name]))
                axes.hist(told[name], bins, weights=weights, color=colour, alpha=0.5, label=label)
            axes.set_title(f"{name}: ood.auroc {auroc[name]:.3f}")
            axes.set_xlabel("nats")
            axes.set_ylabel("share of the images")
            axes.legend(loc="upper right", frameon=False)


def sets(path: Path, images: Doubles, truth: Sequence[int], told: Outputs) -> None:
    """Draw images with the probabilities of the classes, and which of these the sets hold."""
    title = (
        "Prediction sets: orange classes are in the set, which holds the true one in 90 % of rows"
    )
    with drawn(path, panels=len(images), title=title, width=2.2, height=3.2) as panels:
        for row, axes in enumerate(panels):
            inside = told["set"]["labels"][row]
            colours = [ORANGE if label in inside else GREY for label in range(10)]
            axes.bar(range(10), told["probabilities"][row], color=colours)
            axes.set_ylim(0, 1.6)
            axes.set_xticks(range(10))
            axes.set_yticks([0, 1])
            axes.set_title(f"a {truth[row]}; set {', '.join(map(str, inside)) or 'empty'}")
            picture = axes.inset_axes((0.25, 0.65, 0.5, 0.34))
            picture.imshow(images[row], cmap="gray_r")
            picture.set_axis_off()
