"""Predictions for stored data sets: a request checked as a whole, then queued."""

from __future__ import annotations

import secrets
from functools import partial

import numpy as np
from fastapi import APIRouter, Request, Response

from engine.data import formats
from engine.spec import MAX_SEED
from service.batch import Batch
from service.batch_requests import PredictionsRequest
from service.bodies import StrictRoute
from service.deps import (
    BlobsDep,
    DatasetsDep,
    IdempotencyHeader,
    JobsDep,
    ModelsDep,
    OwnerDep,
    PredictorDep,
    SettingsDep,
)
from service.problems import problems
from service.routes.queueing import PreferHeader, answer_queued, check_memory
from service.schemas import JobView
from service.store.idempotency import Remember
from service.store.jobs import Job, NewJob

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
    request: Request,
    body: PredictionsRequest,
    datasets: DatasetsDep,
    models: ModelsDep,
    predictor: PredictorDep,
    jobs: JobsDep,
    blobs: BlobsDep,
    owner: OwnerDep,
    settings: SettingsDep,
    prefer: PreferHeader = None,
    idempotency_key: IdempotencyHeader = None,
) -> Response:
    """Queue predictions for the rows of a stored data set; follow `Location` to their data set.

    The body is that of `/predict`, and so are the numbers, to the bit. The job's `spec` has the
    model's id and the seed, also where an alias and none were given.
    """
    check_memory(body.limits, settings)
    asked = body.model_dump(mode="json")

    def create(remember: Remember[Job] | None) -> Job:
        stored = models.resolve(body.model)
        dataset = datasets.get(body.inputs.dataset, pointer="#/inputs/dataset")
        seed = body.seed if body.seed is not None else secrets.randbelow(MAX_SEED + 1)
        rows = body.inputs.rows
        Batch(
            body.spec(),
            seed=seed,
            model=predictor.loaded.get(stored),
            data=blobs.load(dataset.blob, partial(formats.load, kind=dataset.kind)),
            rows=None if rows is None else np.array(rows, dtype=np.int64),
            key=body.key,
        ).check()
        new = NewJob(
            kind="predict",
            spec=asked | {"model": stored.id, "seed": seed},
            datasets={dataset.id: "#/inputs/dataset"},
            models={stored.id: "#/model"},
            name=body.name,
            tags=body.tags,
            owner=owner,
        )
        return jobs.create(new, remember=remember)

    return await answer_queued(
        request, jobs, asked, create, idempotency_key=idempotency_key, prefer=prefer
    )
