"""Evaluations: passes, the rows whose truths they are compared with, and rows of another kind."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, Strict

from engine.spec.prediction import PassesSpec
from engine.spec.values import Index, Spec

Share = Annotated[float, Strict(), Field(gt=0, lt=1, allow_inf_nan=False)]
RowNumbers = Annotated[list[Index], Field(min_length=1, fail_fast=True)]


class OtherRowsSpec(Spec):
    """Rows unlike those that the model was trained on, which it should be unsure of."""

    dataset: Annotated[str, Field(min_length=1, max_length=64)]
    """Id of the data set; it needs no targets."""
    rows: RowNumbers | None = None
    """Numbers of its rows, counted from 0; all that can be predicted when absent."""


class EvaluateSpec(PassesSpec):
    """How a trained network is measured on rows whose truths are known."""

    rows: RowNumbers | None = None
    """Numbers of the data set's rows, counted from 0; all when absent. Each has its targets."""
    level: Share = 0.9
    """Of the central interval whose observed `coverage` and `interval_width` are told."""
    levels: Annotated[tuple[Share, ...], Field(min_length=1, max_length=100)] = (
        0.5,
        0.8,
        0.9,
        0.95,
    )
    """Of those that `intervals` lists, with `level`."""
    ood: OtherRowsSpec | None = None
    """Rows out of the training's distribution: `ood.auroc` says how well uncertainty tells them
    from the others."""
