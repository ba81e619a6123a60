"""Windows of a stored table as a network reads them, each named by the number of its last row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.data.dataset import Data
from engine.data.inputs import Inputs
from engine.data.labels import Label, distinct_labels
from engine.data.series import Series
from engine.data.windows import Windows
from engine.errors import DataError
from engine.spec import SequenceSpec

__all__ = ["input_windows", "known_windows", "target_windows", "window_rows"]

Rows = npt.NDArray[np.int64]


def window_rows(data: Data, spec: SequenceSpec, *, targets: bool) -> Rows:
    """Return the last rows of all windows, ascending, that lie in one series.

    With `targets` only those whose targets are there as well, `stride` rows apart.
    """
    series = Series.of(data, spec)
    window, horizon = _sizes(spec)
    found = series.windows(
        np.ones(data.rows, dtype=np.bool_),
        window=window,
        span=window + horizon if targets else window,
        stride=spec.stride if targets else 1,
    )
    if not len(found):
        longest = int(np.bincount(series.codes).max())
        needed = window + horizon if targets else window
        raise DataError(
            f"no series of the data set has the {needed} rows that a window needs; the longest has "
            f"{longest}"
        )
    return np.sort(found)


def input_windows(
    data: Data, spec: SequenceSpec, lasts: Rows | None, read: Callable[[Rows], Inputs]
) -> Inputs:
    """Return the windows that end at these rows (all by default), of what `read` says of rows."""
    if lasts is None:
        lasts = window_rows(data, spec, targets=False)
    series = Series.of(data, spec)
    window, _ = _sizes(spec)
    _require(series, lasts, window, 0)
    rows, starts = series.covered(lasts, window)
    return Inputs(
        {name: Windows(value, starts, window) for name, value in read(rows).values.items()}
    )


def target_windows(
    data: Data, spec: SequenceSpec, lasts: Rows | None, read: Callable[[Rows], Any]
) -> Any:
    """Return what `read` says of the target rows of windows: (windows, …), or Windows of them."""
    if lasts is None:
        lasts = window_rows(data, spec, targets=True)
    series = Series.of(data, spec)
    window, horizon = _sizes(spec)
    _require(series, lasts, window, horizon)
    if spec.predict == "last":
        return read(series.ahead(lasts, horizon))
    rows, starts = series.covered(lasts, window, after=horizon)
    return Windows(read(rows), starts, window)


def known_windows(
    data: Data, spec: SequenceSpec, lasts: Rows, target: str, classes: Sequence[Label]
) -> npt.NDArray[np.bool_]:
    """Say which windows have classes among those given only."""

    def known(rows: Rows) -> npt.NDArray[np.bool_]:
        distinct, numbers = distinct_labels(data, target, rows)
        there = {(type(label), label) for label in classes}
        return np.array([(type(label), label) in there for label in distinct])[numbers]

    found = target_windows(data, spec, lasts, known)
    return found if spec.predict == "last" else found[:].all(axis=1)  # type: ignore[no-any-return]


def _sizes(spec: SequenceSpec) -> tuple[int, int]:
    assert spec.window is not None
    assert spec.horizon is not None
    return spec.window, spec.horizon


def _require(series: Series, lasts: Rows, window: int, horizon: int) -> None:
    complete = series.complete(lasts, window, horizon)
    if complete.all():
        return
    at = int(np.argmin(complete))
    row, place = int(lasts[at]), int(series.place[lasts[at]])
    before = place - int(series.start[place]) + 1
    raise DataError(
        f"row {row} is number {before} of its series and so ends no window of {window} rows"
        + (f" with targets {horizon} rows later" if horizon else ""),
        pointer=f"#/inputs/rows/{at}",
    )
