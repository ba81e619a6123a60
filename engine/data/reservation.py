"""Rows reserved for calibration: taken out before any other part of a job is chosen."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.data.dataset import Data
from engine.data.division import divide
from engine.data.selection import Selection
from engine.data.series import Series
from engine.data.splits import checked_rows
from engine.errors import EngineError, SpecError
from engine.spec import CalibrateSpec, SequenceSpec, TrainSpec, ValidationSpec

__all__ = ["Reserved", "reserve"]

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Reserved:
    """The rows that calibrate, and what is left of the job without them."""

    calibration: Rows
    """Row numbers, ascending; of sequences made of a table's rows the last one of each window."""
    rows: Rows
    """All rows that these are made of."""
    rest: TrainSpec
    """The job on its other rows."""


def reserve(
    spec: TrainSpec, data: Data, selection: Selection, used: Rows | None, chosen: Rows | None
) -> Reserved | None:
    """Take out the calibration rows; None where the job has none, or those of another data set.

    They are `chosen` already, named by the spec, or divided from the others as the validation rows
    are from the training rows. Raises SpecError where they are validation rows, or leave none.
    """
    asked = spec.calibrate
    if asked is None or asked.dataset is not None:
        return None
    candidates = np.arange(data.rows, dtype=np.int64)
    if spec.rows is not None:
        candidates = np.sort(checked_rows(spec.rows, data.rows, "#/rows"))
    validating = _validation_rows(spec, data)
    rest = np.setdiff1d(candidates, validating, assume_unique=True)
    named = checked_rows(asked.rows, data.rows, "#/calibrate/rows") if asked.rows else chosen
    if asked.rows is not None and len(both := np.isin(asked.rows, validating).nonzero()[0]):
        raise SpecError(
            f"row {asked.rows[both[0]]} is a validation row; calibration takes rows that are used "
            "for nothing else",
            pointer=f"#/calibrate/rows/{both[0]}",
        )
    if named is not None and not len(np.setdiff1d(rest, named)):
        raise SpecError(
            "these are all rows of the job; none is left to train on", pointer="#/calibrate/rows"
        )
    choice = _choice(spec, asked, named)
    asking = spec.model_copy(
        update={
            "rows": tuple(rest.tolist()) if len(validating) else spec.rows,
            "validation": choice,
            "calibrate": None,
        }
    )
    key = "fraction" if named is None else "rows"
    try:
        divided, sequence, _ = divide(asking, data, selection, used)
    except EngineError as error:
        error.detail = f"the calibration rows: {error.detail}"
        error.pointer = error.pointer.replace("#/validation/fraction", "#/calibrate/fraction")
        error.pointer = error.pointer.replace("#/validation/rows", "#/calibrate/rows")
        if error.pointer == "#/validation":
            error.pointer = f"#/calibrate/{key}"
        raise
    assert divided.valid is not None
    taken = named
    if taken is None:
        taken = divided.valid
        if sequence is not None:
            taken = _covered(Series.of(data, _of_series(selection), used), sequence, taken)
    left = np.setdiff1d(candidates, taken)
    return Reserved(
        calibration=divided.valid,
        rows=np.sort(taken),
        rest=spec.model_copy(update={"rows": tuple(left.tolist()), "calibrate": None}),
    )


def _validation_rows(spec: TrainSpec, data: Data) -> Rows:
    validation = spec.validation
    if not isinstance(validation, ValidationSpec) or validation.rows is None:
        return np.zeros(0, dtype=np.int64)
    return checked_rows(validation.rows, data.rows, "#/validation/rows")


def _choice(spec: TrainSpec, asked: CalibrateSpec, named: Rows | None) -> ValidationSpec:
    """Return how calibration rows would be chosen if they were to validate."""
    if named is not None:
        return ValidationSpec(rows=tuple(named.tolist()))
    validation = spec.validation
    ways = {}
    if isinstance(validation, ValidationSpec):
        ways = {name: getattr(validation, name) for name in ("group", "time", "stratify")}
    seed = None
    if ways.get("time") is None:
        # Another draw than that of the validation rows, which may be by the same seed.
        told = f"{spec.seed if asked.seed is None else asked.seed}:calibration"
        seed = int.from_bytes(hashlib.sha256(told.encode()).digest()[:6], "little")
    return ValidationSpec(fraction=asked.fraction, seed=seed, **ways)


def _of_series(selection: Selection) -> SequenceSpec:
    assert selection.sequence is not None
    return selection.sequence


def _covered(series: Series, spec: SequenceSpec, windows: Rows) -> Rows:
    """Return all rows of windows, those of their targets included."""
    assert spec.window is not None
    inputs = series.covered(windows, spec.window)[0]
    targets = series.covered(windows, spec.window, after=spec.horizon or 0)[0]
    return np.union1d(inputs, targets)
