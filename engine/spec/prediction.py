"""Predictions: passes, and what is reported of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
    Strict,
    model_validator,
)

from engine.spec.regularizers import RegularizationSpec
from engine.spec.values import (
    MAX_ENTRIES,
    Count,
    DropoutMap,
    Index,
    NonNegative,
    Pattern,
    Positive,
    Seed,
    SparseSpec,
    Spec,
    at_most,
)

Threshold = (
    NonNegative
    | Annotated[
        dict[Annotated[str, Field(max_length=256)], NonNegative],
        Field(min_length=1, max_length=MAX_ENTRIES),
        at_most(MAX_ENTRIES),
    ]
)

Tolerance = (
    Positive
    | Annotated[
        dict[Annotated[str, Field(max_length=256)], Positive],
        Field(min_length=1, max_length=MAX_ENTRIES),
        at_most(MAX_ENTRIES),
    ]
)


class PassesSpec(RegularizationSpec):
    """How a trained network is sampled: which outputs are dropped, how often, with which seed."""

    dropout: DropoutMap | Literal["trained"] | None = None  # type: ignore[assignment]
    """Rates by pattern, or `trained` for those of training."""
    num_samples: Annotated[int, Strict(), Field(ge=1, le=10_000_000)] | None = None
    """Number of Monte-Carlo passes; one pass without statistics when absent."""
    seed: Seed | None = None
    """Drawn and reported when absent."""
    masks: Literal["independent", "shared"] = "independent"
    """`independent`: masks of its own for each row; `shared`: one mask per pass for all rows."""
    row_offset: Index = 0
    """Position of the first row in the random streams."""


Statistic = Literal[
    "mean",
    "std",
    "quantiles",
    "standard_error",
    "variance",
    "predictive_quantiles",
    "interval",
    "set",
    "samples",
    "covariance",
    "reconstruction_error",
    "label",
    "probabilities",
    "entropy",
    "expected_entropy",
    "mutual_information",
    "variation_ratio",
]


class GenerateSpec(Spec):
    """How a classifier of sequences goes on with those that it is given, one class a step."""

    steps: Annotated[int, Strict(), Field(ge=1, le=100_000)]
    """How many classes to draw for each sequence."""
    temperature: NonNegative = 1.0
    """Classes are drawn with probabilities p^(1/temperature), scaled to add up to 1: above 1 more
    evenly, below 1 the likely ones more often, with 0 always the most likely."""
    top_k: Count | None = None
    """Draw among so many of the most likely classes only; all by default."""


class AbstainSpec(SparseSpec):
    """When a row is marked as one that the model had better not decide: `abstain` of the answer is
    true where one statistic or more lies beyond its threshold. They need `num_samples`, but for
    `entropy`, `probability` and `reconstruction_error`."""

    entropy: NonNegative | None = None
    """Of a classifier: mark what has a larger one, in nats; less than log(classes)."""
    expected_entropy: NonNegative | None = None
    """Of a classifier: mark what has a larger one; less than log(classes)."""
    mutual_information: NonNegative | None = None
    """Of a classifier: mark what has a larger one; less than the log of the number of classes, or
    of passes where these are fewer."""
    variation_ratio: NonNegative | None = None
    """Of a classifier: mark what has a larger one; less than 1 - 1/classes."""
    probability: Annotated[float, Strict(), Field(gt=0, le=1)] | None = None
    """Of a classifier: mark that whose most probable class has a lower probability; more than
    1/classes."""
    std: Threshold | None = None
    """Of a regressor or autoencoder: mark what has a larger one, in the targets' own units, for any
    target; one number for all, or an object by target (a target that it does not name may have
    any)."""
    predictive_std: Threshold | None = None
    """The same of the square root of the total variance, noise included."""
    reconstruction_error: NonNegative | None = None
    """Of an autoencoder: mark what has a larger one."""

    @model_validator(mode="after")
    def _has_one(self) -> AbstainSpec:
        if not self.thresholds():
            names = ", ".join(type(self).model_fields)
            raise ValueError(f"must have a threshold for one statistic or more of {names}")
        return self

    def thresholds(self) -> dict[str, float | dict[str, float]]:
        """Return those that are given, by statistic."""
        given = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in given.items() if value is not None}


class PredictSpec(PassesSpec):
    """Passes, and what to report of them."""

    statistics: Annotated[tuple[Statistic, ...], Field(min_length=1, max_length=32)] | None = None
    """All that the model has but `samples`, `interval`, `set` and the predictive ones, when
    absent."""
    quantiles: Annotated[
        tuple[Annotated[float, Strict(), Field(ge=0, le=1)], ...],
        Field(min_length=1, max_length=100),
    ] = (0.05, 0.5, 0.95)
    outputs: Annotated[tuple[Pattern, ...], Field(max_length=MAX_ENTRIES, fail_fast=True)] = ()
    """Patterns of other named outputs to return, ``-predrop`` ones included."""
    abstain: AbstainSpec | None = None
    """Mark rows that the model is not sure of: `{"mutual_information": 0.3}`."""
    explain: Annotated[bool, Strict()] = False
    """Answer with `explain`, too: how much of the variance over the passes each site of dropout or
    noise accounts for. It takes as many passes again for each."""
    tolerance: Tolerance | None = None
    """Draw passes until the largest `standard_error` of the prediction is at most this, looked at
    after 64, 128, 256, … passes; at most `num_samples` passes. In the targets' own units, one
    number for all or an object by target (a target that it does not name may have any error); of a
    classifier one number, for the standard errors of its probabilities."""
    budget_ms: Positive | None = None
    """Draw passes for so many milliseconds, but 64 at the least and `num_samples` at the most, and
    answer with what they say."""
    start: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """A layer (`hid2`), or its `out` (`hid2:out`), whose values the `inputs` are, as lists of rows
    in the network's own units: the layers before it are passed over, and an autoencoder's code is
    decoded."""
    generate: GenerateSpec | None = None
    """Go on with the given sequences, step by step, as a model of texts does: each class drawn is
    the next step's input."""
