"""Evaluations as they are asked for and answered, online and by jobs."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from engine.artifact import Model
from engine.assessment import Assessment
from engine.data.dataset import Data
from engine.spec import EvaluateSpec
from engine.streams import STREAM_VERSION

__all__ = ["EvaluateRequest", "answer_of", "assess"]


class EvaluateRequest(EvaluateSpec):
    """How good a model is, and how well it knows: measured on rows whose truths are known."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "mdl_01k9t3v5rqk2m8xw4c7h1n6b0e",
                    "dataset": "ds_01k9t3v5rqk2m8xw4c7h1n6b0e",
                    "num_samples": 100,
                    "seed": 7,
                }
            ]
        }
    )

    model: Annotated[str, Field(min_length=1, max_length=64)]
    """Id or alias of the model."""
    dataset: Annotated[str, Field(min_length=1, max_length=64)]
    """Id of the data set, which has the columns (arrays) that the model reads and its targets."""

    def spec(self) -> EvaluateSpec:
        """Return the engine's part of the request."""
        return EvaluateSpec.model_construct(
            **{name: getattr(self, name) for name in EvaluateSpec.model_fields}
        )


def assess(
    spec: EvaluateSpec, *, model: Model, data: Data, other: Data | None, seed: int
) -> Assessment:
    """Resolve an evaluation; `other` is the data set that `ood` names. Raises EngineError."""
    return Assessment(model, spec, seed=seed, data=data, other=other)


def answer_of(
    assessment: Assessment, *, model_id: str, dataset_id: str, is_seed_given: bool
) -> dict[str, Any]:
    """Return what is answered: the scores, and enough to ask for the same again."""
    plan = assessment.plan
    result = assessment.result()
    warnings = result.pop("warnings")
    shows_seed = is_seed_given or plan.draws
    return {
        "model": model_id,
        "dataset": dataset_id,
        **result,
        "dropout": plan.dropout(),
        "noise": plan.noise(),
        "drop_connect": plan.drop_connect(),
        "num_samples": plan.num_samples,
        "seed": plan.seed if shows_seed else None,
        "masks": plan.spec.masks,
        "row_offset": plan.spec.row_offset,
        "stream": STREAM_VERSION,
        "warnings": warnings,
    }
