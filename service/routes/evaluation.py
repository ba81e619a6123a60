"""Evaluations: online, or as a job."""

from __future__ import annotations

import secrets

from fastapi import APIRouter, Request, Response

from engine.errors import StoppedError
from engine.spec import MAX_SEED
from service.bodies import StrictRoute
from service.deps import (
    DatasetsDep,
    EvaluatorDep,
    IdempotencyHeader,
    JobsDep,
    ModelsDep,
    OwnerDep,
    PredictorDep,
    SettingsDep,
    ViewerDep,
)
from service.evaluation_requests import EvaluationsRequest, EvaluationView
from service.evaluations import EvaluateRequest, assess
from service.problems import problems
from service.routes.queueing import PreferHeader, answer_queued, check_memory
from service.routes.wanted import CLIENT_CLOSED, Gone, while_wanted
from service.schemas import JobView
from service.store.idempotency import Remember
from service.store.jobs import Job, NewJob

__all__ = ["router"]

router = APIRouter(tags=["evaluations"], route_class=StrictRoute)


@router.post(
    "/evaluate",
    operation_id="evaluate",
    response_model=EvaluationView,
    responses=problems(400, 404, 413, 415, 422, 503),
)
async def evaluate(
    request: Request,
    body: EvaluateRequest,
    evaluator: EvaluatorDep,
    viewer: ViewerDep,
    owner: OwnerDep,
) -> Response:
    """Measure a model on rows of a stored data set: how good it is, and how well it knows.

    Dropout, noise, passes, masks and seed are asked for as in `/predict`, and the passes are its,
    to the bit. Without `num_samples` there is one pass (of an ensemble one of each member). A
    caller that disconnects ends the work.
    """
    try:
        content = await while_wanted(request, evaluator.evaluate(body, viewer=viewer, owner=owner))
    except (Gone, StoppedError):
        return Response(status_code=CLIENT_CLOSED)  # nobody reads it
    return Response(content, media_type="application/json")


@router.post(
    "/evaluations",
    operation_id="evaluateAsJob",
    status_code=202,
    response_model=JobView,
    responses=problems(400, 404, 409, 413, 415, 422, 503, 507),
)
async def evaluate_as_job(
    request: Request,
    body: EvaluationsRequest,
    evaluator: EvaluatorDep,
    datasets: DatasetsDep,
    models: ModelsDep,
    predictor: PredictorDep,
    jobs: JobsDep,
    owner: OwnerDep,
    viewer: ViewerDep,
    settings: SettingsDep,
    prefer: PreferHeader = None,
    idempotency_key: IdempotencyHeader = None,
) -> Response:
    """Queue an evaluation; what `/evaluate` answers is then in the job's `metrics`, as `test`.

    For more rows or passes than are measured online. The request is checked as a whole before it is
    a job; the job's `spec` has the model's id and the seed, also where an alias and none were
    given.
    """
    check_memory(body.limits, settings)
    asked = body.model_dump(mode="json")

    def create(remember: Remember[Job] | None) -> Job:
        stored = models.resolve(body.model)
        needed = {datasets.get(body.dataset, pointer="#/dataset").id: "#/dataset"}
        other = None
        if body.ood is not None:
            other = evaluator.data(body.ood.dataset, "#/ood/dataset", viewer)
            needed.setdefault(body.ood.dataset, "#/ood/dataset")
        seed = body.seed if body.seed is not None else secrets.randbelow(MAX_SEED + 1)
        assess(
            body.spec(),
            model=predictor.loaded.get(stored),
            data=evaluator.data(body.dataset, "#/dataset", viewer),
            other=other,
            seed=seed,
        ).check()
        new = NewJob(
            kind="evaluate",
            spec=asked | {"model": stored.id, "seed": seed},
            datasets=needed,
            models={stored.id: "#/model"},
            name=body.name,
            tags=body.tags,
            owner=owner,
        )
        return jobs.create(new, remember=remember)

    return await answer_queued(
        request, jobs, asked, create, idempotency_key=idempotency_key, prefer=prefer
    )
