"""Answers to predictions, as they are sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from engine.data.ranges import Outside
from engine.prediction import Estimate, PredictionPlan
from engine.streams import STREAM_VERSION
from service.json_pieces import PIECE, json_pieces

__all__ = ["answer_of", "json_of", "outside_of"]


def answer_of(model_id: str, plan: PredictionPlan, estimate: Estimate) -> dict[str, Any]:
    """Return what an answer says: its arrays, and enough to ask for the same again."""
    return {
        "model": model_id,
        "outputs": estimate.outputs,
        "dropout": plan.dropout(),
        "noise": plan.noise(),
        "drop_connect": plan.drop_connect(),
        "num_samples": None if plan.num_samples is None else estimate.num_samples,
        "seed": None,
        "masks": plan.spec.masks,
        "row_offset": plan.spec.row_offset,
        "stopped_by": None if plan.num_samples is None else estimate.stopped_by,
        "stream": STREAM_VERSION,
        "outside": [],
        "warnings": plan.warnings,
    }


def outside_of(
    outside: Outside, row_ids: npt.NDArray[np.int64], warnings: Sequence[str]
) -> dict[str, Any]:
    """Return what an answer says of rows outside the range of the training rows.

    Only so many are listed; a warning then says how many there are.
    """
    listed = [{"row": int(row_ids[at]), "inputs": list(names)} for at, names in outside.listed]
    if outside.rows > len(listed):
        warnings = [
            *warnings,
            f"{outside.told()}; `outside` lists the first {len(listed)}",
        ]
    return {"outside": listed, "warnings": warnings}


def json_of(answer: Mapping[str, Any]) -> bytes:
    """Write an answer; others go on in between, in whatever thread a long one is written."""
    whole = {**answer, "outputs": _plain(answer["outputs"])}
    if _count(whole["outputs"]) <= PIECE and "explain" not in whole:
        return orjson.dumps(whole, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join(json_pieces(whole))


def _count(tree: Mapping[str, Any]) -> int:
    """Return how many numbers and labels there are."""
    return sum(
        _count(value)
        if isinstance(value, Mapping)
        else (value.size if isinstance(value, np.ndarray) else 1)
        for value in tree.values()
    )


def _plain(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Make arrays ready for JSON: float64 or boolean, C-contiguous; labels as lists."""
    plain: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            plain[name] = _plain(value)
        elif not isinstance(value, np.ndarray):
            plain[name] = value
        elif value.dtype == object:
            plain[name] = value.tolist()
        elif value.dtype == np.bool_:
            plain[name] = np.ascontiguousarray(value)
        else:
            plain[name] = np.ascontiguousarray(value, dtype=np.float64)
    return plain
