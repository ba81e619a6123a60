"""Columns and rows: how they are read, divided, and joined to sequences."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
    Strict,
    model_validator,
)

from engine.spec.values import (
    MAX_SIZE,
    Index,
    Real,
    Seed,
    SparseSpec,
    Spec,
)

ColumnName = Annotated[str, Field(min_length=1, max_length=256)]


class ColumnSpec(SparseSpec):
    """How an input column of a table is read where the usual way will not do."""

    type: Literal["number", "category", "datetime"] | None = None
    """`category`: one input for each value of the training rows, of integers, numbers and booleans
    as of texts; `number`: of texts, the numbers that they spell; `datetime`: of texts, the
    times."""
    format: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """For `datetime`: how the texts are written, as `strptime` has it, ``%d.%m.%Y``; ISO 8601 by
    default."""
    missing: Literal["median", "mean", "mode", "constant", "refuse"] | None = None
    """What is read in place of a missing value: the median (of categories and booleans the mode) of
    the training rows by default; `refuse` takes none, in training, validation or prediction."""
    fill: Annotated[bool, Strict()] | Real | Annotated[str, Field(max_length=256)] | None = None
    """For `constant`: the value; of times a text, written as they are."""
    indicator: Annotated[bool, Strict()] | None = None
    """Whether one more input, `NAME is missing`, tells of missing values; by default where the
    training rows have some."""
    unknown: Literal["refuse", "column"] | None = None
    """Of categories: what a value that no training row has comes to; refused by default, or one
    more input, `NAME is unknown`."""
    scale: Literal["standard", "none"] | None = None
    """Of numbers: (value - mean) / standard deviation by default, or as they are."""

    @model_validator(mode="after")
    def _keys_go_together(self) -> ColumnSpec:
        if (self.fill is None) == (self.missing == "constant"):
            raise ValueError('`fill` goes with `"missing": "constant"`, and that with `fill`')
        if self.missing == "refuse" and self.indicator is not None:
            raise ValueError("`indicator` tells of nothing where missing values are refused")
        if self.format is not None and self.type != "datetime":
            raise ValueError('`format` goes with `"type": "datetime"`')
        return self


class ValidationSpec(Spec):
    """Which rows measure the network instead of training it; exactly one way of choosing them."""

    fraction: Annotated[float, Strict(), Field(gt=0, lt=1)] | None = None
    """Share of the job's rows, drawn at random."""
    seed: Seed | None = None
    """Seed of that draw; the job's own by default."""
    group: ColumnName | None = None
    """Column (array) whose rows of equal value stay together, on one side of the split."""
    time: ColumnName | None = None
    """Column (array) by which the last rows are taken instead of a draw; equal times stay
    together."""
    stratify: bool | ColumnName | None = None
    """Column (array) whose values both sides have in the same shares; by default a classifier's
    target, and false for none."""
    rows: Annotated[tuple[Index, ...], Field(min_length=1, fail_fast=True)] | None = None
    """Row numbers of the data set."""
    dataset: Annotated[str, Field(max_length=64)] | None = None
    """Another data set with the same columns or arrays."""

    @model_validator(mode="after")
    def _exactly_one(self) -> ValidationSpec:
        given = [n for n in ("fraction", "rows", "dataset") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of `fraction`, `rows` and `dataset`")
        ways = [n for n in ("group", "time", "stratify") if getattr(self, n) not in (None, False)]
        for name in ("seed", "group", "time", "stratify"):
            if getattr(self, name) is not None and self.fraction is None:
                raise ValueError(f"`{name}` goes with `fraction`")
        if len(ways) > 1:
            raise ValueError(f"`{ways[0]}` and `{ways[1]}` do not go together")
        if self.time is not None and self.seed is not None:
            raise ValueError("`seed` draws nothing where the last rows are taken by `time`")
        return self


class SequenceSpec(Spec):
    """How the rows of a table become sequences: windows of the series that they belong to."""

    group: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """Column that says which series a row belongs to; null where the table is one series."""
    order: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """Column of numbers or times that orders the rows of a series; null for the table's order."""
    window: Annotated[int, Strict(), Field(ge=1, le=MAX_SIZE)] | None = None
    """Steps of a sequence: so many rows that follow each other in one series. Null for whole
    series, which must then be equally long."""
    horizon: Annotated[int, Strict(), Field(ge=0, le=MAX_SIZE)] | None = None
    """How many rows after a step its target lies; 0 for the same row. By default 1, of an
    autoencoder 0."""
    stride: Annotated[int, Strict(), Field(ge=1, le=MAX_SIZE)] = 1
    """Rows from the start of one window to that of the next."""
    predict: Literal["each", "last"] | None = None
    """Whether there is a target for each step, or for the last one alone; by default what the
    network's last layer gives."""
