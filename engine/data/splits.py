"""Which rows train a network and which measure it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import SpecError
from engine.spec import TrainSpec, ValidationSpec

__all__ = ["Split", "split", "used_rows"]

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Row numbers of the data set, ascending; no row is in both parts."""

    train: Rows
    valid: Rows | None
    """None where there is no validation, or where it is on another data set."""
    dataset: str | None = None
    """The other data set, all of whose rows are for validation."""


def used_rows(rows: int, spec: TrainSpec) -> Rows | None:
    """Return the rows that training or validation reads, ascending; None for every row.

    What the other rows of the data set hold, or lack, is of no concern.
    """
    if spec.rows is None:
        return None
    used = _checked(spec.rows, rows, "#/rows")
    validation = spec.validation
    if isinstance(validation, ValidationSpec) and validation.rows is not None:
        used = np.union1d(used, _checked(validation.rows, rows, "#/validation/rows"))
    return np.sort(used)


def split(rows: int, spec: TrainSpec, *, labels: npt.ArrayLike | None = None) -> Split:
    """Divide a data set of so many rows, as a function of the spec alone.

    With `labels` (a class for every row of the data set) a drawn share takes the same part of
    every class as far as whole rows allow, and leaves each class at least one training row.
    """
    candidates = np.arange(rows, dtype=np.int64)
    if spec.rows is not None:
        candidates = np.sort(_checked(spec.rows, rows, "#/rows"))
    validation = spec.validation
    if validation is None or validation == 0:
        return Split(train=candidates, valid=None)
    if not isinstance(validation, ValidationSpec):
        return _drawn(candidates, validation, spec.seed, labels, "#/validation")
    if validation.dataset is not None:
        return Split(train=candidates, valid=None, dataset=validation.dataset)
    if validation.rows is not None:
        valid = np.sort(_checked(validation.rows, rows, "#/validation/rows"))
        train = np.setdiff1d(candidates, valid, assume_unique=True)
        if len(train) == 0:
            raise SpecError(
                "every row is for validation; none is left to train on",
                pointer="#/validation/rows",
            )
        return Split(train=train, valid=valid)
    seed = spec.seed if validation.seed is None else validation.seed
    return _drawn(candidates, validation.fraction or 0.0, seed, labels, "#/validation/fraction")


def _checked(numbers: Sequence[int], rows: int, pointer: str) -> Rows:
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


def _drawn(
    candidates: Rows, fraction: float, seed: int, labels: npt.ArrayLike | None, pointer: str
) -> Split:
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
    order = _order(total, seed)
    if labels is None:
        chosen = order[:wanted]
    else:
        chosen = _stratified(order, np.asarray(labels)[candidates], fraction, wanted)
        if len(chosen) == 0:
            raise SpecError(
                "every class has only one row, and each needs it for training; "
                "set `validation` to null, or give more rows",
                pointer=pointer,
            )
    is_valid = np.zeros(total, dtype=bool)
    is_valid[chosen] = True
    return Split(train=candidates[~is_valid], valid=candidates[is_valid])


def _order(total: int, seed: int) -> Rows:
    """Return a random order, the same for the same seed wherever and whenever it is drawn.

    The raw numbers of Philox are fixed by its definition; what a Generator makes of them is not.
    """
    key = hashlib.sha256(f"{seed}:validation".encode()).digest()[:16]
    draws = np.random.Philox(key=int.from_bytes(key, "little")).random_raw(total)
    return np.argsort(draws, kind="stable").astype(np.int64)


def _stratified(order: Rows, labels: npt.NDArray[Any], fraction: float, wanted: int) -> Rows:
    """Take of each class its share, rounded by largest remainders so that the total is met."""
    classes, codes = np.unique(labels, return_inverse=True)
    counts = np.bincount(codes, minlength=len(classes))
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
