"""What a network reads of each column: numbers standardised, texts one-hot, gaps filled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from engine.data import moments, scaling
from engine.data.arrays import ScaledArray, fit_array
from engine.data.categories import Categories, fit_categories, read_codes
from engine.data.category_arrays import CategoryArray, fit_category_array
from engine.data.dataset import Data
from engine.data.scaling import Scaled
from engine.errors import DataError, SpecError
from engine.spec import ColumnSpec

__all__ = ["InputField", "encode_cells", "encode_rows", "fit_inputs"]

InputField = Annotated[
    Scaled | Categories | ScaledArray | CategoryArray, Field(discriminator="type")
]

_MAX_CELLS = 500_000_000

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


def fit_inputs(
    data: Data,
    names: Sequence[str],
    rows: Rows,
    *,
    fill: bool,
    options: Mapping[str, ColumnSpec] | None = None,
) -> tuple[Scaled | Categories | ScaledArray | CategoryArray, ...]:
    """Learn how columns (arrays) are read; with `fill`, missing values of a table are filled."""
    asked = options or {}
    fields = tuple(
        _fit_input(data, name, rows, asked.get(name, ColumnSpec()), fill=fill) for name in names
    )
    texts = [field for field in fields if isinstance(field, Categories | CategoryArray)]
    inputs = sum(_cells(field) for field in texts)
    if data.rows * inputs > _MAX_CELLS:
        widest = max(texts, key=_cells)
        raise SpecError(
            f"{inputs} categories are too many for {data.rows} rows; rows (and steps) times "
            f"categories are at most {_MAX_CELLS}. {widest.name!r} has the most, "
            f"{len(widest.categories)}: choose other columns by `inputs`",
            pointer="#/inputs",
        )
    return fields


def _cells(field: Categories | CategoryArray) -> int:
    """Return how many inputs a row comes to."""
    return field.width * (field.steps if isinstance(field, CategoryArray) else 1)


def _fit_input(
    data: Data, name: str, rows: Rows, options: ColumnSpec, *, fill: bool
) -> Scaled | Categories | ScaledArray | CategoryArray:
    one_hot = data.type_of(name) == "text" or options.type == "category"
    if one_hot and data.arrays is not None and data.arrays[name].ndim == 2:
        return fit_category_array(data, name, rows)
    is_text = data.type_of(name) == "text" and options.type is None
    if fill and (is_text or options.type == "category"):
        return fit_categories(data, name, rows, options)
    if data.arrays is not None and data.arrays[name].ndim > 2:
        return fit_array(data, name, rows, "inputs")
    gaps = fill and data.kind == "table"
    return moments.fit(data, name, rows, "inputs", gaps=gaps, options=options)


def encode_rows(
    data: Data, fields: Sequence[Scaled | Categories], rows: Rows | None, *, refuse_unseen: bool
) -> Floats:
    """Return rows of a data set as (rows, inputs); a category not known is refused, or all 0."""
    count = data.rows if rows is None else len(rows)
    encoded = np.empty((count, sum(field.width for field in fields)), dtype=np.float32)
    at = 0
    for together, run in groupby(fields, key=lambda field: scaling.is_plain(data, field)):
        some = list(run)
        if together:
            width = sum(field.width for field in some)
            plain = [field for field in some if isinstance(field, Scaled)]
            scaling.standardise_plain(encoded[:, at : at + width], data, plain, rows, "inputs")
            at += width
            continue
        for field in some:
            out = encoded[:, at : at + field.width]
            if isinstance(field, Categories):
                field.write(read_codes(field, data, rows, refuse_unseen=refuse_unseen), out)
            else:
                scaling.standardise_into(out, data, field, rows, "inputs")
            at += field.width
    return encoded


def encode_cells(cells: Doubles, fields: Sequence[Scaled | Categories]) -> Floats:
    """Return the values of records (rows, values) as (rows, inputs).

    Times are seconds, texts the numbers of their categories, and NaN is missing.
    """
    encoded = np.empty((len(cells), sum(field.width for field in fields)), dtype=np.float32)
    source = at = 0
    for field in fields:
        out = encoded[:, at : at + field.width]
        values = cells[:, source : source + field.size]
        field.write(values, out)
        if not np.isfinite(out).all():
            row, column = np.argwhere(~np.isfinite(out))[0]
            raise DataError(
                f"{float(values[row, column])!r} for {field.names[column]!r} is too far from what "
                f"the model was trained on ({_moments(field, column)}) to be represented",
                pointer=f"#/inputs/{row}",
            )
        source += field.size
        at += field.width
    return encoded


def _moments(field: Scaled | Categories, column: int) -> str:
    if isinstance(field, Categories):
        return f"{len(field.categories)} categories"
    mean, scale = scaling.joined([field], "mean"), scaling.joined([field], "scale")
    return f"mean {float(mean[column])!r}, scale {float(scale[column])!r}"
