"""Resumption: new jobs that go on from where others ended."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response

from service.bodies import StrictRoute
from service.checkpoints import read_checkpoint, write_checkpoint
from service.deps import BlobsDep, IdempotencyHeader, IdPath, JobsDep, OwnerDep
from service.errors import Conflict, Invalid, NotFound
from service.problems import problems
from service.routes.queueing import PreferHeader, answer_queued
from service.schemas.jobs import JobView
from service.schemas.training import MAX_EPOCHS, ResumeRequest
from service.store.blobs import Blobs, checkpoint_key
from service.store.database import new_id
from service.store.idempotency import Remember
from service.store.jobs import Checkpoint, Job, Jobs, NewJob

__all__ = ["router"]

router = APIRouter(tags=["jobs"], route_class=StrictRoute)


@router.post(
    "/jobs/{job_id}/resume",
    operation_id="resumeJob",
    status_code=202,
    response_model=JobView,
    responses=problems(400, 404, 409, 413, 415, 422, 503, 507),
)
async def resume_job(
    request: Request,
    job_id: IdPath,
    jobs: JobsDep,
    blobs: BlobsDep,
    owner: OwnerDep,
    body: Annotated[ResumeRequest | None, Body()] = None,
    prefer: PreferHeader = None,
    idempotency_key: IdempotencyHeader = None,
) -> Response:
    """Go on with the training of a job that has ended, as a new job with a new model.

    It begins with the parameters, the optimizer's memory and the best so far that the job ended
    with, and its epochs count on: 100 epochs resumed for 50 come to the very model of 150. Where
    patience had run out, it is given anew.
    """
    asked = body or ResumeRequest()

    def create(remember: Remember[Job] | None) -> Job:
        return _resume(jobs, blobs, jobs.get(job_id), asked, owner, remember)

    return await answer_queued(
        request,
        jobs,
        asked.model_dump(mode="json"),
        create,
        idempotency_key=idempotency_key,
        prefer=prefer,
    )


def _resume(
    jobs: Jobs,
    blobs: Blobs,
    job: Job,
    asked: ResumeRequest,
    owner: str | None,
    remember: Remember[Job] | None,
) -> Job:
    """Queue a job with a copy of another's last state, so that each may be deleted."""
    checkpoint, content = _last_state(blobs, job)
    job_id = new_id("job")
    key = checkpoint_key(job_id, 0)
    spec = _spec(job, checkpoint.epoch, asked)
    write_checkpoint(blobs, key, content)
    new = NewJob(
        id=job_id,
        kind=job.kind,
        spec=spec,
        datasets=dict.fromkeys(_datasets(spec), ""),
        name=job.name,
        tags=job.tags,
        owner=owner,
        resumed_from=job.id,
        checkpoint=Checkpoint(key, checkpoint.epoch),
    )
    try:
        return jobs.create(new, remember=remember)
    except NotFound as error:
        blobs.delete(key)
        raise Conflict(
            f"job {job.id} cannot go on: a data set that it was trained on is not there any more"
        ) from error
    except BaseException:
        blobs.delete(key)
        raise


def _last_state(blobs: Blobs, job: Job) -> tuple[Checkpoint, bytes]:
    if job.kind != "train":
        raise Conflict(f"job {job.id} is of kind {job.kind!r}; only training can be resumed")
    if job.spec.get("search") is not None:
        raise Conflict(
            f"job {job.id} is a search, which cannot be resumed; train its best variant by itself, "
            "and resume that job"
        )
    if not job.terminal:
        raise Conflict(f"job {job.id} is {job.status}; cancel it or wait for its end first")
    content = None if job.checkpoint is None else read_checkpoint(blobs, job.checkpoint.key)
    if job.checkpoint is None or content is None:
        raise Conflict(f"job {job.id} has left no state to go on from; train it anew")
    return job.checkpoint, content


def _spec(job: Job, done: int, asked: ResumeRequest) -> dict[str, Any]:
    """Return the job's spec with more epochs; what else is asked for replaces what it says."""
    spec = dict(job.spec)
    left = spec["epochs"] - done
    total = done + (asked.epochs or (left if left > 0 else spec["epochs"]))
    if total > MAX_EPOCHS:
        raise Invalid(
            f"with {done} epochs done, at most {MAX_EPOCHS - done} more are taken",
            pointer="#/epochs",
        )
    stages = spec.get("training")
    if stages is not None and stages["form"] != "sample" and stages["epochs"] is None:
        spec["training"] = {**stages, "epochs": spec["epochs"]}  # the stages stay as they were
    if asked.learning_rate is not None:
        spec["optimizer"] = {**spec["optimizer"], "learning_rate": asked.learning_rate}
    return {**spec, "epochs": total}


def _datasets(spec: dict[str, Any]) -> list[str]:
    parts = (spec.get("validation"), spec.get("calibrate"))
    others = [part.get("dataset") for part in parts if isinstance(part, dict)]
    return [spec["dataset"], *(other for other in others if other is not None)]
