"""What is asked of `POST /evaluations`, and what evaluations answer."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from service.batch_requests import CheckpointSeconds
from service.evaluations import EvaluateRequest
from service.job_options import Limits, Name, Tags
from service.schemas.views import View

__all__ = ["EvaluationView", "EvaluationsRequest"]


class EvaluationsRequest(EvaluateRequest):
    """What to measure, as a job."""

    name: Name | None = None
    """Name of the job."""
    tags: Tags = Field(default_factory=dict)
    checkpoint_every: CheckpointSeconds = CheckpointSeconds()
    limits: Limits | None = None


class IntervalScore(View):
    """Central intervals of one level of the predictive distribution."""

    level: float
    coverage: float | None
    """The share of truths that lie within."""
    width: float | None
    """The mean width, in original units."""


class CalibratedScore(View):
    """The calibrated intervals (sets) of a model that was trained with `calibrate`."""

    level: float
    """The coverage that was asked for."""
    calibrated: bool
    """Whether these passes are those that it was calibrated with."""
    coverage: float | None
    """The share of truths that lie within."""
    width: float | None = None
    """The mean width, in original units."""
    size: float | None = None
    """The mean number of labels."""


class Calibration(View):
    """Whether truths lie below each quantile as often as they should (Kuleshov et al. 2018)."""

    expected: list[float]
    """Levels 0.05 to 0.95."""
    observed: list[float]
    """The share of truths below the quantile of each level."""
    pit: list[float]
    """Histogram of the probability integral transform: the share of truths in each twentieth of
    their predictive distributions, 0.05 everywhere at best."""


class ReliabilityBin(View):
    """The labels of one confidence, above `lower` and up to `upper`."""

    lower: float
    upper: float
    count: int
    confidence: float | None
    """The mean probability of the labels."""
    accuracy: float | None
    """The share of them that is right."""


class UncertaintyScore(View):
    """What one kind of uncertainty knows of the errors."""

    mean: float | None
    auroc: float | None = None
    """Of classifiers: the probability that a wrong label is more uncertain than a right one."""
    aurc: float | None
    """The area under the risk-coverage curve (Geifman & El-Yaniv 2017)."""
    ause: float | None = None
    """Of regressors: how far that area is from the one by the errors themselves, in units of the
    mean error (Ilg et al. 2018)."""


class RiskCoverage(View):
    """The risk of the most certain share of the predictions."""

    by: str
    """The uncertainty that they are ordered by."""
    coverage: list[float]
    risk: list[float | None]
    """Mean absolute error (of several targets in units of their training deviation), or the share
    of wrong labels."""


class OtherRowsScore(View):
    """How well uncertainty tells the rows of another data set from those that were measured."""

    dataset: str
    rows: int
    auroc: dict[str, float | None]
    """The probability that one of its rows is more uncertain than one of the others."""
    mean: dict[str, float | None]
    """The mean uncertainty of its rows."""


class EvaluationView(View):
    """Scores, flat by name: those of the model's form, null where they do not exist."""

    model_config = ConfigDict(extra="allow")

    model: str
    dataset: str
    form: Literal["regressor", "classifier", "autoencoder"]
    rows: int
    """How many were measured; a row is a sequence or image where the model reads such."""
    rmse: float | None = None
    """Of the mean over the passes, in original units, as all of a regressor's (autoencoder's)."""
    mae: float | None = None
    r2: float | None = None
    log_likelihood: float | None = None
    """Mean log density of the truths under the mixture of passes with the model's noise."""
    crps: float | None = None
    """Continuous ranked probability score of the same distribution."""
    coverage: float | None = None
    """Share of the truths within the central intervals of the request's `level`."""
    interval_width: float | None = None
    """Mean width of these."""
    calibration_error: float | None = None
    """Mean distance between `observed` and `expected` of `calibration`."""
    intervals: list[IntervalScore] | None = None
    interval: CalibratedScore | None = None
    """Null where the model is not calibrated, or without `num_samples`."""
    calibration: Calibration | None = None
    targets: dict[str, dict[str, float | None]] | None = None
    """Of several targets the numbers above of each; what stands above is their mean."""
    accuracy: float | None = None
    log_loss: float | None = None
    """Of the mean probabilities, in nats, with 1e-7 as the least."""
    brier: float | None = None
    """Sum over the classes of the squared differences, from 0 to 2 (Brier 1950)."""
    ece: float | None = None
    """Expected calibration error of the labels, in 15 bins (Guo et al. 2017)."""
    auroc: float | None = None
    """Of the second of two classes; of more, the mean of each one's against the rest."""
    set: CalibratedScore | None = None
    """Null where the model is not calibrated, or without `num_samples`."""
    reliability: list[ReliabilityBin] | None = None
    uncertainty: dict[str, UncertaintyScore]
    risk_coverage: RiskCoverage | None
    ood: OtherRowsScore | None
    dropout: list[dict[str, Any]]
    """As `/predict` tells it, and so is all that follows."""
    noise: list[dict[str, Any]]
    drop_connect: list[dict[str, Any]]
    num_samples: int | None
    seed: int | None
    masks: Literal["independent", "shared"]
    row_offset: int
    stream: int
    warnings: list[str]
