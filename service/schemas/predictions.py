"""Predictions, rankings, and what the spread of passes comes from."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict

from service.schemas.views import View

__all__ = ["PredictionView", "RankingView"]


class OutsideView(View):
    """A row that is unlike those that the model was trained on."""

    row: int
    """Its position in the request, of a stored data set its number there."""
    inputs: list[str]
    """Those outside the range of the training rows; of a sequence or image at any step or pixel."""


class RankedRow(View):
    """A row that a model is unsure of."""

    model_config = ConfigDict(extra="allow")

    row: int
    """Its number in the data set."""
    score: float
    """What it was ranked by; of `batch_bald` what its label adds to those of the rows before it."""
    mutual_information: float | None = None
    """Of `batch_bald`: what its label tells alone."""
    information: float | None = None
    """Of `batch_bald`: what its label and those of the rows before it tell together."""


class RankingView(View):
    """Rows of a data set, the least sure first, and all that is needed to ask for them again."""

    model: str
    dataset: str
    by: str
    rows: int
    """How many were ranked."""
    data: list[RankedRow]
    candidates: int | None
    """Of `batch_bald`: how many rows, those with the largest mutual information, were compared
    with each other."""
    dropout: list[dict[str, Any]]
    noise: list[dict[str, Any]]
    drop_connect: list[dict[str, Any]]
    num_samples: int | None
    seed: int | None
    """Null where nothing random was asked for."""
    masks: Literal["independent", "shared"]
    row_offset: int
    stream: int
    """Version of the random streams."""
    warnings: list[str]


class ExplanationShare(View):
    """Part of the variance over the passes, of each row and target (class)."""

    variance: list[Any]
    """In target units^2; of a classifier that of the probabilities."""
    share: list[Any]
    """Of the variance of all together; null where that is 0."""
    mutual_information: list[Any] | None = None
    """Of a classifier, of each row (step): how much the passes disagree on the label, in nats."""
    mutual_information_share: list[Any] | None = None
    """Of that of all together; null where that is 0."""


class ExplanationSite(ExplanationShare):
    """What one site accounts for: the variance where it alone acts."""

    site: str
    """The output, or the weights, that it acts on."""
    kind: Literal["dropout", "noise", "drop_connect"]
    pattern: str | None
    level: float | None
    """The rate of dropping, or the noise's standard deviation; null where members of an ensemble
    have several."""


class ExplanationView(View):
    """How much of the variance over the passes each site of dropout or noise accounts for."""

    variance: list[Any]
    """Of all sites together."""
    mutual_information: list[Any] | None = None
    """Of a classifier: the same of what the passes disagree on."""
    sites: list[ExplanationSite]
    members: ExplanationShare | None
    """Of an ensemble: what its members differ by where nothing is dropped and no noise added."""
    interaction: ExplanationShare
    """What all these lack of that of all together; below 0 where they exceed it."""


class PredictionView(View):
    """An answer, with all that is needed to ask for the same numbers again."""

    model_config = ConfigDict(extra="allow")

    model: str
    outputs: dict[str, Any]
    """`prediction`, or the statistics of the passes, and the other named outputs asked for."""
    dropout: list[dict[str, Any]]
    """`pattern`, `rate`, `rng`, `steps`, `spatial` and `matched` of what was dropped."""
    drop_connect: list[dict[str, Any]]
    """`pattern`, `rate`, `rng` and `matched` of the weights that were dropped."""
    noise: list[dict[str, Any]]
    """`pattern`, `std`, `rng` and `matched` of the noise that was added."""
    num_samples: int | None
    seed: int | None
    """Null where nothing random was asked for."""
    masks: Literal["independent", "shared"]
    row_offset: int
    stopped_by: str | None
    stream: int
    """Version of the random streams."""
    outside: list[OutsideView]
    """Rows with inputs below or above all those of the training rows; the first 100."""
    explain: ExplanationView | None = None
    """There with `"explain": true`."""
    warnings: list[str]
