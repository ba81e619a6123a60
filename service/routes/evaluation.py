"""Evaluations: online, or as a job."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from engine.artifact import Model
from engine.errors import StoppedError
from service.bodies import StrictRoute
from service.deps import ExaminerDep, StoredDataDep
from service.evaluation_requests import EvaluationsRequest, EvaluationView
from service.evaluations import EvaluateRequest, assess
from service.problems import problems
from service.routes.queueing import ModelJobsDep
from service.routes.wanted import CLIENT_CLOSED, Gone, while_wanted
from service.schemas.jobs import JobView
from service.store.models import Model as StoredModel

__all__ = ["router"]

router = APIRouter(tags=["evaluations"], route_class=StrictRoute)


@router.post(
    "/evaluate",
    operation_id="evaluate",
    response_model=EvaluationView,
    responses=problems(400, 404, 413, 415, 422, 503),
)
async def evaluate(request: Request, body: EvaluateRequest, examiner: ExaminerDep) -> Response:
    """Measure a model on rows of a stored data set: how good it is, and how well it knows.

    Dropout, noise, passes, masks and seed are asked for as in `/predict`, and the passes are its,
    to the bit. Without `num_samples` there is one pass (of an ensemble one of each member). A
    caller that disconnects ends the work.
    """
    try:
        content = await while_wanted(request, examiner.evaluate(body))
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
    body: EvaluationsRequest, queue: ModelJobsDep, stored_data: StoredDataDep
) -> Response:
    """Queue an evaluation; what `/evaluate` answers is then in the job's `metrics`, as `test`.

    For more rows or passes than are measured online. The request is checked as a whole before it is
    a job; the job's `spec` has the model's id and the seed, also where an alias and none were
    given.
    """

    def check(_stored: StoredModel, model: Model, seed: int) -> dict[str, str]:
        needed = {body.dataset: "#/dataset"}
        data, other = stored_data.load(body.dataset, "#/dataset"), None
        if body.ood is not None:
            other = stored_data.load(body.ood.dataset, "#/ood/dataset")
            needed.setdefault(body.ood.dataset, "#/ood/dataset")
        assess(body.spec(), model=model, data=data, other=other, seed=seed).check()
        return needed

    return await queue.answer("evaluate", body, body.model, check)
