"""Which rows, or windows of series, train a network and which measure it, in view of their data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from engine.data.dataset import Data
from engine.data.encoding import Encoding
from engine.data.labels import distinct_labels
from engine.data.selection import Selection
from engine.data.series import Series
from engine.data.series_splits import resolve_window, split_series
from engine.data.splits import Split, divider, split
from engine.data.windowed import known_windows, window_rows
from engine.errors import DataError, SpecError
from engine.spec import SequenceSpec, TrainSpec, ValidationSpec

__all__ = ["divide", "validation_rows", "without_unseen"]


def divide(
    spec: TrainSpec, data: Data, selection: Selection, used: npt.NDArray[np.int64] | None
) -> tuple[Split, SequenceSpec | None, list[str]]:
    """Divide the rows, or the windows of their series; return the latter's spec and warnings."""
    if selection.sequence is None:
        by = divider(spec, data.column, _labels(data, selection, used))
        return split(data.rows, spec, by=by), None, []
    series = Series.of(data, selection.sequence, used)
    sequence = resolve_window(selection.sequence, series, used)
    whole = selection.sequence.window is None
    divided = _divided_rows(spec, data)
    chosen, warnings = split_series(series, spec, sequence, whole=whole, valid_rows=divided)
    is_autoencoder = selection.form == "autoencoder"
    predict = sequence.predict or ("each" if is_autoencoder else "last")
    return chosen, sequence.model_copy(update={"predict": predict}), warnings


def _divided_rows(spec: TrainSpec, data: Data) -> npt.NDArray[np.int64] | None:
    """Return the rows for validation where the spec names a column to divide rows by."""
    validation = spec.validation
    if not isinstance(validation, ValidationSpec):
        return None
    if validation.stratify:
        raise SpecError(
            "windows of series are not drawn, so that they cannot be stratified; take `group` or "
            "`time`, or leave it out",
            pointer="#/validation/stratify",
        )
    if validation.group is None and validation.time is None:
        return None
    return split(data.rows, spec, by=divider(spec, data.column, None)).valid


def without_unseen(encoding: Encoding, data: Data, chosen: Split) -> tuple[Split, list[str]]:
    """Leave out validation and calibration windows with classes that no training window has."""
    warnings: list[str] = []
    for part, what, key in (
        ("valid", "validation", "validation"),
        ("calibration", "calibration", "calibrate"),
    ):
        windows: npt.NDArray[np.int64] | None = getattr(chosen, part)
        if encoding.sequence is None or encoding.classes is None or windows is None:
            continue
        assert encoding.target is not None
        kept = known_windows(data, encoding.sequence, windows, encoding.target, encoding.classes)
        if kept.all():
            continue
        if not kept.any():
            raise DataError(
                f"every {what} window has a class that no training window has; divide the series "
                f"in another way, or set `{key}` to null",
                pointer=f"#/{key}",
            )
        warnings.append(
            f"{int((~kept).sum())} of {len(kept)} {what} windows have classes that no training "
            "window has, and are left out"
        )
        known = windows[kept]
        is_valid = part == "valid"
        chosen = replace(chosen, valid=known) if is_valid else replace(chosen, calibration=known)
    return chosen, warnings


def validation_rows(encoding: Encoding, data: Data) -> npt.NDArray[np.int64]:
    """Return the rows of a data set that is for validation as a whole, or the windows of such."""
    if encoding.sequence is None:
        return np.arange(data.rows, dtype=np.int64)
    return window_rows(data, encoding.sequence, targets=True)


def _labels(
    data: Data, selection: Selection, used: npt.NDArray[np.int64] | None
) -> npt.NDArray[Any] | None:
    """Return a class for every row, to be spread evenly; None where there is no such thing."""
    if selection.form != "classifier":
        return None
    if data.table is not None and data.type_of(selection.targets[0]) == "text":
        # Their numbers in sorted order divide the rows as they do, and are small.
        column = data.table.column(selection.targets[0])
        distinct = column.unique().drop_null()
        order = distinct.take(pc.array_sort_indices(distinct))
        numbered: npt.NDArray[np.int64] = pc.index_in(column, value_set=order).to_numpy()
        return numbered
    labels = data.column(selection.targets[0])
    if labels.dtype.kind == "f":  # numbers that are no labels are refused as such
        distinct_labels(data, selection.targets[0], used)
    return labels if labels.size == len(labels) else None
