"""Scores of a classifier: how often it is right, and whether it is right as often as it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.data.labels import Label
from engine.figures import figure
from engine.losses import PROBABILITY_FLOOR
from engine.ranking import COVERAGES, Ranking

__all__ = ["MOST_HELD", "ClassScores"]

Values = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
State = dict[str, npt.NDArray[Any]]

_EDGES = np.arange(1, 15) / 15
"""Between the 15 bins of the reliability diagram, each with its upper end (Guo et al. 2017)."""
MOST_HELD = 1 << 25
"""Probabilities that are kept for the AUROC of each class."""
BY = "confidence"
"""What the risk-coverage curve goes by: one minus the likeliest class's probability, which is how
likely the label is wrong, if the probabilities are right."""


class ClassScores:
    """The scores of rows (or steps) that are added piece by piece."""

    def __init__(self, classes: Sequence[Label]) -> None:
        """`classes` are in the order of the probabilities."""
        self._classes = tuple(classes)
        bins = len(_EDGES) + 1
        self._sums: dict[str, Values] = {
            "totals": np.zeros(4),  # of all, right, the log loss and Brier's
            "bins": np.zeros((3, bins)),  # of all, their confidence, right
            "support": np.zeros(len(classes)),
            "sets": np.zeros(3),  # right, labels, of all
        }
        self._rankings: dict[str, Ranking] = {}
        self._means: dict[str, float] = {}
        self._probabilities: list[npt.NDArray[np.float32]] = []
        self._truths: list[Indices] = []
        self._held = 0

    def add(
        self,
        probabilities: Values,
        truth: Indices,
        uncertainties: Mapping[str, Values],
        sets: npt.NDArray[np.object_] | None = None,
    ) -> None:
        """Add rows: probabilities (rows, classes), class numbers (rows,), uncertainties (rows,).

        `sets` are lists of labels, (rows,), of a calibrated model.
        """
        if sets is not None:
            within = sum(self._classes[own] in one for own, one in zip(truth, sets, strict=True))
            self._sums["sets"] += (within, sum(map(len, sets)), len(sets))
        rows = np.arange(len(truth))
        confidence, label = probabilities.max(axis=1), probabilities.argmax(axis=1)
        right = (label == truth).astype(np.float64)
        own = probabilities[rows, truth]
        logs = -np.log(np.maximum(own, PROBABILITY_FLOOR))
        brier = (probabilities**2).sum(axis=1) - 2 * own + 1
        self._sums["totals"] += (len(rows), right.sum(), logs.sum(), brier.sum())
        bins = np.searchsorted(_EDGES, confidence, side="left")
        for index, weights in enumerate((np.ones(len(rows)), confidence, right)):
            size = len(_EDGES) + 1
            self._sums["bins"][index] += np.bincount(bins, weights=weights, minlength=size)
        self._sums["support"] += np.bincount(truth, minlength=len(self._classes))
        for name, values in {BY: 1 - confidence, **uncertainties}.items():
            self._rankings.setdefault(name, Ranking()).add(values, 1 - right)
            self._means[name] = self._means.get(name, 0.0) + float(values.sum())
        self._hold(probabilities, truth)

    def _hold(self, probabilities: Values, truth: Indices) -> None:
        """Keep what ranks the classes, as long as it is not too much."""
        two = len(self._classes) == 2
        kept = probabilities[:, 1:] if two else probabilities
        self._held += kept.size
        if self._held > MOST_HELD:
            self._probabilities, self._truths = [], []
            return
        self._probabilities.append(kept.astype(np.float32))
        self._truths.append(truth)

    # -- what they come to -------------------------------------------------------------------------

    def result(self) -> tuple[dict[str, Any], list[str]]:
        """Return the scores by name, null where they do not exist, and why these do not."""
        count, right, logs, brier = self._sums["totals"]
        filled, confidence, hits = self._sums["bins"]
        auroc, warnings = self._auroc()
        answer: dict[str, Any] = {
            "accuracy": figure(right / count),
            "log_loss": figure(logs / count),
            "brier": figure(brier / count),
            "ece": figure(np.abs(hits - confidence).sum() / count),
            "auroc": auroc,
        }
        edges = [0.0, *_EDGES.tolist(), 1.0]
        answer["reliability"] = [
            {
                "lower": edges[index],
                "upper": edges[index + 1],
                "count": int(size),
                "confidence": figure(confidence[index] / size) if size else None,
                "accuracy": figure(hits[index] / size) if size else None,
            }
            for index, size in enumerate(filled)
        ]
        answer["uncertainty"] = {
            name: {
                "mean": figure(self._means[name] / count),
                "auroc": ranking.auroc(),
                "aurc": figure(ranking.area()),
            }
            for name, ranking in self._rankings.items()
        }
        within, labels, sets = self._sums["sets"]
        answer["set"] = None
        if sets:
            answer["set"] = {"coverage": figure(within / sets), "size": figure(labels / sets)}
        risks = self._rankings[BY].risks(COVERAGES)
        curve = {"by": BY, "coverage": list(COVERAGES), "risk": [figure(risk) for risk in risks]}
        answer["risk_coverage"] = curve
        if right in (0, count):
            which = "every" if right else "no"
            warnings.append(f"{which} label is right, so that uncertainty tells no errors apart")
        return answer, warnings

    def _auroc(self) -> tuple[float | None, list[str]]:
        """Return the AUROC of the second of two classes, or the mean of each against the rest."""
        missing = [self._classes[index] for index in np.flatnonzero(self._sums["support"] == 0)]
        if missing:
            shown = ", ".join(repr(label) for label in missing[:5])
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            return None, [f"no row has the class {shown}{more}, so that there is no `auroc`"]
        if self._held > MOST_HELD:
            return None, [
                f"{len(self._classes)} classes of so many rows are too much for an `auroc`: at "
                f"most {MOST_HELD} probabilities are ranked"
            ]
        probabilities, truth = np.concatenate(self._probabilities), np.concatenate(self._truths)
        first = 1 if len(self._classes) == 2 else 0
        areas = []
        for column in range(probabilities.shape[1]):
            ranking = Ranking()
            ranking.add(probabilities[:, column].astype(np.float64), truth == column + first)
            areas.append(ranking.auroc())
        return figure(np.mean([area for area in areas if area is not None])), []

    # -- across interruptions ----------------------------------------------------------------------

    def state(self) -> State:
        """Return all that was added, for `restore`."""
        state: State = {f"sums.{name}": own.copy() for name, own in self._sums.items()}
        state["held"] = np.array([self._held])
        for name, ranking in self._rankings.items():
            state[f"mean.{name}"] = np.array([self._means[name]])
            state |= {f"ranking.{name}.{key}": own for key, own in ranking.state().items()}
        if self._probabilities:
            state["probabilities"] = np.concatenate(self._probabilities)
            state["truths"] = np.concatenate(self._truths)
        return state

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Become what other scores were."""
        self._sums = {name: state[f"sums.{name}"].copy() for name in self._sums}
        self._held = int(state["held"][0])
        names = [key.removeprefix("mean.") for key in state if key.startswith("mean.")]
        self._means = {name: float(state[f"mean.{name}"][0]) for name in names}
        self._rankings = {name: Ranking() for name in names}
        for name, ranking in self._rankings.items():
            prefix = f"ranking.{name}."
            ranking.restore(
                {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            )
        self._probabilities = [state["probabilities"]] if "probabilities" in state else []
        self._truths = [state["truths"]] if "truths" in state else []
