"""Rankings: the rows of a stored data set that a model is least sure of."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from engine.errors import StoppedError
from service.bodies import StrictRoute
from service.deps import ExaminerDep
from service.problems import problems
from service.rankings import RankRequest
from service.routes.wanted import CLIENT_CLOSED, Gone, while_wanted
from service.schemas.predictions import RankingView

__all__ = ["router"]

router = APIRouter(tags=["predictions"], route_class=StrictRoute)


@router.post(
    "/rank",
    operation_id="rank",
    response_model=RankingView,
    responses=problems(400, 404, 413, 415, 422, 503),
)
async def rank(request: Request, body: RankRequest, examiner: ExaminerDep) -> Response:
    """Find the rows that a model is least sure of, to label them next.

    Dropout, noise, passes, masks and seed are asked for as in `/predict`, and the passes are its,
    to the bit; rows of one score come in the order of their numbers. A caller that disconnects ends
    the work.
    """
    try:
        content = await while_wanted(request, examiner.rank(body))
    except (Gone, StoppedError):
        return Response(status_code=CLIENT_CLOSED)  # nobody reads it
    return Response(content, media_type="application/json")
