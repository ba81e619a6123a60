"""What is answered of feedback."""

from __future__ import annotations

from datetime import datetime

from service.schemas.views import View

__all__ = ["FeedbackAddedView", "FeedbackView"]


class FeedbackFigures(View):
    """What predictions of some rows turned out to be worth; of several targets their mean."""

    log_likelihood: float | None
    """Mean log density (probability) of what was observed."""
    rmse: float | None = None
    """Of a regressor, in original units, as `mae`."""
    mae: float | None = None
    accuracy: float | None = None
    """Of a classifier, as `log_loss` and `brier`."""
    log_loss: float | None = None
    brier: float | None = None


class FeedbackRows(FeedbackFigures):
    """Some rows, and when they came."""

    since: datetime
    until: datetime
    rows: int
    unscored: int
    """Further rows that count for nothing, since their scores are no finite numbers."""


class FeedbackStretch(FeedbackRows):
    """Rows that came one after another."""

    coverage: float | None
    """The share of truths in the calibrated intervals (sets)."""


class FeedbackCoverage(View):
    """Whether as many truths are covered as the calibration promises."""

    coverage: float | None = None
    """The share of truths in the calibrated intervals (sets)."""
    width: float | None = None
    """Their mean width, in original units."""
    size: float | None = None
    """Of sets, the mean number of labels."""
    lower: float | None
    """The share of all such truths that is covered is between `lower` and `upper`, with a
    confidence of 99 % (Clopper & Pearson 1934). Null where a row has several truths of a target,
    and above several targets, each of which has its own."""
    upper: float | None
    differs: bool | None
    """Whether what was promised is not between them."""
    p_value: float | None
    """How likely a share so far from the promise is, if the rows are like the calibration rows: by
    chance in these and in those, exactly."""
    drifted: bool | None
    """Whether that is less than 1 % (of several targets, for one of them): then the rows are unlike
    those."""


class FeedbackPromise(FeedbackCoverage):
    level: float
    """The coverage that is promised."""


class FeedbackTarget(FeedbackFigures, FeedbackCoverage):
    """One of several targets."""

    lower: float | None = None
    upper: float | None = None
    differs: bool | None = None
    p_value: float | None = None
    drifted: bool | None = None


class FeedbackScores(FeedbackRows):
    """Scores, flat by name: those of the model's form, null where they do not exist."""

    interval: FeedbackPromise | None = None
    """Of a calibrated regressor."""
    set: FeedbackPromise | None = None
    """Of a calibrated classifier."""
    targets: dict[str, FeedbackTarget] | None = None
    """Of several targets the numbers of each."""


class FeedbackView(View):
    """What is known of how good a model's predictions turned out to be."""

    model: str
    totals: FeedbackScores | None
    """Of all rows; null while there are none."""
    recent: FeedbackScores | None
    """Of the latest rows, 901 to 1000 where there are as many."""
    history: list[FeedbackStretch]
    """All rows in stretches, the oldest first: 100 rows each and, where there would be too many
    stretches, the older ones put together."""
    warnings: list[str]


class FeedbackAddedView(View):
    """What rows came to, and what the model is known for now."""

    model: str
    added: FeedbackScores
    """Of the rows of this request."""
    totals: FeedbackScores
    recent: FeedbackScores
    num_samples: int | None
    seed: int | None
    """Null where nothing random was asked for."""
    warnings: list[str]
