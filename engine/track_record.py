"""Track records: how good a model's predictions turned out to be, in sums that are only added to.

Of all rows, of the latest ones, and of stretches of them in between. A record is a document whose
size is bounded, however many rows there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from engine.binomial_bounds import conformal_p_value, share_bounds
from engine.conformal import rank_of

__all__ = ["CONFIDENCE", "STRETCH_ROWS", "WINDOW", "Promise", "Stretch", "TrackRecord"]

Values = npt.NDArray[np.float64]
Scores = Mapping[str, Values]
"""Of rows by name, each (rows, targets): `squares`, `absolute`, `logs` (log densities) and of a
classifier `right`, `logs` and `brier`; of a calibrated model `covered` and `size`."""

STRETCH_ROWS = 100
"""Rows of a stretch, until it is put together with another one."""
WINDOW = 10
"""How many stretches are the latest rows; the last one may be unfinished."""
CONFIDENCE = 0.99
"""Of bounds, and of what is called a difference: a record is looked at again and again."""
_MOST_SUMS = 2000
"""Of all stretches; where there are more, the older ones are put together two by two."""


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Promise(_Kept):
    """What the calibration of a model promises."""

    level: float
    """The share of truths that is to be covered."""
    rows: int
    """How many rows it was calibrated on."""
    is_of_rows: bool
    """Whether a row has one truth of each target. The steps of a sequence hang together, and the
    share of them that is covered has no law that chance could be told by."""


class Stretch(_Kept):
    """Rows that came one after another, and the sums of their scores."""

    rows: int
    unscored: int
    """Further rows with a score that is no finite number: they count for nothing else."""
    sums: dict[str, tuple[float, ...]]
    """By score, for each target."""
    since: datetime
    until: datetime

    @classmethod
    def of(cls, scores: Scores, at: datetime) -> Stretch:
        """Return the sums of the scores of rows."""
        finite = np.logical_and.reduce([np.isfinite(own).all(axis=1) for own in scores.values()])
        return cls(
            rows=int(finite.sum()),
            unscored=int((~finite).sum()),
            sums={name: tuple(own[finite].sum(axis=0).tolist()) for name, own in scores.items()},
            since=at,
            until=at,
        )

    def and_(self, later: Stretch) -> Stretch:
        """Return the stretch of both."""
        return Stretch(
            rows=self.rows + later.rows,
            unscored=self.unscored + later.unscored,
            sums={
                name: tuple(np.add(own, later.sums[name]).tolist())
                for name, own in self.sums.items()
            },
            since=self.since,
            until=later.until,
        )

    @property
    def count(self) -> int:
        return self.rows + self.unscored

    def means(self) -> dict[str, Values]:
        """Return the means over the rows by score, (targets,); there are rows."""
        return {name: np.array(own) / self.rows for name, own in self.sums.items()}


class TrackRecord(_Kept):
    """What a model's predictions came to, as far as their truths became known."""

    targets: tuple[str, ...]
    is_of_classes: bool
    promise: Promise | None
    """None where the model is not calibrated."""
    whole: Stretch | None = None
    stretches: tuple[Stretch, ...] = ()
    """The whole in pieces, the oldest first."""

    def added(self, scores: Scores, at: datetime) -> Self:
        """Return the record with the scores of more rows, one or more."""
        own = Stretch.of(scores, at)
        stretches = list(self.stretches)
        for stretch in self._cut(scores, at):
            if stretches and stretches[-1].count < STRETCH_ROWS:
                stretch = stretches.pop().and_(stretch)
            stretches.append(stretch)
        most = max(2 * WINDOW, _MOST_SUMS // (len(own.sums) * len(self.targets)))
        while len(stretches) > most:
            stretches = [*_by_two(stretches[:-WINDOW]), *stretches[-WINDOW:]]
        whole = own if self.whole is None else self.whole.and_(own)
        return self.model_copy(update={"whole": whole, "stretches": tuple(stretches)})

    def _cut(self, scores: Scores, at: datetime) -> Iterator[Stretch]:
        """Cut rows where stretches end, the first of them where the last one is full."""
        filled = self.stretches[-1].count if self.stretches else 0
        start, end = 0, STRETCH_ROWS - filled % STRETCH_ROWS
        while start < len(next(iter(scores.values()))):
            yield Stretch.of({name: own[start:end] for name, own in scores.items()}, at)
            start, end = end, end + STRETCH_ROWS

    @property
    def latest(self) -> Stretch | None:
        """The latest rows: 901 to 1000, or all while they are fewer."""
        found: Stretch | None = None
        for stretch in self.stretches[-WINDOW:]:
            found = stretch if found is None else found.and_(stretch)
        return found

    # -- what they come to -------------------------------------------------------------------------

    def described(self) -> dict[str, Any]:
        """Return what the record says: `totals`, `recent`, `history` and `warnings`."""
        whole, latest = self.whole, self.latest
        warnings = []
        if self.promise is None:
            warnings.append("the model is not calibrated, so that no coverage is promised")
        elif not self.promise.is_of_rows:
            warnings.append(
                "a row has several truths of a target, which hang together: there are no bounds "
                "for the share that is covered"
            )
        if whole is not None and whole.unscored:
            warnings.append(
                f"{whole.unscored} rows count for nothing: their scores are no finite numbers"
            )
        told = {"totals": self.scores(whole), "recent": self.scores(latest)}
        names = {"totals": "all", "recent": "the latest"}
        warnings += [
            text for key, own in told.items() if own for text in self._departures(own, names[key])
        ]
        history = [{**_times(own), **self.figures(own)} for own in self.stretches]
        return {**told, "history": history, "warnings": warnings}

    def scores(self, own: Stretch | None) -> dict[str, Any] | None:
        """Return the scores of some rows, null where they have none."""
        if own is None:
            return None
        told: dict[str, Any] = {**_times(own), **self.figures(own)}
        coverage = told.pop("coverage")
        what = "set" if self.is_of_classes else "interval"
        told[what], targets = None, None
        if self.promise is not None and own.rows:
            size = float(np.mean(own.means()["size"]))
            by_target = [self._coverage(own, index) for index in range(len(self.targets))]
            told[what] = {
                "level": self.promise.level,
                "coverage": coverage,
                "size" if self.is_of_classes else "width": size,
                **(by_target[0] if len(by_target) == 1 else _together(by_target)),
            }
        if len(self.targets) > 1 and own.rows:
            targets = {name: self._of_target(own, index) for index, name in enumerate(self.targets)}
        return told if self.is_of_classes else told | {"targets": targets}

    def figures(self, own: Stretch) -> dict[str, float | None]:
        """Return the figures of some rows, of several targets their means; null of no rows."""
        return _figures(own.means() if own.rows else None, self.is_of_classes)

    def _of_target(self, own: Stretch, index: int) -> dict[str, Any]:
        means = {name: value[index : index + 1] for name, value in own.means().items()}
        told: dict[str, Any] = dict(_figures(means, self.is_of_classes))
        if self.promise is not None:
            told |= {"width": float(means["size"][0]), **self._coverage(own, index)}
        return told

    def _coverage(self, own: Stretch, index: int) -> dict[str, Any]:
        """Say whether the share of a target's truths that is covered is what was promised.

        Of several targets each has its part of the chance to be wrong (Bonferroni).
        """
        promise = self.promise
        assert promise is not None
        if not promise.is_of_rows:
            names = ("lower", "upper", "differs", "p_value", "drifted")
            return dict.fromkeys(names)
        count = round(own.sums["covered"][index])
        chance = (1 - CONFIDENCE) / len(self.targets)
        lower, upper = share_bounds(count, own.rows, 1 - chance)
        rank = rank_of(promise.rows, promise.level)
        p_value = conformal_p_value(count, own.rows, rank=rank, rows=promise.rows)
        return {
            "lower": lower,
            "upper": upper,
            "differs": not lower <= promise.level <= upper,
            "p_value": p_value,
            "drifted": p_value < chance,
        }

    def _departures(self, told: Mapping[str, Any], which: str) -> Iterator[str]:
        """Say where coverage is not what was promised."""
        own = told.get("interval") or told.get("set")
        if own is None or not own["differs"]:
            return
        level, rows, share = own["level"], told["rows"], own["coverage"]
        few = "fewer" if share < level else "more"
        reason = (
            "and these rows are unlike those that it was calibrated on"
            if own["drifted"]
            else "which the chance of its few calibration rows may account for"
        )
        yield (
            f"of {which} {rows} rows {share:.1%} of the truths were covered, {few} than the "
            f"{level:.1%} that is promised, beyond the chance of so many rows, {reason}"
        )


def _by_two(stretches: Sequence[Stretch]) -> Iterator[Stretch]:
    """Yield neighbours together; the last one alone where their number is odd."""
    for index in range(0, len(stretches), 2):
        pair = stretches[index : index + 2]
        yield pair[0] if len(pair) == 1 else pair[0].and_(pair[1])


def _times(own: Stretch) -> dict[str, Any]:
    return {"since": own.since, "until": own.until, "rows": own.rows, "unscored": own.unscored}


def _figures(means: Mapping[str, Values] | None, is_of_classes: bool) -> dict[str, float | None]:
    def mean(name: str) -> float | None:
        return None if means is None or name not in means else float(np.mean(means[name]))

    logs = mean("logs")
    told = {"log_likelihood": logs, "coverage": mean("covered")}
    if is_of_classes:
        return told | {
            "accuracy": mean("right"),
            "log_loss": None if logs is None else -logs,
            "brier": mean("brier"),
        }
    rmse = None if means is None else float(np.sqrt(means["squares"]).mean())
    return told | {"rmse": rmse, "mae": mean("absolute")}


def _together(by_target: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what holds of several targets: whether any of them departs from the promise."""
    told: dict[str, Any] = dict.fromkeys(by_target[0])
    for name in ("differs", "drifted"):
        if by_target[0][name] is not None:
            told[name] = any(own[name] for own in by_target)
    return told
