"""Ensembles: models that predict the same, whose members' passes count as one another's.

Each member draws as many passes as are asked for, by streams of its own, and they take turns: pass
0 of each, pass 1 of each, … So all statistics are of the mixture (Lakshminarayanan et al. 2017).
The members themselves are given and not drawn: the standard error is that of their passes alone.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.abstention import abstention_of, check_reach
from engine.artifact import MEMBER_KEYS, Model, Weights, weights_of
from engine.data.inputs import Inputs
from engine.errors import EngineError, SpecError
from engine.estimation import OWN, Passes
from engine.layers import Shape
from engine.names import plain_name
from engine.prediction import PredictionPlan, never, plan_prediction, with_calibration
from engine.sampling import PreparedRows, Sampler
from engine.spec import PredictSpec
from engine.streams import stream_key
from engine.summary import Tree

__all__ = ["EnsemblePlan", "ensemble_document", "member_seed", "plan_model"]

Samples = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


def ensemble_document(
    members: Sequence[tuple[Mapping[str, Any], Weights]], metrics: Mapping[str, Any]
) -> tuple[dict[str, Any], bytes]:
    """Return the document and the safetensors file of an ensemble of models on the same encoding.

    `members` are documents and parameters, the best first: it stands for all where one is told.
    """
    values = {
        f"{index}.{name}": value
        for index, (_, own) in enumerate(members)
        for name, value in own.items()
    }
    weights = weights_of(values)
    parameters = {
        f"{index}.{name}": shape
        for index, (own, _) in enumerate(members)
        for name, shape in own["parameters"].items()
    }
    document = {
        **members[0][0],
        "parameters": parameters,
        "parameter_count": sum(own["parameter_count"] for own, _ in members),
        "weights": {"sha256": hashlib.sha256(weights).hexdigest(), "bytes": len(weights)},
        "metrics": dict(metrics),
        "members": [{key: own[key] for key in MEMBER_KEYS} for own, _ in members],
    }
    return document, weights


def plan_model(model: Model, spec: PredictSpec, *, seed: int, alone: bool = True) -> PredictionPlan:
    """Resolve a request to a model, which may be an ensemble; see `plan_prediction`."""
    if not model.members:
        return plan_prediction(model, spec, seed=seed, alone=alone)
    for name in ("start", "generate"):
        if getattr(spec, name) is not None:
            raise SpecError(
                f"the model is an ensemble, whose members' layers differ; leave `{name}` out",
                pointer=f"#/{name}",
            )
    abstention = abstention_of(model, spec)
    check_reach(model, spec)
    plans = [_member_plan(model, index, spec, seed) for index in range(len(model.members))]
    first = plans[0]
    for index, plan in enumerate(plans):
        shapes = [
            [own.model.graph.outputs.get(name) for name in own.extra] for own in (first, plan)
        ]
        if plan.extra != first.extra or shapes[0] != shapes[1]:
            raise SpecError(
                f"member {index} of the ensemble has other outputs by these names than the first; "
                "leave `outputs` out",
                pointer="#/outputs",
            )
    fields = {name: getattr(first, name) for name in PredictionPlan.__dataclass_fields__}
    fields |= {
        "model": model,
        "summary": replace(first.summary, model=model, abstention=abstention),
        "regularizers": tuple(dict.fromkeys(r for plan in plans for r in plan.regularizers)),
        "warnings": list(dict.fromkeys(text for plan in plans for text in plan.warnings)),
    }
    return with_calibration(EnsemblePlan(**fields, members=tuple(plans)))


def _shapes(plan: PredictionPlan) -> list[Shape]:
    return [plan.model.graph.outputs[plain_name(name)] for name in plan.extra]


def _member_plan(model: Model, index: int, spec: PredictSpec, seed: int) -> PredictionPlan:
    try:
        own = model.members[index]
        return plan_prediction(own, spec, seed=member_seed(seed, index), alone=False)
    except EngineError as error:
        error.detail = f"member {index} of the ensemble: {error.detail}"
        raise


def member_seed(seed: int, index: int) -> int:
    """Return the seed of a member's streams; the first one's are those that it has alone."""
    return seed if index == 0 else stream_key(seed, "member", index) % 2**53


@dataclass(frozen=True, kw_only=True)
class EnsemblePlan(PredictionPlan):
    """A prediction request resolved against an ensemble, of which the first member is `model`."""

    members: tuple[PredictionPlan, ...]

    @cached_property
    def flops_per_draw(self) -> float:
        """About how many floating-point operations one pass of one row takes, by all members."""
        return sum(plan.flops_per_draw for plan in self.members)

    def cost(self, rows: int) -> tuple[float, int]:
        """Return about how many floating-point operations `rows` rows take, and numbers held."""
        flops, held = zip(*(plan.cost(rows) for plan in self.members), strict=True)
        return sum(flops), sum(held)

    def again(self, *, seed: int, row_offset: int) -> PredictionPlan:
        """Return the same plan for another seed and offset; what it has worked out is shared."""
        members = tuple(
            plan.again(seed=member_seed(seed, index), row_offset=row_offset)
            for index, plan in enumerate(self.members)
        )
        other = copy.copy(self)
        spec = self.spec.model_copy(update={"row_offset": row_offset})
        for name, value in {"seed": seed, "members": members, "spec": spec}.items():
            object.__setattr__(other, name, value)
        return other

    def is_compiled(self, x: Inputs) -> bool:
        """Whether the compiled kernels compute all of it, for rows of which `x` is given."""
        return all(plan.is_compiled(x) for plan in self.members)

    def acting(self) -> list[dict[str, Any]]:
        """Return what each member drops and adds."""
        return [own for plan in self.members for own in plan.acting()]

    @cached_property
    def batch_key(self) -> Hashable:
        """Ensembles run alone."""
        return object()

    def outputs(
        self,
        x: Inputs,
        row_ids: Indices,
        *,
        seeds: Sequence[int] | None = None,
        stop: Callable[[], bool] = never,
        threads: int = 1,
    ) -> Tree:
        """Return the outputs of `num_samples` passes of each member, or the mean of one of each."""
        if self.num_samples is not None:
            return super().outputs(x, row_ids, seeds=seeds, stop=stop, threads=threads)
        drawn = self._passes(stop, threads).prepare(x, row_ids, seeds).draw(0, 1)
        own = self.readings[OWN]
        mean = {name: _mean(value) for name, value in drawn.items() if name in self.extra}
        return self.summary.of_one(_mean(own.of(drawn[own.output])), x) | mean

    def _passes(self, stop: Callable[[], bool], threads: int) -> Passes:
        return _Together([plan.sampler(stop, threads) for plan in self.members])


def _mean(samples: Samples) -> Samples:
    mean: Samples = samples.mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean


class _Together:
    """The samplers of all members, whose passes take turns."""

    def __init__(self, samplers: Sequence[Sampler]) -> None:
        self._samplers = samplers
        partition = samplers[0].partition
        # What no mask reaches differs between members all the same.
        self.stochastic = (*samplers[0].stochastic, *partition.deterministic)

    @property
    def seed(self) -> int:
        return self._samplers[0].seed

    @property
    def members(self) -> int:
        return len(self._samplers)

    @property
    def numbers_per_row(self) -> int:
        return sum(sampler.numbers_per_row for sampler in self._samplers)

    def size_of(self, name: str) -> int:
        return self._samplers[0].size_of(name)

    def prepare(
        self, x: Inputs, row_ids: Indices, seeds: Sequence[int] | None = None
    ) -> _RowsTogether:
        """Prepare rows for each member; `seeds` are those of the first."""
        prepared = []
        for index, sampler in enumerate(self._samplers):
            own = None if seeds is None else [member_seed(seed, index) for seed in seeds]
            prepared.append(sampler.prepare(x, row_ids, own))
        return _RowsTogether(self._samplers, prepared, self.stochastic)


class _RowsTogether:
    """Some rows as every member has prepared them."""

    def __init__(
        self,
        samplers: Sequence[Sampler],
        prepared: Sequence[PreparedRows],
        wanted: Sequence[str],
    ) -> None:
        self.deterministic: Mapping[str, Samples] = {}
        self._wanted = wanted
        self._pairs = list(zip(samplers, prepared, strict=True))

    def draw(self, first: int, count: int) -> dict[str, Samples]:
        """Return so many passes of each member, (count x members, rows, *shape)."""
        drawn = []
        for sampler, rows in self._pairs:
            own = {
                name: np.broadcast_to(value, (count, *value.shape))
                for name, value in rows.deterministic.items()
            }
            if sampler.stochastic:
                own |= rows.draw(first, count)
            drawn.append(own)
        together = {}
        for name in self._wanted:
            turns = np.stack([own[name] for own in drawn], axis=1)
            together[name] = turns.reshape(-1, *turns.shape[2:])
        return together
