"""Data sets: upload, look at, download, delete."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import orjson
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from engine.data import formats
from engine.data.dataset import Data
from engine.data.delimited import Dialect
from service.accept import preferred
from service.bodies import StrictRoute, declared_length, limited_stream, read_form
from service.deps import (
    AfterQuery,
    BlobsDep,
    DatasetsDep,
    IdempotencyHeader,
    IdPath,
    LimitQuery,
    OwnerDep,
    ParsersDep,
)
from service.errors import Invalid, NotAcceptable, TooLarge, UnsupportedMedia
from service.idempotency import answer_once, created
from service.parsing import Parsed
from service.problems import problems
from service.schemas.datasets import DatasetView, PreviewView
from service.schemas.views import ListView
from service.store.blobs import Blobs, dataset_key
from service.store.datasets import Dataset, NewDataset
from service.store.idempotency import Remember
from service.uploads import ContentType, Upload

__all__ = ["router"]

router = APIRouter(tags=["datasets"], route_class=StrictRoute)

_SUFFIXES = {"table": "arrow", "arrays": "npz"}
_BY_NAME = {
    ".csv": "text/csv",
    ".tsv": "text/csv",
    ".parquet": "application/vnd.apache.parquet",
    ".arrows": "application/vnd.apache.arrow.stream",
    ".ndjson": "application/x-ndjson",
    ".jsonl": "application/x-ndjson",
    ".json": "application/json",
    ".npz": "application/x-npz",
    ".txt": "text/plain",
}
MAX_PREVIEW = 1_000_000

_UPLOAD = {
    "requestBody": {
        "required": True,
        "description": "The file with its content type, or as the field `file` of a form. CSV is "
        "UTF-8, or what `text/csv; charset=iso-8859-1` says, and has a header. Of `text/plain` "
        "every character becomes a row of the columns `position` and `character`.",
        "content": {
            **{
                media_type: {"schema": {"type": "string", "format": "binary"}}
                for media_type in formats.MEDIA_TYPES
            },
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            },
        },
    }
}  # fmt: skip


@router.post(
    "/datasets",
    operation_id="createDataset",
    status_code=201,
    response_model=DatasetView,
    openapi_extra=_UPLOAD,
    responses=problems(400, 409, 413, 415, 422, 507),
)
async def create_dataset(
    request: Request,
    blobs: BlobsDep,
    datasets: DatasetsDep,
    parsers: ParsersDep,
    owner: OwnerDep,
    name: Annotated[str | None, Query(min_length=1, max_length=200)] = None,
    delimiter: Annotated[
        Literal[",", ";", "|", "\t", "tab"] | None,
        Query(description="What stands between a CSV file's fields; else found by its header."),
    ] = None,
    decimal: Annotated[
        Literal[".", ","] | None,
        Query(description="What stands before decimals in a CSV file; a point unless given."),
    ] = None,
    idempotency_key: IdempotencyHeader = None,
) -> Response:
    """Store a data set: a table (CSV, Parquet, Arrow, NDJSON, JSON) or arrays (npz)."""
    await run_in_threadpool(datasets.check_room, owner)
    with _temporary(blobs) as file, _temporary(blobs) as content:
        kind, upload = await _receive(request, file)
        dialect = _dialect(kind, delimiter, decimal)

        def create(remember: Remember[Dataset] | None) -> Dataset:
            parsed = parsers.parse(file, content, kind.media_type, dialect)
            new = _described(parsed, upload)
            new = replace(new, name=name, owner=owner)
            return datasets.create(new, content, remember=remember)

        return await answer_once(
            request,
            idempotency_key,
            [str(kind), upload.sha256, name, delimiter, decimal],
            lambda remember: run_in_threadpool(create, remember),
            lambda dataset: created(DatasetView.of(dataset), f"/datasets/{dataset.id}"),
        )


@contextmanager
def _temporary(blobs: Blobs) -> Iterator[Path]:
    """Give a file's path for a while; what is still there then is removed."""
    path = blobs.temporary()
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


async def _receive(request: Request, file: Path) -> tuple[ContentType, Upload]:
    """Write the uploaded file, its text as UTF-8, to `file`; return what it is."""
    kind = ContentType.parse(request.headers.get("content-type", ""))
    limit = request.state.settings.max_upload_bytes
    if kind.media_type == "multipart/form-data":
        return await _receive_form(request, limit, file)
    _require_known(kind.media_type)
    room = request.state.blobs.room
    room.require(declared_length(request))
    with Upload(file, kind.charset) as upload:
        await upload.receive(limited_stream(request, limit), room)
    return kind, upload


async def _receive_form(request: Request, limit: int, file: Path) -> tuple[ContentType, Upload]:
    request.state.blobs.room.require(declared_length(request))
    form = await read_form(request, limit, "file")
    try:
        part = form["file"]
        if not isinstance(part, UploadFile):
            raise Invalid("the part `file` is not a file: it has no file name", pointer="#/file")
        media_type, semicolon, parameters = (part.content_type or "").partition(";")
        if media_type.strip().lower() not in formats.MEDIA_TYPES:
            media_type = _BY_NAME.get(Path(part.filename or "").suffix.lower(), media_type)
        kind = ContentType.parse(media_type + semicolon + parameters)
        _require_known(kind.media_type)
        return kind, await run_in_threadpool(_copy, part.file, Upload(file, kind.charset))
    finally:
        await form.close()


def _copy(source: BinaryIO, target: Upload) -> Upload:
    with target:
        while chunk := source.read(1 << 20):
            target.write(chunk)
    return target


def _require_known(media_type: str) -> None:
    if media_type not in formats.MEDIA_TYPES:
        raise UnsupportedMedia(
            f"the content type is {media_type or 'missing'!r}; send one of "
            f"{', '.join(formats.MEDIA_TYPES)}, or multipart/form-data"
        )


def _dialect(kind: ContentType, delimiter: str | None, decimal: str | None) -> Dialect | None:
    if delimiter is None and decimal is None:
        return None
    if kind.media_type != "text/csv":
        raise Invalid(
            f"`delimiter` and `decimal` say how a CSV file is written; this is {kind.media_type}"
        )
    return Dialect(delimiter="\t" if delimiter == "tab" else delimiter, decimal=decimal or ".")


def _described(parsed: Parsed, upload: Upload) -> NewDataset:
    """Return what is stored of a data set beside its content."""
    kind, rows = parsed.schema["kind"], parsed.schema["rows"]
    return NewDataset(
        kind=kind,
        rows=rows,
        schema=parsed.schema,
        bytes=upload.bytes,
        sha256=upload.sha256,
        blob=dataset_key(parsed.sha256, _SUFFIXES[kind]),
    )


@router.get("/datasets", operation_id="listDatasets", responses=problems(404))
def list_datasets(
    datasets: DatasetsDep, limit: LimitQuery = 100, after: AfterQuery = None
) -> ListView[DatasetView]:
    """List the data sets, newest first."""
    page = datasets.list(limit=limit, after=after)
    return ListView(data=[DatasetView.of(d) for d in page.data], has_more=page.has_more)


@router.get("/datasets/{dataset_id}", operation_id="getDataset", responses=problems(404))
def get_dataset(dataset_id: IdPath, datasets: DatasetsDep) -> DatasetView:
    """Describe a data set: its columns or arrays, and what they hold."""
    return DatasetView.of(datasets.get(dataset_id))


@router.get(
    "/datasets/{dataset_id}/preview",
    operation_id="previewDataset",
    responses=problems(404, 413),
)
def preview_dataset(
    dataset_id: IdPath,
    datasets: DatasetsDep,
    blobs: BlobsDep,
    rows: Annotated[int, Query(ge=1, le=1000)] = 20,
) -> PreviewView:
    """Show the first rows: fewer than asked for where they would be more than a million values."""
    dataset = datasets.get(dataset_id)
    data = _load(blobs, dataset)
    width = _width(dataset)
    if width > MAX_PREVIEW:
        raise TooLarge(
            f"one row holds {width} values, and a preview at most {MAX_PREVIEW}; download "
            f"/datasets/{dataset.id}/content"
        )
    some = slice(0, min(rows, data.rows, MAX_PREVIEW // width))
    return PreviewView(
        rows=orjson.loads(b"".join(formats.write(data, "application/json", rows=some)))
    )


def _load(blobs: Blobs, dataset: Dataset) -> Data:
    """Map the content into memory, where it stays while it is sent, deleted or not."""
    return blobs.load(dataset.blob, partial(formats.load, kind=dataset.kind))


def _width(dataset: Dataset) -> int:
    """Return how many values one row has."""
    arrays: int = sum(math.prod(array["shape"][1:]) for array in dataset.schema["arrays"])
    return max(1, arrays + len(dataset.schema["columns"]))


@router.get(
    "/datasets/{dataset_id}/content",
    operation_id="getDatasetContent",
    response_class=Response,
    responses={
        200: {
            "description": "The data, in the format that `Accept` chooses",
            "content": {
                media_type: {"schema": {"type": "string", "format": "binary"}}
                for media_type in formats.MEDIA_TYPES
            },
        },
        **problems(404, 406),
    },
)
def get_dataset_content(
    dataset_id: IdPath, datasets: DatasetsDep, blobs: BlobsDep, request: Request
) -> Response:
    """Download the data; `Accept` chooses the format, CSV for tables and npz for arrays if none."""
    dataset = datasets.get(dataset_id)
    offered = formats.WRITABLE[dataset.kind]
    media_type = preferred(request.headers.get("accept", ""), offered)
    if media_type is None:
        raise NotAcceptable(f"this data set can be sent as {', '.join(offered)}")
    data = _load(blobs, dataset)
    return StreamingResponse(formats.write(data, media_type), media_type=media_type)


@router.delete(
    "/datasets/{dataset_id}",
    operation_id="deleteDataset",
    status_code=204,
    responses=problems(404, 409),
)
def delete_dataset(dataset_id: IdPath, datasets: DatasetsDep) -> None:
    """Delete a data set; not while a job that has not ended needs it."""
    datasets.delete(dataset_id)
