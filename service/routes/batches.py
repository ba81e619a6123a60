"""Predictions for stored data sets: a request checked as a whole, then queued."""

from __future__ import annotations

import numpy as np
from fastapi import APIRouter, Response

from engine.artifact import Model
from service.batch import Batch
from service.batch_requests import PredictionsRequest
from service.bodies import StrictRoute
from service.deps import StoredDataDep
from service.problems import problems
from service.routes.queueing import ModelJobsDep
from service.schemas.jobs import JobView
from service.store.models import Model as StoredModel

__all__ = ["router"]

router = APIRouter(tags=["predictions"], route_class=StrictRoute)


@router.post(
    "/predictions",
    operation_id="predictStored",
    status_code=202,
    response_model=JobView,
    responses=problems(400, 404, 409, 413, 415, 422, 503, 507),
)
async def predict_stored(
    body: PredictionsRequest, queue: ModelJobsDep, stored_data: StoredDataDep
) -> Response:
    """Queue predictions for the rows of a stored data set; follow `Location` to their data set.

    The body is that of `/predict`, and so are the numbers, to the bit. The job's `spec` has the
    model's id and the seed, also where an alias and none were given.
    """

    def check(_stored: StoredModel, model: Model, seed: int) -> dict[str, str]:
        rows = body.inputs.rows
        Batch(
            body.spec(),
            seed=seed,
            model=model,
            data=stored_data.load(body.inputs.dataset, "#/inputs/dataset"),
            rows=None if rows is None else np.array(rows, dtype=np.int64),
            key=body.key,
        ).check()
        return {body.inputs.dataset: "#/inputs/dataset"}

    return await queue.answer("predict", body, body.model, check)
