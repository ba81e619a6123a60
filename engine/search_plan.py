"""A search checked as a whole against its data, before anything runs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.artifact import predicts
from engine.data.dataset import Data
from engine.data.profile import profile
from engine.data.schema import Schema
from engine.errors import EngineError, SpecError
from engine.graph import Graph
from engine.plan import TrainingPlan, plan_training, vary
from engine.schedules import with_span
from engine.spec import SearchSpec, TrainSpec, ValidationSpec
from engine.spec.optimizers import finds_rate
from engine.variants import Variant, spec_of, variants_of

__all__ = ["PlannedVariant", "SearchPlan", "plan_search", "refit_spec"]

_LARGE_IS_GOOD = ("log_likelihood", "accuracy", "r2")
_REGRESSION = ("log_likelihood", "loss", "rmse", "mae", "r2")
_CLASSIFICATION = ("loss", "accuracy", "log_likelihood")


@dataclass(frozen=True, kw_only=True)
class PlannedVariant:
    """One variant and what it comes to as a job alone."""

    variant: Variant
    plan: TrainingPlan

    @property
    def epochs(self) -> int:
        return self.plan.spec.epochs


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """What a search comes to: all its variants on the same rows, and how one is chosen."""

    search: SearchSpec
    variants: tuple[PlannedVariant, ...]
    select: str
    """The deciding metric: `valid.rmse`."""
    refits: bool
    resident_bytes: int | None = None
    """Most bytes of encoded rows to be held in memory."""

    def score(self, metrics: Mapping[str, Any]) -> float | None:
        """Return how good these metrics are, large being good; None where they do not say."""
        part, _, name = self.select.partition(".")
        value = metrics.get(part, {}).get(name)
        if value is None or not math.isfinite(value):
            return None
        return float(value) if name in _LARGE_IS_GOOD else -float(value)

    @property
    def rungs(self) -> tuple[int, ...]:
        """Epochs after which the worst variants stop."""
        halving = self.search.halving
        if halving is None:
            return ()
        most = max(variant.epochs for variant in self.variants)
        rungs, epoch = [], halving.min_epochs
        while epoch < most:
            rungs.append(epoch)
            epoch *= halving.factor
        return tuple(rungs)

    def left_after(self, rung: int) -> int:
        """Return how many variants go on after so many rungs."""
        count = len(self.variants)
        for _ in range(rung):
            assert self.search.halving is not None
            count = max(1, count // self.search.halving.factor)
        return count

    @property
    def epochs(self) -> int:
        """Epochs of all variants together if none ends early but at its rung."""
        bounds = [0, *self.rungs, max(variant.epochs for variant in self.variants)]
        mean = sum(variant.epochs for variant in self.variants) / len(self.variants)
        share = sum(
            self.left_after(rung) * (end - begin)
            for rung, (begin, end) in enumerate(itertools.pairwise(bounds))
        ) / (len(self.variants) * bounds[-1])
        return max(1, round(share * mean * len(self.variants)))

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON: that of the first variant, and in `search` all of them."""
        plans = [variant.plan for variant in self.variants]
        whole = sum(variant.epochs for variant in self.variants)
        seconds = sum(plan.estimated_seconds() for plan in plans) * self.epochs / whole
        if self.refits:
            seconds += max(plan.estimated_seconds() for plan in plans)
        first = plans[0].describe()
        warnings = dict.fromkeys(text for plan in plans for text in plan.warnings)
        return first | {
            "estimated_memory_bytes": max(plan.estimated_bytes() for plan in plans)
            + sum(20 * plan.graph.parameter_count for plan in plans[1:]),
            "estimated_seconds": round(seconds, 3),
            "warnings": list(warnings),
            "search": {
                "num_variants": len(plans),
                "select": self.select,
                "refit": self.refits,
                "keep": self.search.keep,
                "rungs": [
                    {"epoch": epoch, "left": self.left_after(rung)}
                    for rung, epoch in enumerate(self.rungs, start=1)
                ],
                "variants": [
                    {
                        "index": planned.variant.index,
                        "overrides": planned.variant.overrides,
                        "epochs": planned.epochs,
                        "parameter_count": planned.plan.graph.parameter_count,
                        "estimated_seconds": round(planned.plan.estimated_seconds(), 3),
                    }
                    for planned in self.variants
                ],
            },
        }


def plan_search(
    search: SearchSpec,
    base: TrainSpec,
    data: Data,
    validation_data: Data | None = None,
    *,
    calibration_data: Data | None = None,
    schema: Schema | None = None,
    resident_bytes: int | None = None,
) -> SearchPlan:
    """Check a search and each of its variants; raises EngineError with a pointer into the request.

    The rest is as `plan_training` takes it.
    """
    schema = schema or profile(data)
    refits = _refits(search, base)
    by_network: dict[str, TrainingPlan] = {}
    planned: list[PlannedVariant] = []
    for variant in variants_of(search, seed=base.seed):
        spec = spec_of(base, variant)
        try:
            if finds_rate(spec.optimizer):
                raise SpecError(
                    "'find' is for a job alone, and variants of a search are compared at rates "
                    "that are known; give a number, or let `optimizer.learning_rate` vary",
                    pointer="#/optimizer/learning_rate",
                )
            network = spec.network.model_dump_json()
            if network not in by_network:
                by_network[network] = plan_training(
                    spec,
                    data,
                    validation_data,
                    calibration_data=calibration_data,
                    schema=schema,
                    resident_bytes=resident_bytes,
                )
                first = next(iter(by_network.values()))
                _check_same_rows(by_network[network], first)
                if search.keep == "ensemble":
                    _check_predicts_same(by_network[network].graph, first.graph)
                if refits:
                    plan_training(
                        refit_spec(spec, 1, None),
                        data,
                        calibration_data=calibration_data,
                        reserved=first.split.reserved,
                        schema=schema,
                        resident_bytes=resident_bytes,
                    )
            plan = vary(by_network[network], spec, data)
        except EngineError as error:
            pointer = variant.located(error.pointer)
            kind = SpecError if isinstance(error, SpecError) else type(error)
            raise kind(f"variant {variant.index}: {error.detail}", pointer=pointer) from error
        planned.append(PlannedVariant(variant=variant, plan=plan))
    plan = planned[0].plan
    return SearchPlan(
        search=search,
        variants=tuple(planned),
        select=_select(search, plan),
        refits=refits and plan.valid_rows > 0,
        resident_bytes=resident_bytes,
    )


def _refits(search: SearchSpec, base: TrainSpec) -> bool:
    validation = base.validation
    elsewhere = isinstance(validation, ValidationSpec) and validation.dataset is not None
    if elsewhere and search.refit:
        raise SpecError(
            "`refit` trains on the rows of the job's own data set, and those that validate are in "
            "another, so there is nothing to add to them; leave `refit` out",
            pointer="#/search/refit",
        )
    if search.keep == "ensemble":
        return False
    if search.refit is not None:
        return search.refit
    return bool(validation) and not elsewhere


def _check_same_rows(plan: TrainingPlan, first: TrainingPlan) -> None:
    """Refuse a network that wants the rows read otherwise than the others do."""
    same = (
        # What encodings have worked out by now is no part of them, and has no one truth value.
        plan.encoding.model_dump() == first.encoding.model_dump()
        and plan.selection.form == first.selection.form
        and np.array_equal(plan.split.train, first.split.train)
    )
    if not same:
        raise SpecError(
            "the data are read otherwise for this network than for the first variant's, and "
            "variants are compared on the same inputs, targets and rows",
            pointer="#/network",
        )


def _check_predicts_same(graph: Graph, first: Graph) -> None:
    if predicts(graph) != predicts(first):
        raise SpecError(
            "members of an ensemble predict the same: their last layers have the same name, and so "
            "have those of learnt variances, with the same `covar_eps`",
            pointer="#/network",
        )


def _select(search: SearchSpec, plan: TrainingPlan) -> str:
    names = _CLASSIFICATION if plan.graph.form == "classifier" else _REGRESSION
    exist = [f"valid.{name}" for name in names] if plan.valid_rows else []
    exist.append("train.loss")
    if search.select is None:
        return exist[0]
    if search.select not in exist:
        without = "" if plan.valid_rows else " without validation rows"
        raise SpecError(
            f"{search.select!r} cannot decide; of this job{without} these can: {', '.join(exist)}",
            pointer="#/search/select",
        )
    return search.select


def refit_spec(
    spec: TrainSpec, epochs: int, noise_precision: Mapping[str, float] | None
) -> TrainSpec:
    """Return what trains a variant once more on all the rows that it was chosen by.

    Calibration rows stay those that they were: the first plan's, which are to be given with it.
    """
    rows = spec.rows
    if rows is not None and isinstance(spec.validation, ValidationSpec):
        rows = tuple(sorted({*rows, *(spec.validation.rows or ())}))
    fixed = spec.noise_precision if noise_precision is None else dict(noise_precision)
    return spec.model_copy(
        update={
            "rows": rows,
            "validation": None,
            "epochs": epochs,
            "patience": None,
            "optimizer": with_span(spec.optimizer, spec.epochs),
            "noise_precision": fixed,
        }
    )
