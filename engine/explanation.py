"""Explanations: how much of the passes' variance each site of dropout or noise accounts for.

One site after another is left acting alone, with the masks and noise that it has beside the others:
a stream is keyed by seed, pattern and output, so that only what the others do is taken away. What
the sites' variances do not add up to is their interaction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.data.inputs import Inputs
from engine.errors import SpecError
from engine.estimation import never
from engine.prediction import PredictionPlan
from engine.regularizers import Perturbation, Regularizer, Site, sites_of
from engine.summary import Tree

__all__ = ["Explanation", "plan_explanation"]

Array = npt.NDArray[np.float64]
_STATISTIC = "std"


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """The sites of a prediction, and the plans of each alone."""

    plan: PredictionPlan
    sites: tuple[Site, ...]

    def cost(self, rows: int) -> float:
        """Return about how many floating-point operations it takes, beside the prediction."""
        return sum(plan.cost(rows)[0] for plan in (self._together, *self._alone))

    def answer_size(self, rows: int) -> int:
        """Return about how many numbers it is told by."""
        outputs = self.plan.model.graph.size_of(self.plan.model.graph.last.out)
        return rows * outputs * (2 * len(self.sites) + 3)

    def run(
        self,
        x: Inputs,
        row_ids: npt.NDArray[np.int64],
        found: Tree,
        *,
        passes: int,
        stop: Callable[[], bool] = never,
        threads: int = 1,
    ) -> dict[str, Any]:
        """Return the variance of all sites together, of each alone, and of their interaction.

        `found` is the prediction's answer of so many `passes`. Variances are in original units^2,
        of a classifier those of its probabilities, (rows, *outputs); shares of a variance of 0 are
        NaN.
        """

        def variance(plan: PredictionPlan) -> Array:
            ran = plan.of_passes(passes).run(x, row_ids, stop=stop, threads=threads)
            return np.asarray(np.square(ran[_STATISTIC]))

        total = np.square(found[_STATISTIC]) if _STATISTIC in found else variance(self._together)
        apart = [variance(plan) for plan in self._alone]
        rest = total - np.add.reduce(apart)
        sites = [
            self._described(site) | _shared(own, total)
            for site, own in zip(self.sites, apart, strict=True)
        ]
        return {"variance": total, "sites": sites, "interaction": _shared(rest, total)}

    def _described(self, site: Site) -> dict[str, Any]:
        regularizer = self.plan.regularizers[site.regularizer]
        return {
            "site": site.output,
            "kind": "drop_connect" if site.kind == "connection" else site.kind,
            "pattern": regularizer.pattern,
            "level": site.level,
        }

    @cached_property
    def _together(self) -> PredictionPlan:
        return self._of(self.plan.regularizers)

    @cached_property
    def _alone(self) -> tuple[PredictionPlan, ...]:
        return tuple(self._of(_alone(self.plan.regularizers, site)) for site in self.sites)

    def _of(self, regularizers: tuple[Regularizer, ...]) -> PredictionPlan:
        """Return the plan of the deviation under these regularizers, and of nothing else."""
        asked: Any = (_STATISTIC,)
        changed: dict[str, Any] = {
            "statistics": asked,
            "outputs": (),
            "abstain": None,
            "tolerance": None,
        }
        changed["explain"] = False
        spec = self.plan.spec.model_copy(update=changed)
        summary = replace(
            self.plan.summary, spec=spec, asked=asked, tolerance=None, abstention=None
        )
        return replace(
            self.plan,
            spec=spec,
            summary=summary,
            regularizers=regularizers,
            statistics=asked,
            extra=(),
        )


def _alone(regularizers: Sequence[Regularizer], site: Site) -> tuple[Regularizer, ...]:
    """Let one site alone act; the others keep their place, so that its stream stays its own."""
    kept: list[Regularizer] = []
    for index, regularizer in enumerate(regularizers):
        if not isinstance(regularizer, Perturbation):
            continue
        for name in regularizer.matched:
            acts = (index, name) == (site.regularizer, site.output)
            weight = regularizer.weight if acts else 0.0
            kept.append(replace(regularizer, matched=(name,), weight=weight))
    return tuple(kept)


def _shared(variance: Array, total: Array) -> dict[str, Any]:
    share = np.full(total.shape, np.nan)
    np.divide(variance, total, out=share, where=total > 0)
    return {"variance": variance, "share": share}


def plan_explanation(plan: PredictionPlan) -> Explanation:
    """Resolve a request with `explain`; raise SpecError where there is no variance to explain."""
    spec = plan.spec
    if spec.num_samples is None or spec.num_samples < 2:
        raise SpecError(
            "`explain` shares out the variance of several passes; give `num_samples` of 2 or more",
            pointer="#/explain",
        )
    for name in ("budget_ms", "generate"):
        if getattr(spec, name) is not None:
            raise SpecError(
                f"`explain` draws as many passes for each site, whatever `{name}` says; leave one "
                "of them out",
                pointer=f"#/{name}",
            )
    if plan.model.members:
        raise SpecError(
            "the model is an ensemble, whose members differ by more than their masks; leave "
            "`explain` out",
            pointer="#/explain",
        )
    sites = tuple(
        sorted(
            (site for own in sites_of(plan.regularizers).values() for site in own if site.acts),
            key=lambda site: site.regularizer,
        )
    )
    if not sites:
        raise SpecError(
            "nothing is dropped and no noise is added, so there is no variance to explain; give "
            "rates above 0, or leave the dropout and noise keys out for those of training",
            pointer="#/explain",
        )
    return Explanation(plan=plan, sites=sites)
