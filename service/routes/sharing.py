"""Sharing: what every key sees, and what its own alone."""

from __future__ import annotations

from fastapi import APIRouter

from service.bodies import StrictRoute
from service.deps import DatasetsDep, IdPath, JobsDep, ModelsDep
from service.problems import problems
from service.schemas.datasets import DatasetView
from service.schemas.jobs import JobView
from service.schemas.models import ModelView, SharingRequest

__all__ = ["router"]

router = APIRouter(route_class=StrictRoute)


@router.patch(
    "/datasets/{dataset_id}",
    operation_id="shareDataset",
    tags=["datasets"],
    responses=problems(400, 404, 413, 415, 422),
)
def share_dataset(dataset_id: IdPath, body: SharingRequest, datasets: DatasetsDep) -> DatasetView:
    """Have every key see and use a data set, or its own alone; only its own changes it."""
    return DatasetView.of(datasets.share(dataset_id, body.shared))


@router.patch(
    "/jobs/{job_id}",
    operation_id="shareJob",
    tags=["jobs"],
    responses=problems(400, 404, 413, 415, 422),
)
def share_job(job_id: IdPath, body: SharingRequest, jobs: JobsDep) -> JobView:
    """Have every key see a job and, where it has not ended yet, what it will leave."""
    return JobView.of(jobs.share(job_id, body.shared))


@router.patch(
    "/models/{model_id}",
    operation_id="shareModel",
    tags=["models"],
    responses=problems(400, 404, 409, 413, 415, 422),
)
def share_model(model_id: IdPath, body: SharingRequest, models: ModelsDep) -> ModelView:
    """Have every key see and use a model, or its own alone; only its own changes it."""
    return ModelView.of(models.share(models.resolve(model_id, pointer="#").id, body.shared))
