"""Columns in their own units to the numbers that a network reads and writes, and back.

What is learnt, is learnt on the training rows: means and standard deviations, categories, what
fills gaps, and the classes.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from engine.data import features, scaling
from engine.data.categories import Categories
from engine.data.dataset import Data
from engine.data.features import InputField
from engine.data.labels import Label, fit_classes, number_labels
from engine.data.records import FieldShape, read_records
from engine.data.scaling import Scaled
from engine.data.schema import Kind
from engine.data.selection import Selection
from engine.errors import DataError
from engine.spec import Form, Spec

__all__ = ["Categories", "Encoding", "Label", "Scaled"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


class Encoding(Spec):
    """How a model reads its inputs and what its outputs stand for."""

    kind: Kind
    """Whether the model was trained on the columns of a table or on arrays."""
    form: Form
    inputs: tuple[InputField, ...]
    """What the model reads, in the order in which a row given as a plain list has it."""
    targets: tuple[Scaled, ...] = ()
    """What a regressor (autoencoder) predicts; empty for a classifier."""
    target: str | None = None
    """The column (array) of a classifier's classes."""
    classes: tuple[Label, ...] | None = None
    """A classifier's classes in the order of its outputs; null for the other forms."""
    sample_weight: str | None = None
    """The column (array) that weighted the rows in training."""

    @classmethod
    def fit(cls, data: Data, selection: Selection, train_rows: Rows) -> Encoding:
        """Learn the encoding of the selected columns on the training rows."""
        form, names = selection.form, selection.targets
        # What an autoencoder reads it must give back, which it cannot for what was missing.
        fill = form != "autoencoder"
        inputs = features.fit_inputs(data, selection.inputs, train_rows, fill=fill)
        classifier = form == "classifier"
        targets: tuple[Scaled, ...] = ()
        if form == "autoencoder":
            targets = tuple(field for field in inputs if isinstance(field, Scaled))
        elif form == "regressor":
            targets = tuple(scaling.fit(data, name, train_rows, "targets") for name in names)
        return cls(
            kind=data.kind,
            form=form,
            inputs=inputs,
            targets=targets,
            target=names[0] if classifier else None,
            classes=fit_classes(data, names[0], train_rows) if classifier else None,
            sample_weight=selection.sample_weight,
        )

    @classmethod
    def identity(cls, input_size: int, output_size: int, form: Form) -> Encoding:
        """Return the encoding of an imported model: array `x` in, `y` out, both as they are.

        A classifier's classes are 0, 1, 2, …
        """
        inputs = (Scaled(name="x", size=input_size),)
        if form == "classifier":
            classes = tuple(range(output_size))
            return cls(kind="arrays", form=form, inputs=inputs, target="y", classes=classes)
        target = "x" if form == "autoencoder" else "y"
        targets = (Scaled(name=target, size=output_size),)
        return cls(kind="arrays", form=form, inputs=inputs, targets=targets)

    @property
    def input_size(self) -> int:
        """How many numbers the network reads of a row."""
        return sum(field.width for field in self.inputs)

    @property
    def output_size(self) -> int:
        if self.classes is not None:
            return len(self.classes)
        return sum(field.size for field in self.targets)

    @property
    def input_names(self) -> tuple[str, ...]:
        """One name for each number that the network reads."""
        return tuple(name for field in self.inputs for name in field.names)

    @property
    def target_names(self) -> tuple[str, ...]:
        """One name for each number that a regressor predicts; the one target of a classifier."""
        if self.target is not None:
            return (self.target,)
        return tuple(name for field in self.targets for name in field.names)

    @cached_property
    def target_mean(self) -> Doubles:
        """Of shape (outputs,): original = encoded * scale + mean; 0 for a classifier."""
        return scaling.joined(self.targets, "mean") if self.targets else np.zeros(self.output_size)

    @cached_property
    def target_scale(self) -> Doubles:
        """Of shape (outputs,): original = encoded * scale + mean; 1 for a classifier."""
        return scaling.joined(self.targets, "scale") if self.targets else np.ones(self.output_size)

    @cached_property
    def input_shapes(self) -> tuple[FieldShape, ...]:
        """What a row of a request has to hold."""
        return tuple(FieldShape(field) for field in self.inputs)

    def encode_inputs(
        self,
        data: Data,
        rows: Rows | None = None,
        *,
        unseen: Literal["refuse", "zeros"] = "refuse",
    ) -> Floats:
        """Return rows of a stored data set as (rows, inputs), as the network reads them.

        A category that the training rows have not is refused, or is none of the known ones.
        """
        scaling.require(data, [field.name for field in self.inputs], "inputs")
        return features.encode_rows(data, self.inputs, rows, refuse_unseen=unseen == "refuse")

    def encode_records(self, inputs: Any) -> Floats:
        """Return the `inputs` of a request as (rows, inputs), as the network reads them.

        Lists of values, objects, or one object of columns; errors point below `#/inputs`. Null is a
        missing value. Columns that the model predicts or was weighted by may be there and are
        passed over.
        """
        cells = read_records(inputs, self.input_shapes, spare=self._spare_names())
        if self._plain_inputs is not None:
            mean, scale, fill = self._plain_inputs
            missing = np.isnan(cells)
            encoded = scaling.encode(np.where(missing, fill, cells), mean, scale)
            if np.isfinite(encoded).all():  # else the slow way tells what is wrong
                return encoded
        return features.encode_cells(cells, self.inputs)

    def encode_targets(self, data: Data, rows: Rows | None = None) -> Floats | Rows:
        """Return what the network should say: (rows, outputs), or class numbers (rows,)."""
        if self.classes is not None:
            return self._class_numbers(data, rows)
        scaling.require(data, [field.name for field in self.targets], "targets")
        return scaling.standardise(data, self.targets, rows, "targets")

    def encode_truth(self, data: Data, rows: Rows | None = None) -> Doubles | Rows:
        """Return what was observed: (rows, outputs) in original units, or class numbers (rows,)."""
        if self.classes is not None:
            return self._class_numbers(data, rows)
        scaling.require(data, [field.name for field in self.targets], "targets")
        return scaling.read(data, self.targets, rows, "targets")

    def encode_weights(self, data: Data, rows: Rows | None = None) -> Floats | None:
        """Return the rows' weights (rows,), or None if the model has none."""
        name = self.sample_weight
        if name is None:
            return None
        pointer = "#/sample_weight"
        if name not in data.names:
            raise DataError(f"the data set has no {name!r} to weight its rows by", pointer=pointer)
        values = scaling.read(data, (Scaled(name=name),), rows, "sample_weight")
        with np.errstate(over="ignore"):
            weights = values[:, 0].astype(np.float32)
        if not np.isfinite(weights).all() or (weights < 0).any():
            raise DataError(f"weights in {name!r} must be finite and 0 or more", pointer=pointer)
        if not weights.any():
            raise DataError(f"all weights in {name!r} of these rows are 0", pointer=pointer)
        return weights

    def decode(self, encoded: npt.ArrayLike) -> Doubles:
        """Return a regressor's outputs (…, outputs) in original units."""
        return np.asarray(encoded, dtype=np.float64) * self.target_scale + self.target_mean

    def labels(self, numbers: npt.ArrayLike) -> list[Label]:
        """Return the classes that these class numbers stand for."""
        classes = self.classes or ()
        return [classes[number] for number in np.asarray(numbers, dtype=np.int64).tolist()]

    def describe(self) -> dict[str, Any]:
        """Return the encoding as JSON: what is read, how it is scaled, what comes out."""
        return self.model_dump(mode="json", exclude_none=True)

    @cached_property
    def _plain_inputs(self) -> tuple[Doubles, Doubles, Doubles] | None:
        """Mean, scale and fill by input if all are numbers without indicators: read in one go."""
        numbers = [field for field in self.inputs if isinstance(field, Scaled)]
        if len(numbers) < len(self.inputs) or any(field.indicator for field in numbers):
            return None
        fills = [np.nan if field.fill is None else field.fill for field in numbers]
        fill = np.repeat(np.array(fills), [field.size for field in numbers])
        return scaling.joined(numbers, "mean"), scaling.joined(numbers, "scale"), fill

    def _spare_names(self) -> set[str]:
        names = {field.name for field in self.targets} | {self.target, self.sample_weight}
        return {name for name in names if name is not None}

    def _class_numbers(self, data: Data, rows: Rows | None) -> Rows:
        return number_labels(data, self.target or "", rows, self.classes or ())
