"""Tolerances: how exact an answer has to be, and what a request for one must say besides."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from engine.data.encoding import Encoding
from engine.errors import SpecError
from engine.names import array_of
from engine.spec import PredictSpec

__all__ = ["by_target", "check_ends", "tolerance_of"]


def check_ends(spec: PredictSpec) -> None:
    """Refuse a tolerance or budget without passes to end, or without errors to compare."""
    for name, given in (("tolerance", spec.tolerance), ("budget_ms", spec.budget_ms)):
        if given is None:
            continue
        if spec.num_samples is None:
            raise SpecError(
                f"`{name}` ends the drawing of passes; give `num_samples`, the most that are drawn",
                pointer=f"#/{name}",
            )
        if name == "tolerance" and spec.num_samples == 1:
            raise SpecError(
                "`tolerance` is of the standard error, and one pass has none; give `num_samples` "
                "of 2 or more, the most that are drawn",
                pointer="#/tolerance",
            )


def tolerance_of(encoding: Encoding, spec: PredictSpec) -> npt.NDArray[np.float64] | None:
    """Return the tolerance of each output, in original units; it broadcasts against outputs.

    A target that an object does not name has none, which is infinite. Raises SpecError for an
    object with another name than a regressor's targets'.
    """
    given = spec.tolerance
    if given is None:
        return None
    if encoding.classes is not None and not isinstance(given, float):
        raise SpecError(
            "a classifier's `tolerance` is one number, for the standard errors of all its "
            "probabilities",
            pointer="#/tolerance",
        )
    return encoding.along_targets(by_target(encoding, given, "#/tolerance"))


def by_target(
    encoding: Encoding, given: float | Mapping[str, float], pointer: str
) -> tuple[float, ...]:
    """Return the limit of each number of a row's targets; infinite for those without a name.

    One number stands for all, and is all that is returned. Raises SpecError, below `pointer`, for a
    name that is no target's.
    """
    if not isinstance(given, Mapping):
        return (given,)
    names = encoding.target_names
    known = {*names, *map(array_of, names)}
    for name in given:
        if name not in known:
            escaped = name.replace("~", "~0").replace("/", "~1")
            raise SpecError(
                f"{name!r:.80} is no target; these exist: {', '.join(names)}",
                pointer=f"{pointer}/{escaped}",
            )
    return tuple(given.get(name, given.get(array_of(name), math.inf)) for name in names)
