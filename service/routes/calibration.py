"""Calibration of models that are there: checked as a whole, then queued."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Request, Response

from engine.artifact import Model
from engine.calibrating import Calibrating
from engine.calibration_checks import check_scores
from engine.data import formats
from engine.data.dataset import Data
from engine.data.splits import checked_rows
from engine.errors import EngineError, SpecError
from engine.regularizers import perturbations
from engine.spec import MAX_SEED
from service.bodies import StrictRoute
from service.calibration_job import score_spec
from service.deps import (
    BlobsDep,
    DatasetsDep,
    IdempotencyHeader,
    IdPath,
    JobsDep,
    ModelsDep,
    OwnerDep,
    PredictorDep,
    SettingsDep,
)
from service.problems import problems
from service.routes.queueing import PreferHeader, answer_queued, check_memory
from service.schemas import CalibrateRequest, JobView
from service.store.idempotency import Remember
from service.store.jobs import Job, NewJob

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
    request: Request,
    model_id: IdPath,
    body: CalibrateRequest,
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
    """Queue the calibration of a model on rows of a stored data set that it has never seen.

    The job leaves a new model with the same weights, `calibrated_from` the old one, which stays as
    it is. Intervals, sets and the temperature are those of `calibrate` in `POST /train`.
    """
    check_memory(body.limits, settings)
    asked = body.model_dump(mode="json")

    def create(remember: Remember[Job] | None) -> Job:
        stored = models.resolve(model_id)
        dataset = datasets.get(body.dataset, pointer="#/dataset")
        seed = body.seed if body.seed is not None else secrets.randbelow(MAX_SEED + 1)
        data = blobs.load(dataset.blob, partial(formats.load, kind=dataset.kind))
        rows = None if body.rows is None else checked_rows(body.rows, data.rows, "#/rows")
        _refuse_seen(stored.document, dataset.id, rows)
        _check(predictor.loaded.get(stored), body, data, rows, seed)
        new = NewJob(
            kind="calibrate",
            spec=asked | {"model": stored.id, "seed": seed},
            datasets={dataset.id: "#/dataset"},
            models={stored.id: "#"},
            name=body.name or stored.name,
            tags=body.tags,
            owner=owner,
        )
        return jobs.create(new, remember=remember)

    return await answer_queued(
        request,
        jobs,
        [model_id, asked],
        create,
        idempotency_key=idempotency_key,
        prefer=prefer,
    )


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
