"""Targets of losses that compare with something else than what the network predicts."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.data.dataset import Data
from engine.data.encoding import Encoding
from engine.data.labels import fit_classes
from engine.data.lengths import made_anew
from engine.data.loss_selection import AuxiliaryTargets, targets_pointer
from engine.data.selection import Selection
from engine.data.shapes import check_alike
from engine.data.targets import fit_targets, label_steps
from engine.errors import DataError
from engine.spec import SequenceSpec

__all__ = ["with_auxiliary"]

Rows = npt.NDArray[np.int64]


def with_auxiliary(
    encoding: Encoding, data: Data, selection: Selection, train_rows: Rows
) -> Encoding:
    """Return the encoding with what losses compare with, learnt on the training rows."""
    learnt = (_fit(data, own, train_rows, encoding.sequence) for own in selection.auxiliary)
    return made_anew(encoding, auxiliary=tuple(learnt)) if selection.auxiliary else encoding


def _fit(data: Data, own: AuxiliaryTargets, rows: Rows, sequence: SequenceSpec | None) -> Encoding:
    """Learn what a loss compares with; errors point at its targets."""
    encoding = Encoding(kind=data.kind, form=own.form, inputs=(), sequence=sequence)
    learnt: dict[str, Any]
    try:
        if own.form == "classifier":
            (name,) = own.names
            classes, steps = fit_classes(data, name, rows), label_steps(data, name)
            learnt = {"target": name, "classes": classes, "target_steps": steps}
        else:
            targets = fit_targets(data, own.names, rows, as_they_are=own.is_distribution)
            check_alike(targets, "#/targets")
            learnt = {"targets": targets}
    except DataError as error:
        raise DataError(error.detail, pointer=targets_pointer(own.loss)) from error
    return encoding.model_copy(update=learnt)
