"""Calibration of models that are there: checked as a whole, then queued."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Response

from engine.artifact import Model
from engine.calibrating import Calibrating
from engine.calibration_checks import check_scores
from engine.data.dataset import Data
from engine.data.splits import checked_rows
from engine.errors import EngineError, SpecError
from engine.regularizers import perturbations
from service.bodies import StrictRoute
from service.calibration_job import score_spec
from service.deps import IdPath, StoredDataDep
from service.problems import problems
from service.routes.queueing import ModelJobsDep
from service.schemas.jobs import JobView
from service.schemas.models import CalibrateRequest
from service.store.models import Model as StoredModel

__all__ = ["router"]

router = APIRouter(tags=["models"], route_class=StrictRoute)


@router.post(
    "/models/{model_id}/calibrate",
    operation_id="calibrateModel",
    status_code=202,
    response_model=JobView,
    responses=problems(400, 404, 409, 413, 415, 422, 503, 507),
)
async def calibrate_model(
    model_id: IdPath, body: CalibrateRequest, queue: ModelJobsDep, stored_data: StoredDataDep
) -> Response:
    """Queue the calibration of a model on rows of a stored data set that it has never seen.

    The job leaves a new model with the same weights, `calibrated_from` the old one, which stays as
    it is. Intervals, sets and the temperature are those of `calibrate` in `POST /train`.
    """

    def check(stored: StoredModel, model: Model, seed: int) -> dict[str, str]:
        data = stored_data.load(body.dataset, "#/dataset")
        rows = None if body.rows is None else checked_rows(body.rows, data.rows, "#/rows")
        _refuse_seen(stored.document, body.dataset, rows)
        _check(model, body, data, rows, seed)
        return {body.dataset: "#/dataset"}

    return await queue.answer("calibrate", body, model_id, check, names_it=True)


def _refuse_seen(
    document: Mapping[str, Any], dataset_id: str, rows: npt.NDArray[np.int64] | None
) -> None:
    """Refuse rows that the model's job may have trained or validated on."""
    spec = document.get("spec")
    if spec is None:
        return
    validation = spec.get("validation")
    validation = validation if isinstance(validation, Mapping) else {}
    if dataset_id == validation.get("dataset"):
        raise SpecError(
            "the model was validated on this data set; calibration takes rows that it has not seen",
            pointer="#/dataset",
        )
    if dataset_id != document.get("dataset"):
        return
    if spec.get("rows") is None:
        raise SpecError(
            "the model was trained on this data set; calibration takes rows that it has not seen: "
            "another data set, or rows that are not among the `rows` of its job",
            pointer="#/dataset",
        )
    if rows is None:
        raise SpecError(
            "the model was trained on rows of this data set; say by `rows` which others are to "
            "calibrate it",
            pointer="#/rows",
        )
    seen = np.isin(rows, [*spec["rows"], *(validation.get("rows") or ())])
    if seen.any():
        at = int(np.argmax(seen))
        raise SpecError(
            f"row {rows[at]} is one of the rows of the model's job; calibration takes rows that it "
            "has not seen",
            pointer=f"#/rows/{at}",
        )


def _check(
    model: Model,
    body: CalibrateRequest,
    data: Data,
    rows: npt.NDArray[np.int64] | None,
    seed: int,
) -> None:
    """Raise EngineError, with a pointer into the request, for what cannot be calibrated so."""
    asked = score_spec(body.model_dump())
    for own in model.members or (model,):
        check_scores(own.graph, perturbations(own.trained), asked, "#")
    try:
        fits_noise = body.noise_precision == "fit"
        Calibrating(model, asked, data, rows, seed=seed, fits_noise=fits_noise).check()
    except EngineError as error:
        if error.pointer.startswith("#/inputs/rows/"):
            error.pointer = error.pointer.replace("#/inputs", "#")
        elif error.pointer not in ("#/rows", "#/noise_precision") or (
            error.pointer == "#/rows" and rows is None
        ):
            error.pointer = "#/dataset"
        raise
