"""The `targets` of a request: what was observed of its rows, as JSON has it, in original units."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from engine.data.arrays import ScaledArray
from engine.data.encoding import Encoding
from engine.data.labels import Label
from engine.data.records import FieldShape, kind_of, pointer_token
from engine.data.scaling import Scaled
from engine.data.shapes import Shape, side_by_side
from engine.errors import DataError

__all__ = ["read_truths"]

_SHOWN = 20
_WHERE = "#/targets"
Doubles = npt.NDArray[np.float64]
Pointer = Callable[[int], str]


def read_truths(encoding: Encoding, given: Any, *, rows: int) -> npt.NDArray[Any]:
    """Return what was observed of so many rows, (rows, *shape), or class numbers (rows, …).

    Takes an object of columns by target, a list of objects, or a list with what each row has: of
    one target its value, of several a list of their values. Errors point below `#/targets`.
    """
    is_of_classes = encoding.classes is not None
    targets = [_labels(encoding)] if is_of_classes else _numbers(encoding)
    parts = []
    for target, values, where in _columns(given, targets):
        if len(values) != rows:
            raise DataError(
                f"there are {rows} rows of inputs, and {len(values)} values of {target.name!r}",
                pointer=_WHERE,
            )
        parts.append(target.read(values, where))
    return parts[0].astype(np.int64) if is_of_classes else side_by_side(parts)


@dataclass(frozen=True, kw_only=True)
class _Target:
    """One column (array) of what is observed."""

    name: str
    shape: Shape
    """Of what a row has: () for a single value."""
    cell: Callable[[Any], float]
    """Reads one value as a number; its errors have no pointer."""
    is_plain: bool = False
    """Whether values are numbers as they are."""
    has_axis: bool = True
    """Whether outputs have no axis that a row's values have not."""
    are_characters: bool = False
    """Whether a text stands for a sequence of classes."""

    def read(self, values: Sequence[Any], where: Pointer) -> Doubles:
        """Return the values of all rows, (rows, *shape)."""
        found = self._in_one_go(values) if self.is_plain else None
        if found is None:
            cells: list[float] = []
            for row, value in enumerate(values):
                cells += self._cells(value, self.shape, where(row))
            found = np.array(cells, dtype=np.float64).reshape(len(values), *self.shape)
        return found if self.has_axis else found[..., None]

    def _in_one_go(self, values: Sequence[Any]) -> Doubles | None:
        """Return lists of nothing but numbers; None of anything else."""
        level: Sequence[Any] = values
        for length in self.shape:
            if not set(map(type, level)) <= {list} or set(map(len, level)) != {length}:
                return None
            level = list(chain.from_iterable(level))
        if not set(map(type, level)) <= {int, float}:
            return None
        try:
            numbers = np.array(level, dtype=np.float64)
        except OverflowError:  # an integer beyond every float
            return None
        return numbers.reshape(len(values), *self.shape) if np.isfinite(numbers).all() else None

    def _cells(self, value: Any, shape: Shape, pointer: str) -> Iterator[float]:
        if not shape:
            try:
                yield self.cell(value)
            except DataError as error:
                raise DataError(error.detail, pointer=pointer) from None
            return
        if isinstance(value, str) and self.are_characters:
            value = list(value)
        elif shape == (1,) and len(self.shape) > 1 and not isinstance(value, list):
            value = [value]  # a step's only number
        if not isinstance(value, list) or len(value) != shape[0]:
            raise DataError(
                f"expected a list of {' lists of '.join(map(str, shape))} values of "
                f"{self.name!r}, got {_shown(value)}",
                pointer=pointer,
            )
        for index, element in enumerate(value):
            yield from self._cells(element, shape[1:], f"{pointer}/{index}")


def _numbers(encoding: Encoding) -> list[_Target]:
    """Return the targets of a regressor."""
    steps = () if encoding.sequence is None else encoding.output_shape[:-1]
    found = []
    for field in encoding.targets:
        if isinstance(field, ScaledArray):
            cell = FieldShape(Scaled(name=field.name))
            shape: Shape = field.shape
        else:
            cell = FieldShape(field)
            shape = (*steps, field.size) if field.size > 1 else steps
        found.append(
            _Target(
                name=field.name,
                shape=shape,
                cell=cell.read,
                is_plain=cell.plain and not cell.boolean,
                has_axis=field.size > 1 or isinstance(field, ScaledArray),
            )
        )
    return found


def _labels(encoding: Encoding) -> _Target:
    """Return the target of a classifier, whose values are read as the numbers of classes."""
    assert encoding.classes is not None
    # True equals 1 in Python, but is not the same label.
    numbers = {(type(label), label): number for number, label in enumerate(encoding.classes)}
    return _Target(
        name=str(encoding.target),
        shape=encoding.output_shape[:-1],
        cell=partial(_class_number, numbers, str(encoding.target)),
        are_characters=all(isinstance(one, str) and len(one) == 1 for one in encoding.classes),
    )


def _class_number(numbers: Mapping[tuple[type, Label], int], name: str, value: Any) -> float:
    label = int(value) if isinstance(value, float) and value.is_integer() else value
    found = numbers.get((type(label), label)) if isinstance(label, bool | int | str) else None
    if found is None:
        classes = _listed([label for _, label in list(numbers)[: _SHOWN + 1]])
        got = repr(value)[:80] if isinstance(value, bool | int | float | str) else kind_of(value)
        raise DataError(
            f"expected one of the {len(numbers)} classes of {name!r} that the training rows have "
            f"({classes}), got {got}"
        )
    return found


def _columns(
    given: Any, targets: Sequence[_Target]
) -> Iterator[tuple[_Target, Sequence[Any], Pointer]]:
    """Yield the values of each target, one for each row, and what points at them."""
    tokens = [pointer_token(target.name) for target in targets]
    if isinstance(given, dict):
        _require_names(given, targets, _WHERE)
        for target, token in zip(targets, tokens, strict=True):
            values, where = given[target.name], f"{_WHERE}/{token}"
            if not isinstance(values, list):
                raise DataError(
                    f"expected a list of the values of {target.name!r}, got {kind_of(values)}",
                    pointer=where,
                )
            yield target, values, _below(where)
    elif not isinstance(given, list):
        raise DataError(
            "targets are a list of what each row has, or an object of columns by target; got "
            f"{kind_of(given)}",
            pointer=_WHERE,
        )
    elif given and isinstance(given[0], dict):
        _require_records(given, targets)
        for target, token in zip(targets, tokens, strict=True):
            values = [record[target.name] for record in given]
            yield target, values, _below(_WHERE, f"/{token}")
    elif len(targets) == 1:
        yield targets[0], given, _below(_WHERE)
    else:
        _require_lists(given, targets)
        for index, target in enumerate(targets):
            yield target, [record[index] for record in given], _below(_WHERE, f"/{index}")


def _below(where: str, rest: str = "") -> Pointer:
    return lambda row: f"{where}/{row}{rest}"


def _require_records(given: Sequence[Any], targets: Sequence[_Target]) -> None:
    for row, record in enumerate(given):
        if not isinstance(record, dict):
            _refuse_row(record, "an object, as of the first row", row)
        _require_names(record, targets, f"{_WHERE}/{row}")


def _require_lists(given: Sequence[Any], targets: Sequence[_Target]) -> None:
    for row, record in enumerate(given):
        if not isinstance(record, list) or len(record) != len(targets):
            names = _listed([target.name for target in targets])
            _refuse_row(record, f"a list of {len(targets)} targets ({names})", row)


def _refuse_row(record: Any, expected: str, row: int) -> NoReturn:
    raise DataError(f"expected {expected}, got {_shown(record)}", pointer=f"{_WHERE}/{row}")


def _require_names(given: Mapping[str, Any], targets: Sequence[_Target], where: str) -> None:
    names = [target.name for target in targets]
    for name in given:
        if name not in names:
            raise DataError(
                f"the model does not predict {name[:256]!r}; its targets are {_listed(names)}",
                pointer=where,
            )
    for name in names:
        if name not in given:
            raise DataError(
                f"{name!r} is missing; of each row all targets are told",
                pointer=f"{where}/{pointer_token(name)}",
            )


def _listed(names: Sequence[Any]) -> str:
    return ", ".join(map(repr, names[:_SHOWN])) + (", …" if len(names) > _SHOWN else "")


def _shown(value: Any) -> str:
    return f"a list of {len(value)}" if isinstance(value, list) else kind_of(value)
