"""Small data sets of each kind that theanets trained on, and the spec that a row starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.e2e.servers import npz_of

__all__ = ["BASES", "ROWS", "STEPS", "Base"]

ROWS, STEPS = 24, 6
_RNG = np.random.default_rng(13)


def _normal(*shape: int) -> Any:
    return _RNG.standard_normal(shape).astype(np.float32)


def _classes(*shape: int) -> Any:
    """Labels of six classes, each of which every tenth row has."""
    return np.resize(np.arange(6), shape)


@dataclass(frozen=True, kw_only=True)
class Base:
    """What is uploaded, and the smallest request that trains on it."""

    arrays: Mapping[str, Any] | None = None
    csv: str | None = None
    text: str | None = None
    sequence: Mapping[str, Any] | None = None
    layers: tuple[Any, ...] = (None, 8, None)
    form: str = "regressor"

    @property
    def content(self) -> bytes:
        text = self.text if self.csv is None else self.csv
        return npz_of(**(self.arrays or {})) if text is None else text.encode()

    @property
    def media_type(self) -> str:
        if self.text is not None:
            return "text/plain"
        return "text/csv" if self.csv is not None else "application/x-npz"

    def spec(self, layers: Sequence[Any] | None = None) -> dict[str, Any]:
        """Return the request's body, but for the data set's id."""
        chosen = list(self.layers if layers is None else layers)
        spec = {"network": {"form": self.form, "layers": chosen}, "epochs": 1}
        return spec if self.sequence is None else {**spec, "sequence": self.sequence}


def _table() -> str:
    values = np.round(_normal(ROWS, 5), 4)
    return "\n".join(["a1,a2,b1,b2,y", *(",".join(map(str, row)) for row in values)])


def _distributions() -> Any:
    shares = np.abs(_normal(ROWS, 5)) + 0.1
    return shares / shares.sum(axis=1, keepdims=True)


_RECURRENT: tuple[Any, ...] = (None, [6, "rnn"], None)
_CONVOLUTION: tuple[Any, ...] = (
    None,
    {"form": "conv2", "size": 4, "filter_size": [3, 2]},
    "flatten",
    None,
)
_WEIGHTS = np.linspace(0.1, 1.0, ROWS, dtype=np.float32)

BASES: dict[str, Base] = {
    "vectors": Base(arrays={"x": _normal(ROWS, 7), "y": _normal(ROWS, 5), "w": _WEIGHTS}),
    "labels": Base(
        arrays={"x": _normal(ROWS, 7), "y": _classes(ROWS), "w": _WEIGHTS}, form="classifier"
    ),
    "alone": Base(arrays={"x": _normal(ROWS, 7), "w": _WEIGHTS}, form="autoencoder"),
    "two targets": Base(
        arrays={"x": _normal(ROWS, 7), "y": _normal(ROWS, 5), "y2": _normal(ROWS, 5)}
    ),
    "distributions": Base(arrays={"x": _normal(ROWS, 7), "y": _distributions()}),
    "table": Base(csv=_table()),
    "sequences": Base(
        arrays={"x": _normal(ROWS, STEPS, 3), "y": _normal(ROWS, STEPS, 2), "w": _WEIGHTS},
        layers=_RECURRENT,
    ),
    "sequence labels": Base(
        arrays={"x": _normal(ROWS, STEPS, 3), "y": _classes(ROWS, STEPS), "w": _WEIGHTS},
        layers=_RECURRENT,
        form="classifier",
    ),
    "sequences alone": Base(
        arrays={"x": _normal(ROWS, STEPS, 3), "w": _WEIGHTS},
        layers=_RECURRENT,
        form="autoencoder",
    ),
    "sequence vectors": Base(
        arrays={"x": _normal(ROWS, STEPS, 3), "y": _normal(ROWS, 2)}, layers=_RECURRENT
    ),
    "initial states": Base(
        arrays={
            "x": _normal(ROWS, STEPS, 3),
            "h": _normal(ROWS, 6),
            "y": _normal(ROWS, STEPS, 2),
        },
        layers=_RECURRENT,
    ),
    "text": Base(
        text="the rain in the lane\n" * 6,
        sequence={"order": "position", "window": 5},
        layers=_RECURRENT,
        form="classifier",
    ),
    "images": Base(
        arrays={"x": _normal(ROWS, 3, 9, 8), "y": _normal(ROWS, 5), "w": _WEIGHTS},
        layers=_CONVOLUTION,
    ),
    "image labels": Base(
        arrays={"x": _normal(ROWS, 3, 9, 8), "y": _classes(ROWS), "w": _WEIGHTS},
        layers=_CONVOLUTION,
        form="classifier",
    ),
}
