"""Calibration: the rows it takes, the scores it ranks, and the way of predicting it holds for."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    Strict,
    model_validator,
)

from engine.spec.regularizers import RegularizationSpec
from engine.spec.values import (
    MAX_SIZE,
    DropoutMap,
    Index,
    NonNegative,
    Seed,
)

#: Of true values, or classes, how many lie inside; strictly between none and all.
Coverage = Annotated[float, Strict(), Field(gt=0, lt=1, allow_inf_nan=False)]


class ScoreSpec(RegularizationSpec):
    """What a calibration promises, and the way of predicting for which it does."""

    coverage: Coverage
    """Share of true values that the intervals are to cover, or of true classes the sets."""
    score: Literal["absolute", "normalised", "lac", "aps", "raps"] | None = None
    """Of a regressor `absolute`, the default: |y - mean|, so that intervals are equally wide, or
    `normalised`: |y - mean| / std over the passes, so that they are wider where these disagree. Of
    a classifier `aps`, the default: the probability of all likelier classes and a random share of
    the class's own; `raps`, with a penalty for long sets; or `lac`: 1 - probability, whose sets are
    the shortest."""
    penalty: NonNegative | None = None
    """Of `raps`: what each class after the `free_ranks` likeliest adds to a score; 0.01 by
    default."""
    free_ranks: Annotated[int, Strict(), Field(ge=0, le=MAX_SIZE)] | None = None
    """Of `raps`: how many classes are free of penalty; 5 by default."""
    temperature: Annotated[bool, Strict()] | None = None
    """Of a classifier: whether half of the rows fit a temperature (Guo et al. 2017) that softens
    its probabilities from then on; true by default."""
    dropout: DropoutMap | Literal["trained"] | None = None  # type: ignore[assignment]
    """Rates by pattern, or `trained`, as without any of these keys, for those of training."""
    num_samples: Annotated[int, Strict(), Field(ge=1, le=1_000_000)] = 100
    """Number of Monte-Carlo passes."""
    masks: Literal["independent", "shared"] = "independent"
    """`independent`: masks of its own for each row; `shared`: one mask per pass for all rows."""
    seed: Seed | None = None
    """Of the draw of rows and of the passes; the job's own by default."""

    @model_validator(mode="after")
    def _penalties_are_of_raps(self) -> Self:
        for name in ("penalty", "free_ranks"):
            if getattr(self, name) is not None and self.score != "raps":
                raise ValueError(f'`{name}` goes with `"score": "raps"`')
        return self


class CalibrateSpec(ScoreSpec):
    """Split-conformal calibration on rows that neither train nor validate.

    Exactly one of `fraction`, `rows` and `dataset` says which these are.
    """

    fraction: Annotated[float, Strict(), Field(gt=0, lt=1)] | None = None
    """Share of the job's rows, taken out before the validation rows are, and by the same division:
    whole groups, the last in time, the same share of every class, or any drawn at random."""
    rows: Annotated[tuple[Index, ...], Field(min_length=1, fail_fast=True)] | None = None
    """Row numbers of the data set."""
    dataset: Annotated[str, Field(max_length=64)] | None = None
    """Another data set with the same columns or arrays."""

    @model_validator(mode="after")
    def _exactly_one(self) -> CalibrateSpec:
        given = [n for n in ("fraction", "rows", "dataset") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of `fraction`, `rows` and `dataset`")
        return self
