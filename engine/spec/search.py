"""Searches: many training runs as one job, and which of them is kept."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, Strict, model_validator

from engine.spec.values import Real, Spec, at_most

MAX_VARIANTS = 1000
MAX_PATHS = 64

#: A field of the job by its dotted path: `optimizer.learning_rate`, `network.layers.1.size`.
Path = Annotated[str, Field(min_length=1, max_length=512)]
Choices = Annotated[
    tuple[Any, ...], Field(min_length=1, max_length=MAX_VARIANTS), at_most(MAX_VARIANTS)
]


class RangeSpec(Spec):
    """Numbers between two bounds."""

    min: Real
    max: Real
    log: Annotated[bool, Strict()] = False
    """Draw the logarithm evenly, and not the number itself."""
    integer: Annotated[bool, Strict()] = False
    """Draw whole numbers, both bounds included."""

    @model_validator(mode="after")
    def _is_a_range(self) -> RangeSpec:
        if not self.min < self.max or math.isinf(self.max - self.min):
            raise ValueError("`min` is smaller than `max`")
        if self.log and self.min <= 0:
            raise ValueError("`min` is above 0 where the logarithm is drawn")
        if self.integer and (self.min != int(self.min) or self.max != int(self.max)):
            raise ValueError("`min` and `max` are whole numbers where whole numbers are drawn")
        if self.integer and max(abs(self.min), abs(self.max)) > 2**53:
            raise ValueError("whole numbers are drawn up to 2^53")
        return self


class RandomSpec(Spec):
    """Variants drawn at random, by the job's `seed`."""

    num_variants: Annotated[int, Strict(), Field(ge=1, le=MAX_VARIANTS)]
    """The first k are the same, however many there are."""
    distributions: Annotated[
        dict[Path, RangeSpec | Choices],
        Field(min_length=1, max_length=MAX_PATHS),
        at_most(MAX_PATHS),
    ]
    """By path: a range, or values of which each is as likely."""


class HalvingSpec(Spec):
    """Successive halving (Jamieson & Talwalkar 2016): most variants stop early."""

    factor: Annotated[int, Strict(), Field(ge=2, le=1000)] = 3
    """After `min_epochs` epochs the best 1 in `factor` goes on, after `factor` times as many the
    best 1 in `factor` of these, and so on."""
    min_epochs: Annotated[int, Strict(), Field(ge=1, le=10_000_000)] = 10


class SearchSpec(Spec):
    """Many variants of one job; exactly one of `grid`, `variants` and `random` says which.

    A path names a field of the job, by dots, and positions in lists by number, from 0:
    `hidden_dropout`, `optimizer.learning_rate`, `network.layers.1.size`, `regularizers.0.weight`.
    What follows `dropout.`, `noise.`, `monitors.` and `noise_precision.` is one key, whatever is in
    it: `dropout.hid1:out`. A value replaces what is there, objects as a whole. What decides the
    rows does not vary: `inputs`, `targets`, `columns`, `sample_weight`, `rows`, `sequence`,
    `validation`; nor does `device`. All variants have the same validation rows: where `seed`
    varies, these are still drawn by the job's own.
    """

    grid: (
        Annotated[
            dict[Path, Choices],
            Field(min_length=1, max_length=MAX_PATHS),
            at_most(MAX_PATHS),
        ]
        | None
    ) = None
    """Values by path; every combination is a variant, the last path's values varying first."""
    variants: (
        Annotated[
            tuple[Annotated[dict[Path, Any], at_most(MAX_PATHS)], ...],
            Field(min_length=1, max_length=MAX_VARIANTS),
            at_most(MAX_VARIANTS),
        ]
        | None
    ) = None
    """What is different in each, by path."""
    random: RandomSpec | None = None
    halving: HalvingSpec | None = None
    select: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """What decides: `valid.log_likelihood`, `valid.loss`, `valid.rmse`, `valid.mae`, `valid.r2`,
    `valid.accuracy` or `train.loss`. Losses and errors are small at the best, the others large. By
    default a regressor's or autoencoder's log-likelihood and a classifier's `valid.loss`; without
    validation rows `train.loss`, the only one there is then."""
    refit: Annotated[bool, Strict()] | None = None
    """Train the best once more, from the start, on all of `rows`, the validation rows included, for
    its kept number of epochs and with its noise precision. By default where validation rows were
    taken out of these. Not with an ensemble."""
    keep: Literal["best", "ensemble"] = "best"
    """What becomes the model: the best, or all variants that came to their end, as one ensemble
    whose members' passes count as one another's in a prediction."""

    @model_validator(mode="after")
    def _exactly_one_way(self) -> SearchSpec:
        given = [n for n in ("grid", "variants", "random") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of `grid`, `variants` and `random`")
        if self.keep == "ensemble" and self.refit:
            raise ValueError("`refit` trains the best once more; leave it out for an ensemble")
        if self.grid is not None:
            count = math.prod(len(values) for values in self.grid.values())
            if count > MAX_VARIANTS:
                raise ValueError(
                    f"the grid has {count} combinations; at most {MAX_VARIANTS} are trained"
                )
        return self
