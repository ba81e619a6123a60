"""What a model says of some rows: its passes, their noise, and how unsure it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.data.inputs import Inputs
from engine.ensembles import EnsemblePlan
from engine.prediction import PredictionPlan
from engine.spec import PassesSpec, PredictSpec, Statistic
from engine.statistics import entropy, mean_and_variance, pass_mean
from engine.summary import Tree, noise_variance

__all__ = ["Predicted", "passes_of", "predicted", "spec_of"]

Values = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]

_OF_NUMBERS: tuple[Statistic, ...] = ("mean", "std", "samples")
_UNCERTAINTIES: tuple[Statistic, ...] = (
    "entropy",
    "expected_entropy",
    "mutual_information",
    "variation_ratio",
)


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """Of some rows; numbers are in original units."""

    mean: Values
    """(rows, *shape), of a classifier the probabilities."""
    uncertainties: Mapping[str, Values]
    """How unsure the model is of each number, (rows, *shape), of a classifier of each label."""
    scale: Values
    """What makes uncertainties comparable; broadcasts against them."""
    samples: Values | None = None
    """Of a regressor, (passes, rows, *shape)."""
    precision: Values | None = None
    """Of its noise, in units^-2, as many dimensions as `samples`; None where it is unknown."""
    interval: tuple[Values, Values] | None = None
    """The calibrated one's ends, each (rows, *shape); None where there is none."""
    sets: npt.NDArray[np.object_] | None = None
    """Of a calibrated classifier, lists of labels, (rows,) or (rows, steps)."""
    errors: Values | None = None
    """Of an autoencoder: how far each row's reconstruction is off, (rows,), the mean square."""

    @cached_property
    def of_rows(self) -> dict[str, Values]:
        """How unsure the model is of each row, (rows,): the mean over its numbers or labels."""
        rows = {
            name: (values / self.scale).reshape(len(values), -1).mean(axis=1)
            for name, values in self.uncertainties.items()
        }
        return rows if self.errors is None else rows | {"reconstruction_error": self.errors}


def spec_of(
    passes: PassesSpec, *, form: str, noise: str | None, is_calibrated: bool
) -> PredictSpec:
    """Return the prediction that has what `predicted` reads; `noise` is the output that says it.

    Of a calibrated model it has the interval, or the set, too.
    """
    several = passes.num_samples is not None
    wanted: tuple[Statistic, ...] = _OF_NUMBERS
    calibrated: tuple[Statistic, ...] = ("interval",)
    if form == "classifier":
        wanted, calibrated = ("probabilities", *_UNCERTAINTIES), ("set",)
    if is_calibrated:
        wanted = (*wanted, *calibrated)
    return PredictSpec.model_construct(
        **{name: getattr(passes, name) for name in PassesSpec.model_fields},
        statistics=wanted if several else None,
        outputs=() if noise is None else (noise,),
    )


def passes_of(plan: PredictionPlan) -> int:
    """Return how many passes are read of each row, those of all members of an ensemble."""
    return plan.passes * max(1, len(plan.model.members))


def predicted(
    plan: PredictionPlan,
    x: Inputs,
    ids: Numbers,
    *,
    stop: Callable[[], bool],
    threads: int = 1,
) -> Predicted:
    """Predict encoded rows by a plan for `spec_of`; `ids` are their numbers in the data set.

    Without `num_samples` there is one pass, or one of each member of an ensemble.
    """
    if plan.num_samples is not None:
        trees = [plan.run(x, ids, stop=stop, threads=threads)]
    else:
        members = plan.members if isinstance(plan, EnsemblePlan) else (plan,)
        trees = [member.run(x, ids, stop=stop, threads=threads) for member in members]
    if plan.model.graph.form == "classifier":
        return _of_classes(plan, trees)
    return _of_numbers(plan, trees, x)


def _of_classes(plan: PredictionPlan, trees: list[Tree]) -> Predicted:
    sets = None
    if plan.num_samples is not None:
        (tree,) = trees
        sets = tree["set"]["labels"] if "set" in tree else None
        several = passes_of(plan) > 1
        names = _UNCERTAINTIES if several else _UNCERTAINTIES[:1]
        mean = tree["probabilities"]
        found: dict[str, Values] = {name: tree[name] for name in names}
    else:
        samples = np.stack([tree["probabilities"] for tree in trees])
        mean = pass_mean(samples)
        found = {"entropy": entropy(mean)}
        if len(trees) > 1:
            expected = pass_mean(entropy(samples))
            found["expected_entropy"] = expected
            found["mutual_information"] = np.maximum(found["entropy"] - expected, 0.0)
    return Predicted(mean=mean, uncertainties=found, scale=np.ones(1), sets=sets)


def _of_numbers(plan: PredictionPlan, trees: list[Tree], x: Inputs) -> Predicted:
    encoding, graph = plan.model.encoding, plan.model.graph
    noise = graph.noise_output
    variance: Values | None = None
    std: Values | None = None
    interval: tuple[Values, Values] | None = None
    if plan.num_samples is not None:
        (tree,) = trees
        samples, mean = tree["samples"], tree["mean"]
        std = tree["std"] if len(samples) > 1 else None
        if "interval" in tree:
            interval = (tree["interval"]["lower"], tree["interval"]["upper"])
        if noise is not None:
            variance = noise_variance(graph, encoding, tree[noise]["samples"])
    else:
        samples = np.stack([tree["prediction"] for tree in trees])
        mean, spread = mean_and_variance(samples)
        std = None if spread is None else np.sqrt(spread)
        if noise is not None:
            variance = noise_variance(graph, encoding, np.stack([tree[noise] for tree in trees]))
    precision = plan.model.precision_of_passes(len(samples))
    if variance is not None:
        precision = 1 / np.broadcast_to(variance, samples.shape)
    elif precision is not None:
        precision = precision.reshape((1,) * (samples.ndim - precision.ndim) + precision.shape)
    found: dict[str, Values] = {} if std is None else {"std": std}
    if precision is not None:
        own = (1 / precision).mean(axis=0)
        total = np.sqrt(own if std is None else own + std**2)
        found["total"] = np.broadcast_to(total, mean.shape)
    errors = None
    if graph.form == "autoencoder":
        (given,) = x[:].values.values()
        apart: Any = encoding.decode(given) - mean
        errors = (apart**2).reshape(len(apart), -1).mean(axis=1)
    several = len(encoding.target_names) > 1
    return Predicted(
        mean=mean,
        uncertainties=found,
        scale=encoding.target_scale if several else np.ones(1),
        samples=samples,
        precision=precision,
        interval=interval,
        errors=errors,
    )
