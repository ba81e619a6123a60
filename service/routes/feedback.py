"""Feedback: what was observed of rows that a model predicts, and what it is known for since."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from engine.errors import StoppedError
from engine.track_record import TrackRecord
from service.bodies import StrictRoute
from service.deps import ExaminerDep, FeedbackDep, IdempotencyHeader, IdPath, ModelsDep
from service.feedback import FeedbackRequest
from service.feedback_views import FeedbackAddedView, FeedbackView
from service.idempotency import answer_once
from service.problems import problems
from service.routes.wanted import CLIENT_CLOSED, Gone, while_wanted
from service.store.idempotency import Answer, Remember

__all__ = ["router"]

router = APIRouter(tags=["feedback"], route_class=StrictRoute)


@router.post(
    "/models/{model_id}/feedback",
    operation_id="giveFeedback",
    status_code=201,
    response_model=FeedbackAddedView,
    responses=problems(400, 404, 409, 413, 415, 422, 503, 507),
)
async def give_feedback(
    request: Request,
    model_id: IdPath,
    body: FeedbackRequest,
    examiner: ExaminerDep,
    feedback: FeedbackDep,
    idempotency_key: IdempotencyHeader = None,
) -> Response:
    """Tell what was observed of rows: the model predicts them, and how good it was is added up.

    A calibrated model predicts by the way that it was calibrated for, any other by the rates of
    training. The rows are not kept, but for sums of their scores. A caller that disconnects before
    the rows have been predicted has added nothing.
    """

    async def add(remember: Remember[dict[str, Any]] | None) -> dict[str, Any]:
        compared = await while_wanted(request, examiner.compare(model_id, body))
        return await run_in_threadpool(
            feedback.change, compared.model, compared.added, remember=remember
        )

    asked = body.model_dump(mode="json")
    try:
        return await answer_once(request, idempotency_key, asked, add, _answer)
    except (Gone, StoppedError):
        return Response(status_code=CLIENT_CLOSED)  # nobody reads it


def _answer(told: dict[str, Any]) -> Answer:
    view = FeedbackAddedView.model_validate(told)
    body = orjson.dumps(view.model_dump(mode="json", exclude_unset=True))
    location = f"/models/{told['model']}/feedback"
    return Answer(201, {"Location": location, "Content-Type": "application/json"}, body)


@router.get(
    "/models/{model_id}/feedback",
    operation_id="getFeedback",
    response_model_exclude_unset=True,
    responses=problems(404),
)
def get_feedback(model_id: IdPath, models: ModelsDep, feedback: FeedbackDep) -> FeedbackView:
    """Tell how good a model's predictions turned out to be, as far as it was told the truths."""
    model = models.resolve(model_id)
    document = feedback.get(model.id)
    if document is None:
        return FeedbackView(model=model.id, totals=None, recent=None, history=[], warnings=[])
    told = TrackRecord.model_validate(document).described()
    return FeedbackView.model_validate({"model": model.id, **told})


@router.delete(
    "/models/{model_id}/feedback",
    operation_id="resetFeedback",
    status_code=204,
    responses=problems(404),
)
def reset_feedback(model_id: IdPath, models: ModelsDep, feedback: FeedbackDep) -> None:
    """Forget all feedback of a model, and begin anew."""
    feedback.reset(models.resolve(model_id).id)
