"""Rankings: which rows to look at, by how unsure a model is of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Strict

from engine.spec.evaluation import RowNumbers
from engine.spec.prediction import PassesSpec

Score = Literal[
    "entropy",
    "expected_entropy",
    "mutual_information",
    "variation_ratio",
    "batch_bald",
    "std",
    "predictive_std",
    "reconstruction_error",
]


class RankSpec(PassesSpec):
    """Which rows of a data set a model is least sure of, and what that is measured by."""

    rows: RowNumbers | None = None
    """Numbers of the data set's rows, counted from 0, to choose among; all that can be predicted
    when absent."""
    by: Score
    """Of a classifier `entropy`, `expected_entropy`, `mutual_information` (BALD, Houlsby et al.
    2011), `variation_ratio`, or `batch_bald`: rows that tell most together (Kirsch et al. 2019).
    Of a regressor `std` or, noise included, `predictive_std`; of an autoencoder also
    `reconstruction_error`."""
    top_k: Annotated[int, Strict(), Field(ge=1, le=100_000)] = 10
    """How many rows to return, at most."""
    masks: Literal["independent", "shared"] | None = None  # type: ignore[assignment]
    """`independent` when absent; of `batch_bald` always `shared`, since it takes each pass for one
    function of all rows."""
