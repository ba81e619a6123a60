"""Training: a request checked as a whole, then queued."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import torch
from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from engine.data import formats
from engine.data.schema import Schema
from engine.errors import SpecError
from engine.mixed_precision import precisions_of
from engine.plan import TrainingPlan, plan_training
from engine.search_plan import SearchPlan, plan_search
from engine.spec import ValidationSpec
from engine.variants import InvalidVariantError
from service.bodies import StrictRoute
from service.deps import (
    BlobsDep,
    DatasetsDep,
    IdempotencyHeader,
    JobsDep,
    OwnerDep,
    SettingsDep,
)
from service.pointers import located
from service.problems import problems
from service.routes.queueing import PreferHeader, answer_queued, check_memory
from service.schemas.jobs import JobView
from service.schemas.training import PlanView, TrainRequest
from service.settings import Settings
from service.store.blobs import Blobs
from service.store.datasets import Datasets
from service.store.idempotency import Remember
from service.store.jobs import Job, NewJob

__all__ = ["router"]

router = APIRouter(tags=["training"], route_class=StrictRoute)


@router.post(
    "/train",
    operation_id="train",
    status_code=202,
    response_model=JobView,
    responses={
        200: {"model": PlanView, "description": "The plan, with `validate_only`"},
        **problems(400, 404, 409, 413, 415, 422, 503, 507),
    },
)
async def train(
    request: Request,
    body: TrainRequest,
    datasets: DatasetsDep,
    jobs: JobsDep,
    blobs: BlobsDep,
    owner: OwnerDep,
    settings: SettingsDep,
    validate_only: Annotated[bool, Query(description="Answer the plan and queue nothing.")] = False,
    prefer: PreferHeader = None,
    idempotency_key: IdempotencyHeader = None,
) -> Response:
    """Queue a training job; follow `Location` for its progress, its events and its model."""
    check_memory(body.limits, settings)
    if validate_only:
        plan = await run_in_threadpool(_plan, body, datasets, blobs, settings)
        view = PlanView.model_validate(plan.describe())
        return Response(view.model_dump_json(), media_type="application/json")
    spec: dict[str, Any] = body.model_dump(mode="json")

    def create(remember: Remember[Job] | None) -> Job:
        _plan(body, datasets, blobs, settings)
        # Stored with the job, so that every attempt reads its rows in the same way.
        limits = {"seconds": None, **(spec["limits"] or {})}
        limits["resident_bytes"] = _resident_bytes(body, settings)
        new = NewJob(
            kind="train",
            spec={**spec, "limits": limits},
            datasets=_needed(body),
            name=body.name,
            tags=body.tags,
            owner=owner,
        )
        return jobs.create(new, remember=remember)

    return await answer_queued(
        request, jobs, spec, create, idempotency_key=idempotency_key, prefer=prefer
    )


def _needed(body: TrainRequest) -> dict[str, str]:
    """Return the data sets that the job needs, with pointers to where they are asked for."""
    needed = {body.dataset: "#/dataset"}
    if isinstance(body.validation, ValidationSpec) and body.validation.dataset is not None:
        needed.setdefault(body.validation.dataset, "#/validation/dataset")
    if body.calibrate is not None and body.calibrate.dataset is not None:
        needed.setdefault(body.calibrate.dataset, "#/calibrate/dataset")
    return needed


def _resident_bytes(body: TrainRequest, settings: Settings) -> int:
    """Return the most bytes of encoded rows that the job's worker holds in memory."""
    asked = None if body.limits is None else body.limits.resident_bytes
    allowed = settings.resident_bytes
    if asked is not None and asked > allowed:
        raise SpecError(
            f"at most {allowed} bytes of encoded rows are held in memory here, {asked} are asked "
            "for; leave it out, or take less: what is more is read by blocks",
            pointer="#/limits/resident_bytes",
        )
    return allowed if asked is None else asked


def _plan(
    body: TrainRequest, datasets: Datasets, blobs: Blobs, settings: Settings
) -> TrainingPlan | SearchPlan:
    """Check the request against its data and this machine."""
    resident = _resident_bytes(body, settings)
    if body.device == "cuda" and not torch.cuda.is_available():
        raise SpecError("this server has no CUDA device; take `auto` or `cpu`", pointer="#/device")
    validation = body.validation
    if isinstance(validation, ValidationSpec) and validation.dataset == body.dataset:
        raise SpecError(
            "the validation data set is the one to train on; give another, or a `fraction` or "
            "`rows` of this one, which are then taken out of the training rows",
            pointer="#/validation/dataset",
        )
    _check_calibration_data(body)
    found = {
        pointer: datasets.get(dataset_id, pointer=pointer)
        for dataset_id, pointer in _needed(body).items()
    }
    loaded = {
        pointer: blobs.load(dataset.blob, partial(formats.load, kind=dataset.kind))
        for pointer, dataset in found.items()
    }
    other = loaded.get("#/validation/dataset")
    calibration = loaded.get("#/calibrate/dataset")
    schema = Schema.model_validate(found["#/dataset"].schema)
    data = loaded["#/dataset"]
    if body.search is None:
        _check_precision(body, body.precision)
        return plan_training(
            body.spec(),
            data,
            other,
            calibration_data=calibration,
            schema=schema,
            resident_bytes=resident,
        )
    try:
        plan = plan_search(
            body.search,
            body.spec(),
            data,
            other,
            calibration_data=calibration,
            schema=schema,
            resident_bytes=resident,
        )
        for planned in plan.variants:
            place = planned.variant.located("#/precision")
            _check_precision(body, planned.plan.spec.precision, pointer=place)
        return plan
    except InvalidVariantError as error:
        raise _told(error) from error


def _check_precision(body: TrainRequest, precision: str, pointer: str = "#/precision") -> None:
    """Refuse a precision that the job's device has no units for."""
    on_cuda = body.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if on_cuda else "cpu")
    exist = precisions_of(device)
    if precision not in exist:
        raise SpecError(
            f"this server's {device.type} does not compute faster in {precision} than in float32; "
            f"it takes: {', '.join(exist)}",
            pointer=pointer,
        )


def _check_calibration_data(body: TrainRequest) -> None:
    """Refuse calibration on rows that train or validate."""
    if body.calibrate is None or body.calibrate.dataset is None:
        return
    validation = body.validation
    others = [body.dataset]
    if isinstance(validation, ValidationSpec) and validation.dataset is not None:
        others.append(validation.dataset)
    if body.calibrate.dataset in others:
        raise SpecError(
            "calibration takes rows that neither train nor validate, and this data set does; give "
            "another, or a `fraction` or `rows` of the one to train on, which are then taken out",
            pointer="#/calibrate/dataset",
        )


def _told(error: InvalidVariantError) -> SpecError:
    """Say what is wrong with a variant as it is said of a request, and where it is asked for."""
    found = [{**own, "loc": ("body", *own["loc"])} for own in error.found]
    first = located(found, error.document)[0]
    return SpecError(
        f"variant {error.variant.index}: {first['detail']}",
        pointer=error.variant.located(first["pointer"]),
    )
