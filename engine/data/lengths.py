"""How many steps sequences have: those of training, and others where a network takes them."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from engine.data.array_records import given_steps as steps_of_array
from engine.data.arrays import ScaledArray, fit_array
from engine.data.category_arrays import CategoryArray
from engine.data.dataset import Data
from engine.data.encoding import Encoding
from engine.data.sequence_records import steps_of_first
from engine.data.shapes import ArrayField, Shape

__all__ = [
    "each_step",
    "fitting",
    "given_steps",
    "made_anew",
    "of_steps",
    "steps_of",
    "stepwise",
    "stored_steps",
]

Rows = npt.NDArray[np.int64]


def steps_of(encoding: Encoding) -> int | None:
    """Return how many steps the sequences have that a model reads; None unless all have as many."""
    if encoding.sequence is not None:
        return encoding.sequence.window
    lengths = {field.shape[0] if len(field.shape) == 2 else 0 for field in encoding.reader.arrays}
    return None if len(lengths) != 1 else lengths.pop() or None


def given_steps(encoding: Encoding, inputs: Any) -> int | None:
    """Return how many steps the first row of a request's `inputs` has; None if unclear."""
    if steps_of(encoding) is None:
        return None
    if encoding.sequence is not None:
        return steps_of_first(inputs, [field.name for field in encoding.inputs])
    return steps_of_array(inputs, encoding.reader.arrays[0], lone=len(encoding.inputs) == 1)


def stored_steps(encoding: Encoding, data: Data) -> int | None:
    """Return how many steps the sequences of a stored data set have; None if unclear."""
    if steps_of(encoding) is None or data.arrays is None or encoding.sequence is not None:
        return None
    field = encoding.reader.arrays[0]
    array = data.arrays.get(field.name)
    dimensions = 2 if isinstance(field, CategoryArray) else 3
    return array.shape[1] if array is not None and array.ndim == dimensions else None


def of_steps(encoding: Encoding, steps: int, output_shape: Shape) -> Encoding:
    """Return the encoding of sequences of another number of steps.

    `output_shape` is what the network says of such a row.
    """
    output_steps = output_shape[0] if len(output_shape) == 2 else None
    changed: dict[str, Any] = {
        "inputs": tuple(
            field.of_steps(steps) if isinstance(field, ArrayField) else field
            for field in encoding.inputs
        ),
        "target_steps": None if encoding.target_steps is None else output_steps,
    }
    if output_steps is not None:
        changed["targets"] = tuple(
            field.of_steps(output_steps) if isinstance(field, ScaledArray) else field
            for field in encoding.targets
        )
    if encoding.sequence is not None:
        changed["sequence"] = encoding.sequence.model_copy(update={"window": steps})
    return made_anew(encoding, **changed)


def each_step(encoding: Encoding) -> Encoding | None:
    """Return the encoding of a table's sequences with a target for each step; None if it is that.

    None, too, where no sequences are made.
    """
    if encoding.sequence is None or encoding.sequence.predict == "each":
        return None
    return _predicting(encoding, "each")


def fitting(encoding: Encoding, shape: Shape, data: Data, train_rows: Rows) -> Encoding:
    """Return the encoding of a loss's targets for each step, or for the last, as `shape` has them.

    Itself where no other is of that shape.
    """
    if encoding.output_shape == shape:
        return encoding
    if encoding.sequence is None:
        other = stepwise(encoding, data, train_rows)
    else:
        other = _predicting(encoding, "last" if encoding.sequence.predict == "each" else "each")
    return encoding if other is None or other.output_shape != shape else other


def _predicting(encoding: Encoding, what: Literal["last", "each"]) -> Encoding:
    assert encoding.sequence is not None
    return made_anew(encoding, sequence=encoding.sequence.model_copy(update={"predict": what}))


def stepwise(encoding: Encoding, data: Data, train_rows: Rows) -> Encoding | None:
    """Return the encoding whose one target, an array (rows, steps), is a number for each step.

    Without a network that says so, it is as many outputs. None where it is no such array.
    """
    name = encoding.targets[0].name if len(encoding.targets) == 1 else None
    if encoding.form != "regressor" or data.arrays is None or name is None:
        return None
    if data.arrays[name].ndim != 2:
        return None
    shape = (data.arrays[name].shape[1], 1)
    return made_anew(encoding, targets=(fit_array(data, name, train_rows, "targets", shape=shape),))


def made_anew(encoding: Encoding, **fields: Any) -> Encoding:
    """Return an encoding made anew: a copy would keep what was worked out for the other shape."""
    own = {name: getattr(encoding, name) for name in type(encoding).model_fields}
    return Encoding.model_construct(**(own | fields))
