"""Which rows train a network and which measure it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from engine.data.spelling import read_texts, seconds_in
from engine.errors import DataError, SpecError
from engine.spec import TrainSpec, ValidationSpec

__all__ = ["Divider", "Split", "checked_rows", "divider", "random_order", "split", "used_rows"]

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Row numbers of the data set, ascending; no row is in both parts.

    Of sequences made of a table's rows, the number of a window is that of its last row.
    """

    train: Rows
    valid: Rows | None
    """None where there is no validation, or where it is on another data set."""
    dataset: str | None = None
    """The other data set, all of whose rows are for validation."""
    learn: Rows | None = None
    """The rows that the encoding learns on, where these are not those of `train`."""
    calibration: Rows | None = None
    """Those of this data set that calibrate; None where none do, or those of another."""
    reserved: Rows | None = None
    """The data set's rows of which calibration is made: neither other part reads any of them."""


def used_rows(rows: int, spec: TrainSpec) -> Rows | None:
    """Return the rows that any part of the job reads, ascending; None for every row.

    What the other rows of the data set hold, or lack, is of no concern.
    """
    if spec.rows is None:
        return None
    used = checked_rows(spec.rows, rows, "#/rows")
    validation = spec.validation
    if isinstance(validation, ValidationSpec) and validation.rows is not None:
        used = np.union1d(used, checked_rows(validation.rows, rows, "#/validation/rows"))
    if spec.calibrate is not None and spec.calibrate.rows is not None:
        used = np.union1d(used, checked_rows(spec.calibrate.rows, rows, "#/calibrate/rows"))
    return np.sort(used)


@dataclass(frozen=True, kw_only=True, eq=False)
class Divider:
    """What rows are divided by: a value for each row of the data set."""

    way: Literal["stratify", "group", "time"]
    values: npt.NDArray[Any]
    pointer: str = "#/validation"


def divider(
    spec: TrainSpec, column: Callable[[str], npt.NDArray[Any]], labels: npt.NDArray[Any] | None
) -> Divider | None:
    """Return what the spec wants rows to be divided by.

    `column` gives the values of a column that exists, `labels` those of a classifier, by which rows
    are stratified unless the spec says otherwise.
    """
    validation = spec.validation
    if isinstance(validation, ValidationSpec):
        for way in ("group", "time", "stratify"):
            name = getattr(validation, way)
            if isinstance(name, str):
                pointer = f"#/validation/{way}"
                return Divider(way=way, values=_column(column(name), pointer), pointer=pointer)
        if validation.stratify is False:
            return None
        if validation.stratify is True and labels is None:
            raise SpecError(
                "`stratify` is true for the classes of a classifier; name a column instead",
                pointer="#/validation/stratify",
            )
    return None if labels is None else Divider(way="stratify", values=labels)


def _column(values: npt.NDArray[Any], pointer: str) -> npt.NDArray[Any]:
    """Return one value a row in a form that can be compared; missing ones are refused later."""
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise SpecError("rows are divided by one value a row", pointer=pointer)
    return values


def split(rows: int, spec: TrainSpec, *, by: Divider | None = None) -> Split:
    """Divide a data set of so many rows, as a function of the spec alone.

    Stratified by values, a drawn share takes the same part of the rows of each as far as whole rows
    allow, and leaves each at least one training row. By groups, whole groups are drawn, by time the
    last rows are taken; rows of one group or time are on one side.
    """
    candidates = np.arange(rows, dtype=np.int64)
    if spec.rows is not None:
        candidates = np.sort(checked_rows(spec.rows, rows, "#/rows"))
    validation = spec.validation
    if validation is None or validation == 0:
        return Split(train=candidates, valid=None)
    if not isinstance(validation, ValidationSpec):
        return _drawn(candidates, validation, spec.seed, by, "#/validation")
    if validation.dataset is not None:
        return Split(train=candidates, valid=None, dataset=validation.dataset)
    if validation.rows is not None:
        valid = np.sort(checked_rows(validation.rows, rows, "#/validation/rows"))
        train = np.setdiff1d(candidates, valid, assume_unique=True)
        if len(train) == 0:
            raise SpecError(
                "every row is for validation; none is left to train on",
                pointer="#/validation/rows",
            )
        return Split(train=train, valid=valid)
    seed = spec.seed if validation.seed is None else validation.seed
    return _drawn(candidates, validation.fraction or 0.0, seed, by, "#/validation/fraction")


def checked_rows(numbers: Sequence[int], rows: int, pointer: str) -> Rows:
    """Return row numbers that exist and occur once."""
    array = np.asarray(numbers, dtype=np.int64)
    outside = (array < 0) | (array >= rows)
    if outside.any():
        at = int(np.argmax(outside))
        raise SpecError(
            f"row {array[at]} does not exist; the data set has rows 0 to {rows - 1}",
            pointer=f"{pointer}/{at}",
        )
    _, first = np.unique(array, return_index=True)
    if len(first) < len(array):
        repeated = np.ones(len(array), dtype=bool)
        repeated[first] = False
        at = int(np.argmax(repeated))
        raise SpecError(f"row {array[at]} is given twice", pointer=f"{pointer}/{at}")
    return array


def _drawn(candidates: Rows, fraction: float, seed: int, by: Divider | None, pointer: str) -> Split:
    total = len(candidates)
    if total < 2:
        raise SpecError(
            f"{total} row cannot be divided; set `validation` to null, or give more rows",
            pointer=pointer,
        )
    wanted = max(1, round(fraction * total))
    if wanted >= total:
        raise SpecError(
            f"a fraction of {fraction!r} of {total} rows leaves none to train on; "
            "take a smaller one",
            pointer=pointer,
        )
    is_valid = np.zeros(total, dtype=bool)
    is_valid[_chosen(candidates, fraction, wanted, seed, by, pointer)] = True
    return Split(train=candidates[~is_valid], valid=candidates[is_valid])


def _chosen(
    candidates: Rows, fraction: float, wanted: int, seed: int, by: Divider | None, pointer: str
) -> Rows:
    """Return positions among the candidates of the rows for validation."""
    order = random_order(len(candidates), seed)
    if by is None:
        return order[:wanted]
    values = by.values[candidates]
    _refuse_missing(values, by)
    if by.way == "time":
        return _last(_times(values, candidates, by), wanted, by)
    _, codes = np.unique(values, return_inverse=True)
    if by.way == "group":
        return _groups(codes, order, wanted, by)
    chosen = _stratified(order, codes, fraction, wanted)
    if len(chosen) == 0:
        raise SpecError(
            "every class has only one row, and each needs it for training; "
            "set `validation` to null, or give more rows",
            pointer=pointer,
        )
    return chosen


def _times(values: npt.NDArray[Any], rows: Rows, by: Divider) -> npt.NDArray[Any]:
    """Return values in whose order time goes by; texts are put in none but that of their times."""
    if values.dtype.kind in "iufMb":
        return values
    try:
        return read_texts(values.astype(str), seconds_in, "time", rows, by.pointer)
    except DataError as error:
        raise SpecError(
            f"rows are ordered by numbers or times: {error.detail}", pointer=by.pointer
        ) from error


def _refuse_missing(values: npt.NDArray[Any], by: Divider) -> None:
    if values.dtype == object:
        missing = sum(value is None for value in values.tolist())
    else:
        missing = int(np.count_nonzero(values != values))  # NaN and NaT
    if missing and by.pointer != "#/validation":
        raise SpecError(
            f"{missing} rows have no value to be divided by; choose rows that have one by `rows`",
            pointer=by.pointer,
        )


def _groups(codes: Rows, order: Rows, wanted: int, by: Divider) -> Rows:
    """Take whole groups, in random order, as long as they bring the share closer to what is wanted.

    Groups come in the order of their first row in the random order of rows.
    """
    distinct, first = np.unique(codes[order], return_index=True)
    if len(distinct) < 2:
        raise SpecError(
            "all rows are of one group, which cannot be divided; take another column, or set "
            "`validation` to null",
            pointer=by.pointer,
        )
    sizes = np.bincount(codes)
    taken: list[int] = []
    total = 0
    for group in distinct[np.argsort(first, kind="stable")].tolist():
        size = int(sizes[group])
        closer = abs(total + size - wanted) < abs(total - wanted)
        if closer and len(taken) < len(distinct) - 1:
            taken.append(group)
            total += size
    if not taken:  # each is more than twice as large as what is wanted
        taken = [int(np.argmin(sizes))]
    return np.flatnonzero(np.isin(codes, taken))


def _last(values: npt.NDArray[Any], wanted: int, by: Divider) -> Rows:
    """Take the rows of the latest times, and all of the earliest one among them."""
    _, codes = np.unique(values, return_inverse=True)
    if codes.max() == 0:
        raise SpecError(
            "all rows are of one time, so that none is the last; take another column",
            pointer=by.pointer,
        )
    earliest = np.sort(codes)[len(codes) - wanted]
    return np.flatnonzero(codes >= max(1, int(earliest)))


def random_order(total: int, seed: int) -> Rows:
    """Return a random order, the same for the same seed wherever and whenever it is drawn.

    The raw numbers of Philox are fixed by its definition; what a Generator makes of them is not.
    """
    key = hashlib.sha256(f"{seed}:validation".encode()).digest()[:16]
    draws = np.random.Philox(key=int.from_bytes(key, "little")).random_raw(total)
    order = np.argsort(draws)
    ordered = draws[order]
    if (ordered[1:] == ordered[:-1]).any():  # equal ones keep their order; that takes longer
        order = np.argsort(draws, kind="stable")
    return order.astype(np.int64)


def _stratified(order: Rows, codes: Rows, fraction: float, wanted: int) -> Rows:
    """Take of each class its share, rounded by largest remainders so that the total is met."""
    counts = np.bincount(codes)
    exact = fraction * counts
    quotas = np.minimum(np.floor(exact).astype(np.int64), counts - 1)
    missing = wanted - int(quotas.sum())
    for index in np.argsort(quotas - exact, kind="stable"):  # largest remainder first
        if missing <= 0:
            break
        if quotas[index] < counts[index] - 1:
            quotas[index] += 1
            missing -= 1
    # Every row's place among those of its class, in the random order.
    by_class = np.argsort(codes[order], kind="stable")
    starts = np.cumsum(counts) - counts
    place = np.arange(len(order)) - np.repeat(starts, counts)
    return order[by_class[place < np.repeat(quotas, counts)]]
