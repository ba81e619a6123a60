"""Explanations: how much of the passes' variance each site of dropout or noise accounts for.

One site after another is left acting alone, with the masks and noise that it has beside the others:
a stream is keyed by seed, pattern and output, so that only what the others do is taken away. Of an
ensemble a site is where its members drop the same output, and the members themselves account for
what is left where nothing is dropped at all. What all this does not add up to is the interaction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.data.inputs import Inputs
from engine.ensembles import EnsemblePlan
from engine.errors import SpecError
from engine.estimation import never
from engine.prediction import PredictionPlan
from engine.regularizers import Perturbation, Regularizer, Site, sites_of
from engine.summary import Tree

__all__ = ["Explanation", "plan_explanation"]

Array = npt.NDArray[np.float64]
Measures = dict[str, Array]
Run = Callable[[PredictionPlan], Tree]

_STATISTIC = "std"
_INFORMATION = "mutual_information"


@dataclass(frozen=True, kw_only=True)
class _Source:
    """A site, in each member that has it; a network alone is its only member."""

    site: Site
    pattern: str | None
    levels: tuple[float, ...]
    alone: tuple[PredictionPlan, ...]
    """The plans of the members that have it, in which nothing else acts."""

    def described(self) -> dict[str, Any]:
        return {
            "site": self.site.output,
            "kind": "drop_connect" if self.site.kind == "connection" else self.site.kind,
            "pattern": self.pattern,
            "level": self.levels[0] if len(set(self.levels)) == 1 else None,
        }


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """The sites of a prediction, and the plans of each alone."""

    plan: PredictionPlan
    sources: tuple[_Source, ...]

    def cost(self, rows: int) -> float:
        """Return about how many floating-point operations it takes, beside the prediction."""
        plans = [self._together, *(plan for source in self.sources for plan in source.alone)]
        return sum(plan.cost(rows)[0] for plan in plans)

    def answer_size(self, rows: int) -> int:
        """Return about how many numbers it is told by."""
        outputs = self.plan.model.graph.size_of(self.plan.model.graph.last.out)
        return rows * (outputs + len(self._asked) - 1) * (2 * len(self.sources) + 5)

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
        """Return what all sites come to together, each alone, and their interaction.

        `found` is the prediction's answer of so many `passes`. Variances are in original units^2,
        of a classifier those of its probabilities, (rows, *outputs); of that there is the mutual
        information, too, (rows, …). Shares of what is 0 are NaN.
        """

        def run(plan: PredictionPlan) -> Tree:
            return plan.of_passes(passes).run(x, row_ids, stop=stop, threads=threads)

        is_whole = all(name in found for name in self._asked)
        total = _measures(found if is_whole else run(self._together))
        apart = [self._within(source, run, passes, total) for source in self.sources]
        members = None
        if self._members > 1:
            members = _measures(run(self._silent))
        parts = [*apart, *([] if members is None else [members])]
        rest = {
            name: whole - np.add.reduce([own[name] for own in parts])
            for name, whole in total.items()
        }
        return {
            **total,
            "sites": [
                source.described() | _shared(own, total)
                for source, own in zip(self.sources, apart, strict=True)
            ],
            "members": None if members is None else _shared(members, total),
            "interaction": _shared(rest, total),
        }

    def _within(
        self, source: _Source, run: Run, passes: int, total: Mapping[str, Array]
    ) -> Measures:
        """Return what a site alone comes to, of an ensemble what it does within the members.

        Of M members' T passes the deviations within each, (T - 1) of its variance, are shares of
        the TM - 1 degrees of freedom that the variance of all together has.
        """
        within = {name: np.zeros_like(whole) for name, whole in total.items()}
        freedom = (passes - 1) / (passes * self._members - 1)
        factors = {"variance": freedom, _INFORMATION: 1 / self._members}
        for plan in source.alone:
            for name, own in _measures(run(plan)).items():
                within[name] += factors[name] * own
        return within

    @property
    def _members(self) -> int:
        return max(1, len(self.plan.model.members))

    @property
    def _asked(self) -> tuple[str, ...]:
        return _asked(self.plan)

    @cached_property
    def _together(self) -> PredictionPlan:
        return _measuring(self.plan)

    @cached_property
    def _silent(self) -> PredictionPlan:
        """The plan in which nothing acts."""
        return _measuring(self.plan, ())


def _asked(plan: PredictionPlan) -> tuple[str, ...]:
    is_classifier = plan.model.graph.form == "classifier"
    return (_STATISTIC, _INFORMATION) if is_classifier else (_STATISTIC,)


def _measures(found: Tree) -> Measures:
    own = {"variance": np.square(np.asarray(found[_STATISTIC], dtype=np.float64))}
    if _INFORMATION in found:
        own[_INFORMATION] = np.asarray(found[_INFORMATION], dtype=np.float64)
    return own


def _measuring(
    plan: PredictionPlan, regularizers: tuple[Regularizer, ...] | None = None
) -> PredictionPlan:
    """Return the plan of what is explained and of nothing else, of all or these regularizers."""
    asked: Any = _asked(plan)
    changed: dict[str, Any] = {
        "statistics": asked,
        "outputs": (),
        "abstain": None,
        "tolerance": None,
        "explain": False,
    }
    spec = plan.spec.model_copy(update=changed)
    summary = replace(plan.summary, spec=spec, asked=asked, tolerance=None, abstention=None)
    fields: dict[str, Any] = {"spec": spec, "summary": summary, "statistics": asked, "extra": ()}
    if regularizers is not None:
        fields["regularizers"] = regularizers
    if isinstance(plan, EnsemblePlan):
        fields["members"] = tuple(_measuring(own, regularizers) for own in plan.members)
    return replace(plan, **fields)


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


def _shared(own: Mapping[str, Array], total: Mapping[str, Array]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name, values in own.items():
        share = np.full(total[name].shape, np.nan)
        np.divide(values, total[name], out=share, where=total[name] > 0)
        told |= {name: values, "share" if name == "variance" else f"{name}_share": share}
    return told


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
    members = plan.members if isinstance(plan, EnsemblePlan) else (plan,)
    sources = _sources(members)
    if not sources and len(members) == 1:
        raise SpecError(
            "nothing is dropped and no noise is added, so there is no variance to explain; give "
            "rates above 0, or leave the dropout and noise keys out for those of training",
            pointer="#/explain",
        )
    return Explanation(plan=plan, sources=sources)


def _sources(members: Sequence[PredictionPlan]) -> tuple[_Source, ...]:
    """Put the sites of all members together, by what they act on and their place there."""
    found: dict[tuple[str, str, int], list[tuple[PredictionPlan, Site]]] = {}
    for plan in members:
        seen: dict[tuple[str, str], int] = {}
        for site in _sites(plan):
            what = (site.kind, site.output)
            seen[what] = seen.get(what, -1) + 1
            found.setdefault((*what, seen[what]), []).append((plan, site))
    return tuple(
        _Source(
            site=own[0][1],
            pattern=own[0][0].regularizers[own[0][1].regularizer].pattern,
            levels=tuple(site.level for _, site in own),
            alone=tuple(_measuring(plan, _alone(plan.regularizers, site)) for plan, site in own),
        )
        for own in found.values()
    )


def _sites(plan: PredictionPlan) -> list[Site]:
    """Return the sites that act, in the order of their regularizers."""
    acting = (site for own in sites_of(plan.regularizers).values() for site in own if site.acts)
    return sorted(acting, key=lambda site: site.regularizer)
