"""Columns in their own units to the numbers that a network reads and writes, and back.

What is learnt, is learnt on the training rows: means and standard deviations, categories, what
fills gaps, and the classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pydantic

from engine.data import features, scaling
from engine.data.arrays import ScaledArray, encode_array
from engine.data.categories import Categories
from engine.data.category_arrays import CategoryArray, encode_categories
from engine.data.dataset import Data, pieces_of
from engine.data.features import InputField
from engine.data.inputs import Inputs
from engine.data.labels import Label, fit_classes, number_labels
from engine.data.ranges import Ranges
from engine.data.requests import RequestReader
from engine.data.scaling import Scaled
from engine.data.schema import Kind
from engine.data.selection import Selection
from engine.data.sequence_records import flatten
from engine.data.shapes import (
    ArrayField,
    Field,
    Shape,
    check_alike,
    shape_of,
    side_by_side,
    unscaled,
)
from engine.data.targets import (
    encode_targets,
    fit_targets,
    label_steps,
    read_targets,
    read_weights,
    unscaled_targets,
)
from engine.data.windowed import input_windows, target_windows, window_rows
from engine.errors import DataError
from engine.names import output_name
from engine.spec import Form, SequenceSpec, Spec

__all__ = ["Categories", "Encoding", "Label", "Scaled"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Unseen = Literal["refuse", "zeros"]

_CHECKED_ROWS = 2**17
"""Held at a time, while rows are only looked at."""


class InputGroup(Spec):
    """What one input layer of the network reads."""

    layer: str
    reads: tuple[str, ...]
    """Columns (arrays), side by side in this order."""

    @property
    def output(self) -> str:
        """The name of the output that they become."""
        return output_name(self.layer, "out")


class Encoding(Spec):
    """How a model reads its inputs and what its outputs stand for."""

    kind: Kind
    """Whether the model was trained on the columns of a table or on arrays."""
    form: Form
    inputs: tuple[InputField, ...]
    """What the model reads, in the order in which a row given as a plain list has it."""
    groups: tuple[InputGroup, ...] = ()
    """Which input layer of the network reads which of them; empty where `in` reads all."""
    targets: tuple[Annotated[Scaled | ScaledArray, pydantic.Field(discriminator="type")], ...] = ()
    """What a regressor (autoencoder) predicts; empty for a classifier."""
    target: str | None = None
    """The column (array) of a classifier's classes."""
    classes: tuple[Label, ...] | None = None
    """A classifier's classes in the order of its outputs; null for the other forms."""
    target_steps: int | None = None
    """How many labels a row has, where a classifier names a class for every step."""
    sample_weight: str | None = None
    """The column (array) that weighted the rows in training."""
    ignored: tuple[str, ...] = ()
    """Other columns (arrays) of the data set; a record may have them, and they are passed over."""
    sequence: SequenceSpec | None = None
    """How the rows of a table become the sequences that it reads; a sequence is named by the number
    of its last row. The rest says how each row of them is read."""
    auxiliary: tuple[Encoding, ...] = ()
    """What losses of their own targets compare with, without inputs, in the order of the losses."""

    @classmethod
    def fit(
        cls,
        data: Data,
        selection: Selection,
        train_rows: Rows,
        *,
        sequence: SequenceSpec | None = None,
    ) -> Encoding:
        """Learn the encoding of the selected columns on the training rows.

        `sequence` is given in full: its window, its horizon and what is predicted.
        """
        form, names = selection.form, selection.targets
        # What an autoencoder reads it must give back, which it cannot for what was missing.
        fill = form != "autoencoder"
        inputs = features.fit_inputs(
            data, selection.inputs, train_rows, fill=fill, options=selection.options
        )
        groups = tuple(InputGroup(layer=layer, reads=reads) for layer, reads in selection.groups)
        classifier = form == "classifier"
        targets: tuple[Scaled | ScaledArray, ...] = ()
        if form == "autoencoder":
            targets = tuple(f for f in inputs if isinstance(f, Scaled | ScaledArray))
            if selection.is_distribution:
                inputs = targets = unscaled_targets(targets)
        elif form == "regressor":
            targets = fit_targets(data, names, train_rows, as_they_are=selection.is_distribution)
        encoding = cls(
            kind=data.kind,
            form=form,
            inputs=inputs,
            groups=groups,
            targets=targets,
            target=names[0] if classifier else None,
            classes=fit_classes(data, names[0], train_rows) if classifier else None,
            target_steps=label_steps(data, names[0]) if classifier else None,
            sample_weight=selection.sample_weight,
            ignored=tuple(
                name
                for name in data.names
                if name not in {*selection.inputs, *names, selection.sample_weight}
            ),
            sequence=sequence,
        )
        encoding.check_shapes()
        return encoding

    @classmethod
    def identity(
        cls, input_shapes: Mapping[str, Shape], output_shape: Shape, form: Form
    ) -> Encoding:
        """Return the encoding of an imported model: all arrays as they are.

        The only input layer reads array `x`, several ones arrays of their own names; array `y` is
        what comes out. A classifier's classes are 0, 1, 2, …
        """
        names = {layer: "x" if len(input_shapes) == 1 else layer for layer in input_shapes}
        inputs = tuple(unscaled(names[layer], shape) for layer, shape in input_shapes.items())
        groups = tuple(InputGroup(layer=layer, reads=(name,)) for layer, name in names.items())
        if form == "classifier":
            classes = tuple(range(output_shape[-1]))
            steps = output_shape[0] if len(output_shape) == 2 else None
            return cls(
                kind="arrays",
                form=form,
                inputs=inputs,
                groups=groups,
                target="y",
                classes=classes,
                target_steps=steps,
            )
        target = "x" if form == "autoencoder" else "y"
        targets = (unscaled(target, output_shape),)
        return cls(kind="arrays", form=form, inputs=inputs, groups=groups, targets=targets)

    @cached_property
    def input_shapes(self) -> dict[str, Shape]:
        """The shape of what each input layer reads of a row."""
        steps = () if self.sequence is None else (self.sequence.window or 1,)
        return {g.layer: (*steps, *shape_of(fields)) for g, fields in self._fields_by_group}

    @cached_property
    def output_shape(self) -> Shape:
        """The shape of what the network says of a row."""
        steps = () if self.target_steps is None else (self.target_steps,)
        if self.sequence is not None and self.sequence.predict == "each":
            steps = (self.sequence.window or 1,)
        if self.classes is not None:
            return (*steps, len(self.classes))
        return (*steps, *shape_of(self.targets))

    def check_shapes(self) -> None:
        """Refuse arrays that one input layer, or the output, cannot take side by side."""
        for _, fields in self._fields_by_group:
            check_alike(fields, "#/inputs")
        check_alike(self.targets, "#/targets")

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
        """Broadcasts against outputs: original = encoded * scale + mean; 0 for a classifier."""
        return self._moments("mean") if self.targets else np.zeros(1)

    @cached_property
    def target_scale(self) -> Doubles:
        """Broadcasts against outputs: original = encoded * scale + mean; 1 for a classifier."""
        return self._moments("scale") if self.targets else np.ones(1)

    def along_targets(self, values: npt.ArrayLike) -> Doubles:
        """Return a number for each of `target_names` so that it broadcasts against outputs."""
        numbers = np.asarray(values, dtype=np.float64)
        return numbers.reshape(-1, 1, 1) if len(self.output_shape) == 3 else numbers

    def _moments(self, what: Literal["mean", "scale"]) -> Doubles:
        parts = [np.broadcast_to(getattr(field, what), field.size) for field in self.targets]
        return self.along_targets(np.concatenate(parts))

    @cached_property
    def _fields_by_group(self) -> tuple[tuple[InputGroup, tuple[Field, ...]], ...]:
        known = {field.name: field for field in self.inputs}
        names = tuple(field.name for field in self.inputs)
        groups = self.groups or (InputGroup(layer="in", reads=names),)
        return tuple((group, tuple(known[name] for name in group.reads)) for group in groups)

    def encode_inputs(
        self,
        data: Data,
        rows: Rows | None = None,
        *,
        unseen: Unseen = "refuse",
    ) -> Inputs:
        """Return rows of a stored data set as the network reads them; of sequences windows.

        A category that the training rows have not is refused, or is none of the known ones.
        """
        scaling.require(data, [field.name for field in self.inputs], "inputs")
        if self.sequence is None:
            return self._encode_rows(data, rows, unseen)
        return input_windows(
            data, self.sequence, rows, lambda chosen: self._encode_rows(data, chosen, unseen)
        )

    def _encode_rows(self, data: Data, rows: Rows | None, unseen: Unseen) -> Inputs:
        values: dict[str, Floats] = {}
        for group, fields in self._fields_by_group:
            arrays = [field for field in fields if isinstance(field, ArrayField)]
            if arrays:
                parts = [_encode(data, field, rows, unseen) for field in arrays]
                values[group.output] = side_by_side(parts)
            else:
                plain = [field for field in fields if not isinstance(field, ArrayField)]
                values[group.output] = features.encode_rows(
                    data, plain, rows, refuse_unseen=unseen == "refuse"
                )
        return Inputs(values)

    def check_inputs(self, data: Data, rows: Rows | None) -> None:
        """Refuse rows of a table whose inputs cannot be read: gaps not taken, texts misspelt.

        Values that are only too far from those of the training rows are not looked for.
        """
        strict = tuple(
            field
            for field in self.inputs
            if (isinstance(field, Categories) and field.refuses_missing)
            or (isinstance(field, Scaled) and (field.reader or not field.takes_missing))
        )
        # What an autoencoder reads it must give back, and so has been looked at.
        if strict and self.kind == "table" and self.form != "autoencoder":
            alone = Encoding(kind="table", form=self.form, inputs=strict, sequence=self.sequence)
            if self.sequence is not None:
                alone.encode_inputs(data, rows, unseen="zeros")
                return
            count = data.rows if rows is None else len(rows)
            for _, some in pieces_of(count, rows, _CHECKED_ROWS):
                alone.encode_inputs(data, some, unseen="zeros")

    def stored_rows(self, data: Data) -> Rows:
        """Return the numbers of all rows of a stored data set that can be predicted for."""
        if self.sequence is None:
            return np.arange(data.rows, dtype=np.int64)
        return window_rows(data, self.sequence, targets=False)

    def encode_records(self, inputs: Any) -> Inputs:
        """Return the `inputs` of a request as the network reads them.

        Lists of values, objects, or one object of columns (arrays); errors point below `#/inputs`.
        Null is a missing value. Columns that the model predicts or was weighted by may be there and
        are passed over. A sequence made of rows is a list of them.
        """
        if self.sequence is None:
            return self._encode_flat(inputs)
        flat = flatten(
            inputs,
            [field.name for field in self.inputs],
            steps=self.sequence.window or 1,
            characters=self.reads_characters,
        )
        try:
            steps = self._encode_flat(flat.inputs)
        except DataError as error:
            raise DataError(error.detail, pointer=flat.pointer(error.pointer)) from error
        return steps.map(lambda value: value.reshape(flat.rows, flat.steps, value.shape[-1]))

    @cached_property
    def reads_characters(self) -> bool:
        """Whether a text may stand for a sequence: its one input is of single characters."""
        field = self.inputs[0]
        if len(self.inputs) > 1:
            return False
        if isinstance(field, CategoryArray):
            return field.are_characters
        if isinstance(field, Categories) and self.sequence is not None:
            return all(len(category) == 1 for category in field.categories)
        return False

    def _encode_flat(self, inputs: Any) -> Inputs:
        if len(self._fields_by_group) == 1 and not self.reader.arrays:
            return Inputs({self._fields_by_group[0][0].output: self.reader.encode_cells(inputs)})
        encoded = self.reader.encode(inputs)
        return Inputs(
            {
                group.output: side_by_side([encoded[name] for name in group.reads])
                for group, _ in self._fields_by_group
            }
        )

    @staticmethod
    def encode_values(inputs: Any, output: str, shape: Shape) -> Inputs:
        """Return `inputs` of a request that are values of a named output, as they are."""
        field = unscaled(output, shape)
        return Inputs(RequestReader([field], spare=()).encode(inputs))

    def encode_targets(self, data: Data, rows: Rows | None = None) -> Any:
        """Return what the network should say: (rows, *shape), or class numbers (rows, …).

        Of sequences with a target for each step, windows of that shape.
        """
        if self.classes is not None:
            return self._over_targets(data, rows, lambda chosen: self._class_numbers(data, chosen))
        return self._over_targets(
            data, rows, lambda chosen: encode_targets(data, self.targets, chosen)
        )

    def encode_truth(self, data: Data, rows: Rows | None = None) -> Any:
        """Return what was observed, in original units, as `encode_targets` does."""
        if self.classes is not None:
            return self.encode_targets(data, rows)
        return self._over_targets(
            data, rows, lambda chosen: read_targets(data, self.targets, chosen)
        )

    def encode_weights(self, data: Data, rows: Rows | None = None, *, some: bool = False) -> Any:
        """Return the weights of rows (rows,) or of steps (rows, steps), or None without any.

        They may be all 0 only where these are but `some` of the rows.
        """
        name = self.sample_weight
        if name is None:
            return None
        return self._over_targets(
            data, rows, lambda chosen: read_weights(data, name, chosen, some=some)
        )

    def _over_targets(
        self, data: Data, rows: Rows | None, read: Callable[[Rows | None], Any]
    ) -> Any:
        if self.sequence is None:
            return read(rows)
        return target_windows(data, self.sequence, rows, read)

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
    def reader(self) -> RequestReader:
        """What reads the rows of a request."""
        names = {self.sample_weight, *self.ignored}
        for own in (self, *self.auxiliary):
            names |= {own.target, *(field.name for field in own.targets)}
        if self.sequence is not None:
            names |= {self.sequence.group, self.sequence.order}
        return RequestReader(
            self.inputs,
            spare={n for n in names if n is not None},
            are_columns=self.kind == "table",
        )

    @cached_property
    def ranges(self) -> Ranges:
        """Where the inputs of the training rows lay."""
        return Ranges([(group.output, fields) for group, fields in self._fields_by_group])

    def _class_numbers(self, data: Data, rows: Rows | None) -> Rows:
        name = self.target or ""
        numbers = number_labels(data, name, rows, self.classes or ())
        wanted = () if self.target_steps is None else (self.target_steps,)
        if numbers.shape[1:] == () and wanted == (1,):
            return numbers[:, None]
        if numbers.shape[1:] != wanted:
            raise DataError(
                f"{name!r} has rows of shape {list(numbers.shape[1:])}; labels of shape "
                f"{list(wanted)} are needed",
                pointer="#/targets",
            )
        return numbers


def _encode(data: Data, field: ArrayField, rows: Rows | None, unseen: Unseen) -> Floats:
    if isinstance(field, CategoryArray):
        return encode_categories(data, field, rows, refuse_unseen=unseen == "refuse")
    return encode_array(data, field, rows, "inputs")
