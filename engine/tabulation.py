"""Answers as columns: what the numbers of a prediction are called where each stands by itself.

An answer is cut into blocks, one for each statistic, with the rows first. A block of one number a
row, or of one for each target or class, is as many columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.artifact import Model
from engine.data.columns import is_column_name
from engine.data.labels import Label

__all__ = ["Block", "blocks_of"]

Array = npt.NDArray[Any]

_SINGULAR = {
    "quantiles": "quantile",
    "predictive_quantiles": "predictive_quantile",
    "probabilities": "probability",
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Block:
    """One statistic of an answer: `mean`, `quantile_0.05`, `hid1:out.std`."""

    name: str
    values: Array
    """Rows first; labels are objects: texts, integers or booleans."""
    labels: tuple[str, ...] | None = None
    """What the last axis counts: targets or classes; None where it has no names."""

    @property
    def is_flat(self) -> bool:
        """Whether a row of it is a number, or a list of numbers, so that it can be columns."""
        return self.values.ndim <= 2

    def columns(self) -> Iterator[tuple[str, Array]]:
        """Yield the columns of a flat block by name.

        `mean` where a row has one number, else `mean.TARGET`, `probability.LABEL`; elements without
        a name, or with one that is too long for a column, count from 0: `hid1:out[0]`.
        """
        if not self.is_flat:
            raise ValueError(f"{self.name!r} has more than a list of numbers in a row")
        if self.values.ndim == 1:
            yield self.name, self.values
            return
        stem = _SINGULAR.get(self.name, self.name)
        for index in range(self.values.shape[1]):
            yield self._column_name(stem, index), self.values[:, index]

    def _column_name(self, stem: str, index: int) -> str:
        if self.values.shape[1] == 1 and stem == self.name:
            return stem
        name = f"{stem}[{index}]" if self.labels is None else f"{stem}.{self.labels[index]}"
        return name if is_column_name(name) else f"{stem}[{index}]"


def blocks_of(outputs: Mapping[str, Any], model: Model) -> list[Block]:
    """Return the blocks of an answer's `outputs`, in their order.

    Members of an object are blocks of their own: `quantile_0.05`, `variance_epistemic`,
    `hid1:out.mean`. `samples` have the rows first, too. What is the same for all rows, as the
    coverage of an interval, and a classifier's `prediction`, which is its probabilities, are none.
    """
    encoding = model.encoding
    classes = encoding.classes
    labels = tuple(map(_spelt, classes)) if classes is not None else encoding.target_names
    rank = 1 + len(model.graph.last.shape)
    blocks: list[Block] = []
    for key, value in outputs.items():
        if key == "prediction" and classes is not None:
            continue
        if key == "set":
            blocks.append(Block(name=key, values=_membership(value["labels"], classes or ())))
            blocks[-1] = replace(blocks[-1], labels=labels)
            continue
        is_own = ":" not in key  # other named outputs are LAYER:OUTPUT
        members = value if isinstance(value, Mapping) else {None: value}
        for member, array in members.items():
            if isinstance(array, np.ndarray):
                block = _block(key, member, array)
                is_labelled = is_own and _is_of_outputs(block, rank, len(labels))
                blocks.append(replace(block, labels=labels) if is_labelled else block)
    return blocks


def _membership(sets: Array, classes: Sequence[Label]) -> Array:
    """Return which classes are in each set: 1, or 0, (…, classes)."""
    place = {(type(label), label): index for index, label in enumerate(classes)}
    inside = np.zeros((*sets.shape, len(classes)))
    for at in np.ndindex(sets.shape):
        for label in sets[at]:
            inside[(*at, place[type(label), label])] = 1.0
    return inside


def _block(key: str, member: str | None, array: Array) -> Block:
    name = key
    if member is not None:
        name = f"{key}.{member}" if ":" in key else f"{_SINGULAR.get(key, key)}_{member}"
    if "samples" in (key, member):
        array = np.moveaxis(array, 1, 0)
    return Block(name=name, values=array)


def _is_of_outputs(block: Block, rank: int, count: int) -> bool:
    """Say whether the last axis counts the network's outputs, not passes or steps.

    The targets of images are their channels, which come before height and width.
    """
    shape = block.values.shape
    return len(shape) == rank + (block.name == "samples") and shape[-1] == count


def _spelt(label: bool | int | str) -> str:
    """Return a label as JSON has it."""
    return str(label).lower() if isinstance(label, bool) else str(label)
