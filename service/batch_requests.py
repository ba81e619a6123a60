"""What is asked of `POST /predictions`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, Strict

from engine.spec import PredictSpec, Spec
from service.job_options import Limits, Name, Tags

__all__ = ["PredictionsRequest", "StoredInputs"]


class CheckpointSeconds(Spec):
    """How often what is done is kept, so that a kill costs no more than what came since."""

    seconds: Annotated[float, Strict(), Field(gt=0, le=86400)] = 30.0


class StoredInputs(Spec):
    """Rows of a stored data set."""

    dataset: Annotated[str, Field(min_length=1, max_length=64)]
    """Id of the data set."""
    rows: Annotated[list[Annotated[int, Strict(), Field(ge=0)]], Field(min_length=1)] | None = None
    """Numbers of its rows, counted from 0; all that can be predicted when absent."""


def _stored(inputs: Any) -> Any:
    """Refuse rows that come with the request, and say what to do with them."""
    if isinstance(inputs, list) or (isinstance(inputs, dict) and "dataset" not in inputs):
        raise ValueError(
            'must be rows of a stored data set, {"dataset": "ds_…"}: store these rows by '
            "POST /datasets, or ask POST /predict"
        )
    return inputs


class PredictionsRequest(PredictSpec):
    """What to predict for the rows of a stored data set, as a job."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "mdl_01k9t3v5rqk2m8xw4c7h1n6b0e",
                    "inputs": {"dataset": "ds_01k9t3v5rqk2m8xw4c7h1n6b0e"},
                    "num_samples": 100,
                    "seed": 7,
                    "key": "id",
                }
            ]
        }
    )

    model: Annotated[str, Field(min_length=1, max_length=64)]
    """Id or alias of the model; the job keeps to the model that the alias points at now."""
    inputs: Annotated[StoredInputs, BeforeValidator(_stored)]
    """Rows of a stored data set."""
    key: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """A column of the data set that the result has, too."""
    name: Name | None = None
    """Name of the job and of the data set that it leaves."""
    tags: Tags = Field(default_factory=dict)
    checkpoint_every: CheckpointSeconds = CheckpointSeconds()
    limits: Limits | None = None

    def spec(self) -> PredictSpec:
        """Return the engine's part of the request."""
        return PredictSpec.model_construct(
            **{name: getattr(self, name) for name in PredictSpec.model_fields}
        )
