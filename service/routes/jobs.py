"""Jobs: read, follow, cancel, delete."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Body, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from engine.spec import SearchSpec
from engine.variants import variants_of
from service.accept import preferred
from service.bodies import StrictRoute
from service.deps import AfterQuery, BlobsDep, IdPath, JobsDep, LimitQuery
from service.errors import Invalid, NotFound
from service.problems import problems
from service.routes.queueing import PreferHeader, preferred_wait, wait_for_change, wait_for_end
from service.schemas.jobs import CancelRequest, EventView, JobView, RegularizerLogView, VariantView
from service.schemas.views import ListView
from service.shutdown import Shutdown
from service.store.jobs import Event, EventText, Jobs, Status
from service.summaries import JobSummary

__all__ = ["router"]

router = APIRouter(tags=["jobs"], route_class=StrictRoute)

_COMMENT_S = 15.0
_PAGE = 500


@router.get("/jobs", operation_id="listJobs", responses=problems(404))
def list_jobs(
    jobs: JobsDep,
    limit: LimitQuery = 100,
    after: AfterQuery = None,
    status: Annotated[Status | None, Query(description="Only jobs in this state.")] = None,
    kind: Annotated[str | None, Query(max_length=32, description="Only jobs of this kind.")] = None,
) -> ListView[JobSummary]:
    """List the jobs, newest first; long lists in their specs are left out."""
    page = jobs.list(limit=limit, after=after, status=status, kind=kind)
    return ListView(data=[JobSummary.of(job) for job in page.data], has_more=page.has_more)


@router.get(
    "/jobs/{job_id}", operation_id="getJob", response_model=JobView, responses=problems(404)
)
async def get_job(
    request: Request,
    job_id: IdPath,
    jobs: JobsDep,
    prefer: PreferHeader = None,
) -> Response:
    """Read a job: its state, progress, metrics and result."""
    wait_s = preferred_wait(prefer)
    headers = {} if wait_s is None else {"Preference-Applied": f"wait={wait_s:g}"}
    job = await wait_for_end(request, jobs, job_id, wait_s or 0.0)
    content = JobView.of(job).model_dump_json()
    return Response(content, headers=headers, media_type="application/json")


@router.post(
    "/jobs/{job_id}/cancel",
    operation_id="cancelJob",
    status_code=202,
    responses=problems(400, 404, 409, 413, 415, 422),
)
def cancel_job(
    job_id: IdPath,
    jobs: JobsDep,
    blobs: BlobsDep,
    body: Annotated[CancelRequest | None, Body()] = None,
) -> JobView:
    """Ask for a job to be ended; it never runs again. One that waits is cancelled at once."""
    job = jobs.cancel(job_id, keep=body is not None and body.keep)
    if job.terminal:
        blobs.delete_parts(job.id)
    return JobView.of(job)


@router.delete(
    "/jobs/{job_id}",
    operation_id="deleteJob",
    status_code=204,
    responses=problems(404, 409),
)
def delete_job(job_id: IdPath, jobs: JobsDep, blobs: BlobsDep) -> None:
    """Delete a job that has ended, with its events; its model or data set stays."""
    job = jobs.delete(job_id)
    if job.checkpoint is not None:
        blobs.delete(job.checkpoint.key)
    blobs.delete_parts(job.id)


@router.get(
    "/jobs/{job_id}/events",
    operation_id="listJobEvents",
    response_model=ListView[EventView],
    responses={
        200: {
            "description": "The events, oldest first, or a stream of them",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        204: {"description": "No event can follow (streams only)"},
        **problems(404),
    },
)
async def list_job_events(
    request: Request,
    job_id: IdPath,
    jobs: JobsDep,
    limit: LimitQuery = 100,
    after: Annotated[
        int | None, Query(ge=0, le=2**53, description="Only events after this id.")
    ] = None,
    last_event_id: Annotated[
        str | None, Header(description="For streams: the last event that was received.")
    ] = None,
) -> Response:
    """List what happened to a job or, with `Accept: text/event-stream`, follow it as it happens."""
    offered = ("application/json", "text/event-stream")
    if preferred(request.headers.get("accept", ""), offered) != "text/event-stream":
        page = await run_in_threadpool(jobs.event_texts, job_id, after=after or 0, limit=limit)
        events = [orjson.Fragment(EventView.written(event)) for event in page.data]
        view = {"data": events, "has_more": page.has_more}
        return Response(orjson.dumps(view), media_type="application/json")
    first = _stream_start(last_event_id, after)
    job = await run_in_threadpool(jobs.get, job_id)
    if job.terminal and first >= job.last_event:
        return Response(status_code=204)
    first = min(first, job.last_event)  # what has not happened yet cannot have been received
    return StreamingResponse(
        _stream(request, jobs, job_id, first),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


def _stream_start(last_event_id: str | None, after: int | None) -> int:
    if last_event_id is None:
        return after or 0
    if not re.fullmatch(r"\d{1,15}", last_event_id.strip(), re.ASCII):
        raise Invalid(
            f"Last-Event-ID is the id of an event, a number, not {last_event_id[:40]!r}",
            pointer="#/header/Last-Event-ID",
        )
    return int(last_event_id)


async def _stream(request: Request, jobs: Jobs, job_id: str, after: int) -> AsyncIterator[bytes]:
    """Yield events as they come, until the final one, the job's deletion or the server's stop."""
    shutdown: Shutdown = request.state.shutdown
    news_at = told_at = time.monotonic()
    pace_s = 0.0
    while True:
        version = jobs.version()
        try:
            page = await run_in_threadpool(jobs.event_texts, job_id, after=after, limit=_PAGE)
        except NotFound:
            return  # deleted meanwhile: nothing more can be told
        if page.data:
            yield b"".join(_frame(event) for event in page.data)
            after = page.data[-1].id
            told_at = time.monotonic()
            pace_s, news_at = told_at - news_at, told_at
        if page.data and page.data[-1].type == "finished":
            return
        if page.has_more:
            continue
        until = told_at + _COMMENT_S
        if await wait_for_change(
            jobs, shutdown, version, news_at=news_at, until=until, pace_s=pace_s
        ):
            return
        if time.monotonic() - told_at >= _COMMENT_S:
            yield b": still here\n\n"
            told_at = time.monotonic()


def _frame(event: EventText) -> bytes:
    head = f"id: {event.id}\nevent: {event.type}\ndata: ".encode()
    return head + EventView.written(event) + b"\n\n"


@router.get(
    "/jobs/{job_id}/regularizers",
    operation_id="getRegularizerLog",
    response_model=RegularizerLogView,
    responses=problems(404),
)
def get_regularizer_log(job_id: IdPath, jobs: JobsDep) -> Any:
    """Show every regularizer of a job: what it matched, the loss it added, the rates it dropped."""
    entries: dict[int, dict[str, Any]] = {}
    for event in _opening(jobs, job_id):
        description = event.data.get("regularizer")
        if description is not None:
            entries[description["index"]] = {**description, "history": []}
    for event in jobs.epochs(job_id):
        for line in event.data.get("regularizers", ()):
            if line["index"] in entries:
                entries[line["index"]]["history"].append({**line, "epoch": event.data["epoch"]})
    return {"data": [entries[index] for index in sorted(entries)]}


@router.get("/jobs/{job_id}/variants", operation_id="listVariants", responses=problems(404))
def list_variants(job_id: IdPath, jobs: JobsDep) -> ListView[VariantView]:
    """List the variants of a search, in their order, as far as they are; all at once.

    A training job without `search` has none.
    """
    job = jobs.get(job_id)
    if job.spec.get("search") is None:
        return ListView(data=[], has_more=False)
    search = SearchSpec.model_validate(job.spec["search"])
    found: dict[int, dict[str, Any]] = {
        variant.index: {"overrides": variant.overrides, "status": "queued", "epochs": 0}
        for variant in variants_of(search, seed=job.spec["seed"])
    }
    selected = None
    for event in _all_events(jobs, job_id):
        if event.type == "variant":
            found[event.data["index"]] = event.data
        elif event.type == "selected":
            selected = event.data["variant"]
    running = (job.progress or {}).get("running", {})
    for index, variant in found.items():
        if variant["status"] == "running":
            variant["epochs"] = running.get(str(index), variant["epochs"])
            variant["status"] = "stopped" if job.terminal else "running"
    views = [
        VariantView(**{**variant, "index": index, "selected": index == selected})
        for index, variant in found.items()
    ]
    return ListView(data=views, has_more=False)


def _all_events(jobs: Jobs, job_id: str) -> Iterator[Event]:
    after = 0
    while True:
        page = jobs.events(job_id, after=after, limit=_PAGE)
        yield from page.data
        if not page.has_more:
            return
        after = page.data[-1].id


def _opening(jobs: Jobs, job_id: str) -> list[Event]:
    """Return the `log` events before the first epoch: what the build said."""
    found: list[Event] = []
    for event in _all_events(jobs, job_id):
        if event.type == "epoch":
            break
        if event.type == "log":
            found.append(event)
    return found
