"""Predictions: one pass, or many and their statistics."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter, Response

from service.bodies import StrictRoute
from service.deps import PredictorDep
from service.predictor import PredictRequest
from service.problems import problems
from service.schemas import PredictionView

__all__ = ["router"]

router = APIRouter(tags=["predictions"], route_class=StrictRoute)


@router.post(
    "/predict",
    operation_id="predict",
    summary="Predict with a model, and say how sure it is",
    response_model=PredictionView,
    responses=problems(400, 404, 413, 415, 422, 503),
)
def predict(body: PredictRequest, predictor: PredictorDep) -> Any:
    """Answer with one deterministic pass, one stochastic pass, or the statistics of many.

    The same request with the same `seed` gives the same numbers, to the bit.
    """
    answer = predictor.predict(body)
    # The numbers are arrays still: they are written once, straight from memory.
    content = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(content, media_type="application/json")
