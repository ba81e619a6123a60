"""Predictions: encoded rows in, named arrays in original units and labels out."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.abstention import abstention_of, check_reach
from engine.artifact import Model, trained_perturbations
from engine.conformal import Way
from engine.data.inputs import Inputs
from engine.estimation import (
    NOISE,
    OWN,
    Drawing,
    Estimate,
    Passes,
    Reading,
    kept_passes,
    never,
)
from engine.names import match
from engine.partition import Partition
from engine.prediction_checks import (
    acting_regularizers,
    asked_statistics,
    given_start,
    interval_warnings,
    noise_outputs,
    noise_warnings,
    sample_warnings,
)
from engine.regularizers import (
    BernoulliDropout,
    DropConnect,
    GaussianNoise,
    Regularizer,
    is_stochastic,
    unread_warnings,
)
from engine.sampling import Sampler, readable_outputs
from engine.spec import (
    PredictSpec,
)
from engine.summary import (
    Summary,
    Tree,
    noise_variance,
    probabilities_of,
)
from engine.tolerances import check_ends, tolerance_of

__all__ = ["Estimate", "PredictionPlan", "never", "plan_prediction", "with_calibration"]


@dataclass(frozen=True, kw_only=True)
class PredictionPlan:
    """A prediction request resolved against its model; `run` computes it."""

    model: Model
    spec: PredictSpec
    seed: int
    regularizers: tuple[Regularizer, ...]
    extra: tuple[str, ...]
    """Other named outputs to return."""
    statistics: tuple[str, ...]
    summary: Summary
    start: str | None = None
    """The output whose values are given instead of rows."""
    warnings: list[str] = field(default_factory=list)

    @property
    def num_samples(self) -> int | None:
        return self.spec.num_samples

    @property
    def passes(self) -> int:
        """How many passes the network runs for each row, at most."""
        return self.spec.num_samples or 1

    @cached_property
    def draws(self) -> bool:
        """Whether the answer depends on the seed."""
        return is_stochastic(self.regularizers) or "set" in self.statistics

    @cached_property
    def flops_per_draw(self) -> float:
        """About how many floating-point operations one pass of one row takes."""
        graph = self.model.graph
        per_draw = graph.flops_per_row + 40 * graph.numbers_per_row
        dropped = {n for r in self.regularizers if isinstance(r, DropConnect) for n in r.matched}
        per_draw += 40 * sum(math.prod(graph.parameters[name]) for name in dropped)
        return float(per_draw)

    def cost(self, rows: int) -> tuple[float, int]:
        """Return about how many floating-point operations `rows` rows take, and numbers held."""
        draws = rows * (self.passes if is_stochastic(self.regularizers) else 1)
        held = sum(self.model.graph.size_of(name) for name in self._wanted)
        kept = max(1, kept_passes(self.readings, self.passes))
        flops = draws * self.flops_per_draw + 2.0 * self.passes * self._pairs(rows)
        return flops, rows * kept * held + self._pairs(rows)

    def answer_size(self, rows: int) -> int:
        """Return about how many numbers the answer holds."""
        others = sum(self.model.graph.size_of(name) for name in self.extra)
        return rows * self.summary.numbers_per_row(others) + self._pairs(rows)

    def _pairs(self, rows: int) -> int:
        """Return how many numbers the covariance of so many rows has, where it is asked for."""
        if "covariance" not in self.statistics:
            return 0
        outputs = (self.model.graph.last.out, *self.extra)
        return rows * rows * sum(self.model.graph.size_of(name) for name in outputs)

    def dropout(self) -> list[dict[str, Any]]:
        """Return the rates that act, with the outputs that each pattern matched."""
        return [
            {
                "pattern": regularizer.pattern,
                "rate": regularizer.weight,
                "rng": regularizer.rng,
                "steps": regularizer.steps,
                "spatial": regularizer.spatial,
                "matched": list(regularizer.matched),
            }
            for regularizer in self.regularizers
            if isinstance(regularizer, BernoulliDropout)
        ]

    def drop_connect(self) -> list[dict[str, Any]]:
        """Return the rates at which weights are dropped, with the weights matched."""
        return [
            {
                "pattern": regularizer.pattern,
                "rate": regularizer.weight,
                "rng": regularizer.rng,
                "matched": list(regularizer.matched),
            }
            for regularizer in self.regularizers
            if isinstance(regularizer, DropConnect)
        ]

    def noise(self) -> list[dict[str, Any]]:
        """Return the deviations of the noise that acts, with the outputs matched."""
        return [
            {
                "pattern": regularizer.pattern,
                "std": regularizer.weight,
                "rng": regularizer.rng,
                "matched": list(regularizer.matched),
            }
            for regularizer in self.regularizers
            if isinstance(regularizer, GaussianNoise)
        ]

    def acting(self) -> list[dict[str, Any]]:
        """Return what acts in each network of the model, as the answer says it."""
        return [
            {
                "dropout": self.dropout(),
                "drop_connect": self.drop_connect(),
                "noise": self.noise(),
            }
        ]

    def way(self) -> Way:
        """Return the way of predicting, which a calibration holds for."""
        return Way.of(self.acting(), self.passes, self.spec.masks)

    def again(self, *, seed: int, row_offset: int) -> PredictionPlan:
        """Return the same plan for another seed and offset; what it has worked out is shared."""
        _ = self._partition, self.readings, self.flops_per_draw  # worked out now, for all copies
        other = object.__new__(PredictionPlan)
        other.__dict__.update(self.__dict__, seed=seed)  # what `copy` and `replace` take long for
        other.__dict__.pop("batch_key", None)  # of which some plans have one of their own
        if row_offset != self.spec.row_offset:
            other.__dict__["spec"] = self.spec.model_copy(update={"row_offset": row_offset})
        return other

    def of_passes(self, num_samples: int) -> PredictionPlan:
        """Return the plan of so many passes, for the same answer of fewer or more."""
        spec = self.spec.model_copy(update={"num_samples": num_samples})
        return replace(self, spec=spec, summary=replace(self.summary, spec=spec))

    def is_compiled(self, x: Inputs) -> bool:
        """Whether the compiled kernels compute all of it, for rows of which `x` is given."""
        return self._partition.is_compiled(tuple(x.values))

    # -- the answer --------------------------------------------------------------------------------

    def run(
        self,
        x: Inputs,
        row_ids: npt.NDArray[np.int64],
        *,
        stop: Callable[[], bool] = never,
        threads: int = 1,
    ) -> Tree:
        """Return the answer's `outputs` for encoded rows, or for values of `start`.

        `row_ids` are the rows' positions in the random streams, without `row_offset`. Where `stop`
        says so, StoppedError ends the work. The compiled kernels use so many `threads` at most.
        """
        return self.answer(x, row_ids, stop=stop, threads=threads).outputs

    def answer(
        self,
        x: Inputs,
        row_ids: npt.NDArray[np.int64],
        *,
        stop: Callable[[], bool] = never,
        late: Callable[[], bool] = never,
        threads: int = 1,
    ) -> Estimate:
        """Return the last estimate, at less cost than by the ones before it; see `estimates`."""
        if self.num_samples is None or (self.summary.tolerance is None and late is never):
            outputs = self.outputs(x, self._positions(row_ids), stop=stop, threads=threads)
            return Estimate(num_samples=self.passes, stopped_by="num_samples", outputs=outputs)
        *_, last = self._drawing(x, self._positions(row_ids), stop, threads).estimates(
            late, running=False, flops_per_draw=self.flops_per_draw
        )
        return last

    def estimates(
        self,
        x: Inputs,
        row_ids: npt.NDArray[np.int64],
        *,
        stop: Callable[[], bool] = never,
        late: Callable[[], bool] = never,
        threads: int = 1,
    ) -> Iterator[Estimate]:
        """Return what is known after 64, 128, 256, … passes, and last when they are enough.

        That is when there are `num_samples`, when no standard error is above the tolerance, or when
        `late`, which is asked every few milliseconds, says so; one block of 64 passes is always
        drawn. The last estimate alone has a `stopped_by`. Passes over the same rows give the same
        bits in each of them as in a run of so many passes.
        """
        if self.num_samples is None:
            yield self.answer(x, row_ids, stop=stop, threads=threads)
            return
        yield from self._drawing(x, self._positions(row_ids), stop, threads).estimates(
            late, running=True, flops_per_draw=self.flops_per_draw
        )

    def _positions(self, row_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the rows' positions in the random streams."""
        return row_ids + self.spec.row_offset if self.spec.row_offset else row_ids

    @cached_property
    def batch_key(self) -> Hashable:
        """What plans have in common that may run together; see `engine.batching`.

        Model and rates, passes and masks, and what is asked for; seed and `row_offset` may differ.
        It holds while the plans live. A plan that ends by tolerance or time, or whose rows
        belong together, has a key of its own.
        """
        spec, model = self.spec, self.model
        ends = (spec.tolerance, spec.budget_ms, spec.generate)
        if any(end is not None for end in ends) or "covariance" in self.statistics:
            return object()
        return (
            model.network,
            id(model.encoding),
            id(model.noise_precision),
            self.regularizers,
            self.extra,
            self.start,
            (self.statistics, spec.statistics is None),
            spec.quantiles,
            spec.num_samples,
            spec.masks,
            self.summary.abstention,
        )

    def outputs(
        self,
        x: Inputs,
        row_ids: npt.NDArray[np.int64],
        *,
        seeds: Sequence[int] | None = None,
        stop: Callable[[], bool] = never,
        threads: int = 1,
    ) -> Tree:
        """Return the outputs of `num_samples` passes, whatever the tolerance.

        `row_ids` are the rows' positions in the random streams, `row_offset` included; `seeds` has
        one for each row, instead of the plan's.
        """
        if self.num_samples is not None:
            return self._drawing(x, row_ids, stop, threads, seeds).whole()
        sampler = self.sampler(stop, threads)
        rows = sampler.prepare(x, row_ids, seeds)
        drawn = dict(rows.deterministic)
        if sampler.stochastic:
            drawn |= {name: value[0] for name, value in rows.draw(0, 1).items()}
        own = self.readings[OWN]
        one = self.summary.of_one(own.of(drawn[own.output]), x)
        return one | {name: drawn[name] for name in self.extra}

    def _drawing(
        self,
        x: Inputs,
        row_ids: npt.NDArray[np.int64],
        stop: Callable[[], bool],
        threads: int,
        seeds: Sequence[int] | None = None,
    ) -> Drawing:
        return Drawing(
            summary=self.summary,
            readings=self.readings,
            sampler=self._passes(stop, threads),
            x=x,
            row_ids=row_ids,
            seeds=seeds,
        )

    def _passes(self, stop: Callable[[], bool], threads: int) -> Passes:
        return self.sampler(stop, threads)

    def sampler(self, stop: Callable[[], bool], threads: int) -> Sampler:
        """Return what draws the passes of the model alone."""
        return Sampler(
            self.model.network,
            self.regularizers,
            wanted=self._wanted,
            seed=self.seed,
            masks=self.spec.masks,
            stop=stop,
            threads=threads,
            partition=self._partition,
        )

    @cached_property
    def _partition(self) -> Partition:
        return Partition(
            self.model.network,
            self.regularizers,
            wanted=self._wanted,
            shared=self.spec.masks == "shared",
        )

    @cached_property
    def _wanted(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(reading.output for reading in self.readings.values()))

    @cached_property
    def readings(self) -> dict[str, Reading]:
        """What is read of the network: the prediction, the noise that it learnt, other outputs."""
        graph, encoding, summary = self.model.graph, self.model.encoding, self.summary
        is_classifier = graph.form == "classifier"
        shares = partial(probabilities_of, temperature=self.model.temperature)
        readings = {
            OWN: Reading(
                output=graph.last.out,
                kept=summary.kept,
                adapt=shares if is_classifier else None,
            )
        }
        for name in noise_outputs(graph, self.spec, summary.needed):
            variance = partial(noise_variance, graph, encoding)
            readings[NOISE] = Reading(output=name, kept=summary.kept_of_noise, adapt=variance)
        for name in self.extra:
            readings[name] = Reading(output=name, kept=summary.kept_of_other)
        return readings


def plan_prediction(
    model: Model, spec: PredictSpec, *, seed: int, alone: bool = True
) -> PredictionPlan:
    """Resolve a request: which rates act, which outputs and statistics are asked for.

    With `num_samples` and no dropout key the rates are those of training. Raises SpecError where
    the model has none, or for a statistic that it does not have; PatternError for a pattern that
    matches nothing. A model that is not `alone` is one of an ensemble, which has several passes
    though all of one member's be the same.
    """
    check_ends(spec)
    regularizers = acting_regularizers(model.graph, trained_perturbations(model), spec, alone=alone)
    warnings = unread_warnings(regularizers, model.graph)
    readable = readable_outputs(model.graph, regularizers)
    extra: dict[str, None] = {}
    for index, pattern in enumerate(spec.outputs):
        matched = match(pattern, readable, kind="output", pointer=f"#/outputs/{index}")
        extra |= dict.fromkeys(matched)
    warnings = [text for text in warnings if not any(repr(name) in text for name in extra)]
    statistics = asked_statistics(model, spec)
    abstention = abstention_of(model, spec)
    if alone:
        check_reach(model, spec)
    needed = (*statistics, *(() if abstention is None else abstention.needs))
    start = given_start(model.graph, spec, tuple(extra), needed)
    if start is not None and spec.statistics is None:
        statistics = tuple(name for name in statistics if name != "reconstruction_error")
    if spec.num_samples is not None:
        if alone and not is_stochastic(regularizers):
            warnings.append(
                "nothing is dropped and no noise is added, so all passes are the same; leave out "
                "the dropout and noise keys for the rates of training"
            )
        warnings += noise_warnings(model, statistics)
        warnings += sample_warnings(spec, statistics)
    plan = PredictionPlan(
        model=model,
        spec=spec,
        seed=seed,
        regularizers=regularizers,
        extra=tuple(extra),
        statistics=statistics,
        summary=Summary(
            model=model,
            spec=spec,
            asked=statistics,
            tolerance=tolerance_of(model.encoding, spec),
            abstention=abstention,
        ),
        start=start,
        warnings=warnings,
    )
    return with_calibration(plan) if alone else plan


def with_calibration(plan: PredictionPlan) -> PredictionPlan:
    """Have a plan's intervals or sets say whether its way of predicting is the one calibrated for.

    Where it is not, a warning names what differs.
    """
    if not {"interval", "set"} & set(plan.statistics):
        return plan
    calibration = plan.model.calibration
    assert calibration is not None
    differences = list(calibration.way.differences(plan.way()))
    if plan.start is not None:
        differences.append("a `start` behind the inputs")
    warnings = interval_warnings(plan.spec, calibration, differences)
    return replace(
        plan,
        summary=replace(plan.summary, is_calibrated=not differences),
        warnings=[*plan.warnings, *warnings],
    )
