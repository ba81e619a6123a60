"""Which windows of a table's series train a network and which measure it.

A window belongs to a part if all of its rows do, those of its targets included; so no row is in
windows of both parts, and what lies across is in neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.data.series import Series
from engine.data.splits import Split, checked_rows, random_order
from engine.errors import SpecError
from engine.spec import SequenceSpec, TrainSpec, ValidationSpec

__all__ = ["resolve_window", "split_series"]

_SHOWN = 5

Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def resolve_window(spec: SequenceSpec, series: Series, used: Rows | None) -> SequenceSpec:
    """Return the spec with its window given: that asked for, or what whole series have.

    The horizon must be given already.
    """
    assert spec.horizon is not None
    if spec.window is not None:
        return spec
    inside = _mask(len(series.place), used)[series.order]
    lengths, counts = np.unique(np.bincount(series.codes[inside]), return_counts=True)
    lengths, counts = lengths[lengths > 0], counts[lengths > 0]
    if len(lengths) > 1:
        pairs = np.stack([lengths, counts], axis=1)[:_SHOWN].tolist()
        some = ", ".join(f"{length} ({count} series)" for length, count in pairs)
        raise SpecError(
            "without `window` each series is one sequence, and all have one length; these have "
            f"{some}{', …' if len(lengths) > _SHOWN else ''} rows: give a `window`",
            pointer="#/sequence/window",
        )
    window = int(lengths[0]) - spec.horizon
    if window < 1:
        raise SpecError(
            f"series of {lengths[0]} rows leave no step before a target {spec.horizon} rows later",
            pointer="#/sequence/horizon",
        )
    return spec.model_copy(update={"window": window})


def split_series(
    series: Series,
    train: TrainSpec,
    spec: SequenceSpec,
    *,
    whole: bool,
    valid_rows: Rows | None = None,
) -> tuple[Split, list[str]]:
    """Divide the windows of a table's series; also return what is worth a warning.

    `spec` has window and horizon; `whole` says that each window is a whole series. `valid_rows` are
    those for validation, where a column divides the rows.
    """
    rows = len(series.place)
    division = _Division(series=series, spec=spec, train=train, whole=whole)
    candidates = _mask(rows, None if train.rows is None else np.asarray(train.rows))
    division.require(division.windows(candidates), None, candidates)
    chosen = train.validation
    valid: Mask | None = None
    dataset: str | None = None
    if isinstance(chosen, ValidationSpec):
        dataset = chosen.dataset
        if valid_rows is not None:
            valid = _mask(rows, valid_rows)
        elif chosen.rows is not None:
            valid = _mask(rows, checked_rows(chosen.rows, rows, "#/validation/rows"))
        elif chosen.fraction is not None:
            seed = train.seed if chosen.seed is None else chosen.seed
            valid = division.drawn(candidates, chosen.fraction, seed, "#/validation/fraction")
    elif chosen:
        valid = division.drawn(candidates, chosen, train.seed, "#/validation")
    training = candidates if valid is None else candidates & ~valid
    windows = division.windows(training)
    measuring = None if valid is None else division.windows(valid)
    division.require(windows, measuring, candidates)
    learn = np.zeros(rows, dtype=np.bool_)
    assert spec.window is not None
    learn[series.covered(windows, spec.window)[0]] = True
    learn[series.covered(windows, spec.window, after=spec.horizon or 0)[0]] = True
    warnings = division.warnings(candidates, [windows, *([] if measuring is None else [measuring])])
    split = Split(train=windows, valid=measuring, dataset=dataset, learn=np.flatnonzero(learn))
    return split, warnings


def _mask(rows: int, numbers: Rows | None) -> Mask:
    mask = np.full(rows, numbers is None, dtype=np.bool_)
    if numbers is not None:
        mask[numbers] = True
    return mask


@dataclass(frozen=True, kw_only=True)
class _Division:
    """How the windows of series are told apart."""

    series: Series
    spec: SequenceSpec
    train: TrainSpec
    whole: bool

    @property
    def span(self) -> int:
        """Rows from the start of a window to its last target."""
        assert self.spec.window is not None
        return self.spec.window + (self.spec.horizon or 0)

    def windows(self, member: Mask) -> Rows:
        assert self.spec.window is not None
        found = self.series.windows(
            member, window=self.spec.window, span=self.span, stride=self.spec.stride
        )
        return np.sort(found)

    def drawn(self, candidates: Mask, fraction: float, seed: int, pointer: str) -> Mask:
        """Choose the rows of a fraction: the end of each series, or whole series."""
        found = None if self.whole else self._by_time(candidates, fraction)
        if found is None:
            found = self._by_group(candidates, fraction, seed)
        if found is None:
            raise SpecError(
                "no share of the windows can be taken for validation that does not overlap the "
                f"others: that needs a series of {2 * self.span} rows, or two series; set "
                "`validation` to null, or give a shorter `window`, or another data set",
                pointer=pointer,
            )
        return found

    def _by_time(self, candidates: Mask, fraction: float) -> Mask | None:
        """Take of each series that is long enough the rows of its last windows."""
        series = self.series
        places = np.flatnonzero(candidates[series.order])
        codes = series.codes[places]
        lengths = np.bincount(codes, minlength=int(series.codes[-1]) + 1)
        windows = lengths - 2 * self.span + 2
        if windows.max() < 2:
            return None
        share = np.clip(np.round(fraction * windows).astype(np.int64), 1, windows - 1)
        kept = np.where(windows >= 2, share + self.span - 1, 0)
        from_end = np.cumsum(lengths)[codes] - 1 - np.arange(len(places))
        return _mask(len(series.place), series.order[places[from_end < kept[codes]]])

    def _by_group(self, candidates: Mask, fraction: float, seed: int) -> Mask | None:
        """Draw whole series among those that have a window."""
        series = self.series
        usable = np.unique(series.codes[series.place[self.windows(candidates)]])
        if len(usable) < 2:
            return None
        wanted = min(max(1, round(fraction * len(usable))), len(usable) - 1)
        chosen = usable[random_order(len(usable), seed)[:wanted]]
        return candidates & _mask(len(series.place), series.order[np.isin(series.codes, chosen)])

    def require(self, windows: Rows, measuring: Rows | None, candidates: Mask) -> None:
        """Refuse a division that leaves no window to train on, or to measure on."""
        if len(windows) and (measuring is None or len(measuring)):
            return
        series = self.series
        longest = int(np.bincount(series.codes[candidates[series.order]]).max(initial=0))
        where = "#/sequence/window"
        what = "no window is left to train on"
        if len(windows):
            what, where = "no window lies within the validation rows", "#/validation"
        horizon = self.spec.horizon or 0
        raise SpecError(
            f"{what}: a window of {self.spec.window} rows with its targets {horizon} later takes "
            f"{self.span} rows that follow each other in one series and are all in one part; the "
            f"longest series has {longest}",
            pointer=where,
        )

    def warnings(self, candidates: Mask, parts: Sequence[Rows]) -> list[str]:
        """Count the series without any window."""
        series = self.series
        there = np.unique(series.codes[candidates[series.order]])
        read = np.unique(series.codes[series.place[np.concatenate(parts)]])
        found: list[str] = []
        if short := int(len(there) - np.isin(there, read).sum()):
            found.append(
                f"{short} of {len(there)} series are shorter than the {self.span} rows of a window "
                "and its targets, and are left out"
            )
        if series.ties:
            found.append(
                f"{series.ties} rows stand at the same {self.spec.order!r} as another of their "
                "series; such rows keep the order of the table"
            )
        return found
