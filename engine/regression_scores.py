"""Scores of a regressor: how good its means are, and whether truths lie where its passes say.

Numbers come in pieces, and only sums of them are kept, and what ranks them. All is in the targets'
own units; of several targets each is scored by itself, and the mean is over the targets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.calibration import mixture_log_likelihood
from engine.crps import mixture_crps, passes_crps
from engine.figures import figure
from engine.predictive import Predictive
from engine.ranking import COVERAGES, Ranking

__all__ = ["Measured", "RegressionScores"]

Values = npt.NDArray[np.float64]
State = dict[str, Values]

_SHARES = np.arange(1, 20) / 20
"""Levels of the calibration curve; between them lie the bins of the PIT's histogram."""
MOST_NAMED = 1000
"""Targets that are told by name."""
_CELLS = 1 << 16
"""Passes x numbers scored at once."""


@dataclass(kw_only=True)
class Measured:
    """What some numbers of a target add to the scores."""

    target: int
    sums: State = field(default_factory=dict)
    moments: Values = field(default_factory=lambda: np.zeros(3))
    """Of the truths: their count, mean, and sum of squared deviations from it."""
    ranks: dict[str, tuple[Values, Values]] = field(default_factory=dict)
    """Values to rank, and the losses that go with them."""

    def sum(self, name: str, values: npt.ArrayLike) -> None:
        """Add to a sum."""
        given = np.asarray(values, dtype=np.float64)
        self.sums[name] = self.sums[name] + given if name in self.sums else given

    def observe(self, truth: Values) -> None:
        """Add truths to their moments."""
        # A rounded mean of equal values would leave a tiny deviation.
        mean = truth[0] if np.ptp(truth) == 0 else truth.mean()
        own = np.array([len(truth), mean, ((truth - mean) ** 2).sum()])
        self.moments = merged(self.moments, own)


def merged(one: Values, other: Values) -> Values:
    """Return the moments of both, as `Measured` has them (Chan, Golub & LeVeque 1979)."""
    if not one[0]:
        return other
    count = one[0] + other[0]
    apart = other[1] - one[1]
    squares = one[2] + other[2] + apart**2 * one[0] * other[0] / count
    return np.array([count, one[1] + apart * other[0] / count, squares])


class RegressionScores:
    """The scores of numbers that are added piece by piece."""

    def __init__(
        self, names: Sequence[str], scale: Values, *, levels: Sequence[float], level: float
    ) -> None:
        """`names` and `scale` are of the targets; `levels`, with `level`, of central intervals.

        `scale` makes deviations and errors of several targets comparable where these are ranked.
        """
        self._names = tuple(names)
        self._scale = scale if len(names) > 1 else np.ones(1)
        self._levels = tuple(sorted({*levels, level}))
        self._level = self._levels.index(level)
        self._sums: State = {}
        self._moments = np.zeros((len(names), 3))
        self._rankings = {name: Ranking() for name in ("std", "total", "oracle")}

    @np.errstate(all="ignore")  # what is not finite comes out as null
    def measure(
        self, target: int, own: Predictive, *, pause: Callable[[], None] = lambda: None
    ) -> Measured:
        """Score numbers of a target; `pause` is called every few milliseconds."""
        size = max(1, _CELLS // len(own.samples))
        measured = Measured(target=target)
        for first in range(0, len(own.truth), size):
            pause()
            self._measure(measured, own.part(slice(first, first + size)), pause)
        scale = self._scale[target]
        errors = np.abs(own.mean - own.truth) / scale
        for name, deviation in (("std", own.std), ("total", own.total)):
            if deviation is not None:
                measured.sum(name, deviation.sum())
                measured.ranks[name] = (deviation / scale, errors)
                measured.ranks["oracle"] = (errors, errors)
        return measured

    def _measure(self, measured: Measured, own: Predictive, pause: Callable[[], None]) -> None:
        errors = own.mean - own.truth
        measured.observe(own.truth)
        measured.sum("squares", (errors**2).sum())
        measured.sum("absolute", np.abs(errors).sum())
        if own.precision is not None:
            logs = mixture_log_likelihood(own.samples, own.truth, own.precision)
            measured.sum("logs", logs.sum())
            crps = mixture_crps(own.samples, own.precision, own.truth, pause=pause)
        else:
            crps = passes_crps(own.samples, own.truth)
        measured.sum("crps", crps.sum())
        if own.interval is not None:
            low, high = own.interval
            within = np.where(
                np.isnan(high - low), np.nan, (low <= own.truth) & (own.truth <= high)
            )
            measured.sum("calibrated", (within.sum(), (high - low).sum()))
        if own.precision is None and len(own.samples) == 1:
            return
        lower, upper = own.intervals(self._levels)
        inside = (lower <= own.truth) & (own.truth <= upper)
        measured.sum("inside", inside.sum(axis=1))
        measured.sum("width", (upper - lower).sum(axis=1))
        below = np.searchsorted(_SHARES, own.transform(), side="left")
        measured.sum("below", np.bincount(below, minlength=len(_SHARES) + 1))

    def add(self, measured: Measured) -> None:
        """Add numbers that were measured."""
        target = measured.target
        for name, values in measured.sums.items():
            if name not in self._sums:
                self._sums[name] = np.zeros((len(self._names), *values.shape))
            self._sums[name][target] += values
        self._moments[target] = merged(self._moments[target], measured.moments)
        for name, (values, losses) in measured.ranks.items():
            self._rankings[name].add(values, losses)

    # -- what they come to -------------------------------------------------------------------------

    @np.errstate(all="ignore")  # what is not finite is null
    def result(self) -> tuple[dict[str, Any], list[str]]:
        """Return the scores by name, null where they do not exist, and why these do not."""
        by_target = self._by_target()
        answer: dict[str, Any] = {
            name: figure(np.mean(values)) for name, values in by_target.items()
        }
        warnings = []
        if "log_likelihood" not in answer:
            answer["log_likelihood"] = None
            warnings.append(
                "the model has no noise precision (it was trained without validation rows, or "
                "imported): `log_likelihood` is null, and `crps`, intervals and calibration are of "
                "the passes alone"
            )
        if "coverage" not in answer:
            answer |= {"coverage": None, "interval_width": None, "calibration_error": None}
            warnings.append(
                "one pass without a noise precision says nothing of how sure it is: intervals and "
                "calibration are null, and `crps` is the mean absolute error"
            )
        if not (self._moments[:, 2] > 0).all():
            warnings.append("a target is the same in all rows, so that there is no `r2`")
        if not np.isfinite(self._sums["squares"]).all():
            warnings.append("some predictions are not finite numbers, so that scores are null")
        answer |= self._curves()
        targets = None
        if len(self._names) > MOST_NAMED:
            warnings.append(
                f"{len(self._names)} targets are not told one by one: at most {MOST_NAMED} are"
            )
        elif len(self._names) > 1:
            targets = {
                name: {key: figure(values[index]) for key, values in by_target.items()}
                for index, name in enumerate(self._names)
            }
        return answer | {"targets": targets}, warnings

    def _by_target(self) -> dict[str, Values]:
        """Return the scores of each target, (targets,)."""
        sums = self._sums
        count, _, spread = self._moments.T
        scores = {
            "rmse": np.sqrt(sums["squares"] / count),
            "mae": sums["absolute"] / count,
            "r2": np.where(spread > 0, 1 - sums["squares"] / spread, np.nan),
            "crps": sums["crps"] / count,
        }
        if "logs" in sums:
            scores["log_likelihood"] = sums["logs"] / count
        if "inside" in sums:
            scores["coverage"] = sums["inside"][:, self._level] / count
            scores["interval_width"] = sums["width"][:, self._level] / count
            observed = np.cumsum(sums["below"], axis=1)[:, :-1] / count[:, None]
            scores["calibration_error"] = np.abs(observed - _SHARES).mean(axis=1)
        return scores

    def _curves(self) -> dict[str, Any]:
        """Return what is more than a number, of all targets together."""
        sums, count = self._sums, self._moments[:, 0]
        curves: dict[str, Any] = {"intervals": None, "calibration": None, "interval": None}
        if "calibrated" in sums:
            within, width = (sums["calibrated"] / count[:, None]).mean(axis=0)
            curves["interval"] = {"coverage": figure(within), "width": figure(width)}
        if "inside" in sums:
            inside = (sums["inside"] / count[:, None]).mean(axis=0)
            width = (sums["width"] / count[:, None]).mean(axis=0)
            curves["intervals"] = [
                {"level": level, "coverage": figure(share), "width": figure(mean)}
                for level, share, mean in zip(self._levels, inside, width, strict=True)
            ]
            pit = (sums["below"] / count[:, None]).mean(axis=0)
            curves["calibration"] = {
                "expected": _SHARES.tolist(),
                "observed": np.cumsum(pit)[:-1].tolist(),
                "pit": pit.tolist(),
            }
        return curves | self._ranks()

    def _ranks(self) -> dict[str, Any]:
        told: dict[str, Any] = {}
        for name in ("std", "total"):
            if name in self._sums:
                area = self._rankings[name].area()
                told[name] = {
                    "mean": figure((self._sums[name] / self._moments[:, 0]).mean()),
                    "aurc": figure(area),
                    "ause": self._excess(area),
                }
        by = next(iter(told), None)
        curve = None
        if by is not None:
            risks = self._rankings[by].risks(COVERAGES)
            curve = {"by": by, "coverage": list(COVERAGES), "risk": [figure(r) for r in risks]}
        return {"uncertainty": told, "risk_coverage": curve}

    def _excess(self, area: float | None) -> float | None:
        """Return how far a ranking's area is from that by the errors themselves, in their mean."""
        best = self._rankings["oracle"].area()
        (whole,) = self._rankings["oracle"].risks((1.0,))
        if area is None or best is None or not whole:
            return None
        return figure((area - best) / whole)

    # -- across interruptions ----------------------------------------------------------------------

    def state(self) -> State:
        """Return all that was added, for `restore`."""
        state = {f"sums.{name}": values.copy() for name, values in self._sums.items()}
        state["moments"] = self._moments.copy()
        for name, ranking in self._rankings.items():
            state |= {f"{name}.{key}": values for key, values in ranking.state().items()}
        return state

    def restore(self, state: Mapping[str, Values]) -> None:
        """Become what other scores were."""
        self._sums = {
            name.removeprefix("sums."): values.copy()
            for name, values in state.items()
            if name.startswith("sums.")
        }
        self._moments = state["moments"].copy()
        for name, ranking in self._rankings.items():
            ranking.restore(
                {k.split(".")[1]: v for k, v in state.items() if k.startswith(f"{name}.")}
            )
