"""Models: read, download, import, delete."""

from __future__ import annotations

import hashlib
import os
from json import JSONDecodeError
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse
from pydantic import Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.types import Receive, Scope, Send

import engine
from engine.artifact import import_model
from engine.bundle import bundle_of, read_bundle
from engine.spec import NetworkSpec, Spec
from service.bodies import StrictRoute, limited_stream, parse_json, read_form
from service.deps import (
    AfterQuery,
    BlobsDep,
    DatasetsDep,
    IdempotencyHeader,
    IdPath,
    LimitQuery,
    ModelsDep,
    OwnerDep,
    PredictorDep,
)
from service.errors import Malformed, UnsupportedMedia
from service.idempotency import answer_once, created
from service.problems import problems
from service.schemas.models import ModelSummary, ModelView
from service.schemas.views import ListView
from service.store.blobs import Blobs, model_key
from service.store.database import new_id
from service.store.idempotency import Remember
from service.store.models import Model, NewModelRow

__all__ = ["router"]

router = APIRouter(tags=["models"], route_class=StrictRoute)

WEIGHTS = "application/vnd.safetensors"
BUNDLE = "application/zip"


class ImportSpec(Spec):
    """What an imported model's weights belong to."""

    network: NetworkSpec
    """With the size of every layer given."""
    name: Annotated[str, Field(min_length=1, max_length=200)] | None = None


_IMPORT = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["spec", "weights"],
                    "properties": {
                        "spec": {
                            "type": "string",
                            "contentMediaType": "application/json",
                            "description": 'JSON: {"network": {…}, "name": …}, all sizes given.',
                        },
                        "weights": {
                            "type": "string",
                            "format": "binary",
                            "description": "A safetensors file with parameters by name: hid1.w, …",
                        },
                    },
                }
            },
            BUNDLE: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


@router.post(
    "/models",
    operation_id="importModel",
    status_code=201,
    response_model=ModelView,
    openapi_extra=_IMPORT,
    responses=problems(400, 409, 413, 415, 422, 507),
)
async def import_(
    request: Request,
    models: ModelsDep,
    blobs: BlobsDep,
    datasets: DatasetsDep,
    owner: OwnerDep,
    idempotency_key: IdempotencyHeader = None,
) -> Response:
    """Import a network trained elsewhere, or a whole model from `GET /models/{id}/bundle`.

    Of a network the inputs and outputs pass unscaled; a bundle keeps its encoding, rates and noise.
    """
    await run_in_threadpool(datasets.check_room, owner)
    if _media_type(request) == BUNDLE:
        max_bytes = request.state.settings.max_upload_bytes
        body = b"".join([piece async for piece in limited_stream(request, max_bytes)])
        name = None
        content: list[Any] = [hashlib.sha256(body).hexdigest()]

        def made() -> tuple[dict[str, Any], bytes]:
            return read_bundle(body, max_bytes=max_bytes)
    else:
        spec, weights = await _parts(request)
        name = spec.name
        content = [spec.model_dump(mode="json"), hashlib.sha256(weights).hexdigest()]

        def made() -> tuple[dict[str, Any], bytes]:
            return import_model({"network": spec.network}, weights, version=engine.__version__)

    def create(remember: Remember[Model] | None) -> Model:
        document, stored = made()
        model_id = new_id("mdl")
        key = model_key(model_id)
        blobs.put_bytes(key, stored)
        row = NewModelRow(id=model_id, document=document, weights=key, name=name, owner=owner)
        try:
            return models.create(row, remember=remember)
        except BaseException:
            blobs.delete(key)
            raise

    return await answer_once(
        request,
        idempotency_key,
        content,
        lambda remember: run_in_threadpool(create, remember),
        lambda model: created(ModelView.of(model), f"/models/{model.id}"),
    )


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _parts(request: Request) -> tuple[ImportSpec, bytes]:
    """Return the form's `spec`, checked, and its `weights`."""
    media_type = _media_type(request)
    if media_type != "multipart/form-data":
        raise UnsupportedMedia(
            f"the content type is {media_type or 'missing'!r}; send multipart/form-data with the "
            f"parts `spec` (JSON) and `weights` (safetensors), or a bundle as {BUNDLE}"
        )
    form = await read_form(request, request.state.settings.max_upload_bytes, "spec", "weights")
    try:
        spec = await _part(form, "spec")
        weights = await _part(form, "weights")
    finally:
        await form.close()
    try:
        parsed = parse_json(spec)
    except JSONDecodeError as error:
        raise Malformed(f"the part `spec` is not valid JSON: {error.msg}") from error
    try:
        return ImportSpec.model_validate(parsed), weights
    except ValidationError as error:
        found = [{**item, "loc": ("body", *item["loc"])} for item in error.errors()]
        raise RequestValidationError(found, body=parsed) from error


async def _part(form: FormData, name: str) -> bytes:
    part = form[name]
    return await part.read() if isinstance(part, UploadFile) else part.encode()


@router.get("/models", operation_id="listModels", responses=problems(404))
def list_models(
    models: ModelsDep, limit: LimitQuery = 100, after: AfterQuery = None
) -> ListView[ModelSummary]:
    """List the models, newest first."""
    page = models.list(limit=limit, after=after)
    return ListView(data=[ModelSummary.of(model) for model in page.data], has_more=page.has_more)


@router.get("/models/{model_id}", operation_id="getModel", responses=problems(404))
def get_model(model_id: IdPath, models: ModelsDep) -> ModelView:
    """Describe a model (or the one that an alias points at)."""
    return ModelView.of(models.resolve(model_id))


@router.get(
    "/models/{model_id}/weights",
    operation_id="getModelWeights",
    response_class=FileResponse,
    responses={
        200: {
            "description": "Parameters by name, as safetensors",
            "content": {WEIGHTS: {"schema": {"type": "string", "format": "binary"}}},
        },
        304: {"description": "The weights are those of `If-None-Match`"},
        **problems(404),
    },
)
def get_model_weights(
    model_id: IdPath, models: ModelsDep, blobs: BlobsDep, request: Request
) -> Response:
    """Download the weights; the bytes depend on the parameters only."""
    model = models.resolve(model_id)
    etag = f'"{model.document["weights"]["sha256"]}"'
    known = [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]
    if "*" in known or etag in (tag.removeprefix("W/") for tag in known):
        return Response(status_code=304, headers={"ETag": etag})
    _verify(blobs, model)
    return _OpenFileResponse(
        blobs.open(model.weights),
        media_type=WEIGHTS,
        filename=f"{model.id}.safetensors",
        headers={"ETag": etag},
    )


@router.get(
    "/models/{model_id}/bundle",
    operation_id="getModelBundle",
    response_class=Response,
    responses={
        200: {
            "description": "The whole model as a zip file",
            "content": {BUNDLE: {"schema": {"type": "string", "format": "binary"}}},
        },
        **problems(404),
    },
)
def get_model_bundle(model_id: IdPath, models: ModelsDep, blobs: BlobsDep) -> Response:
    """Download the whole model, to be sent to another server's `POST /models`.

    Weights, spec, encoding, rates and noise precision; the bytes depend on the model only.
    """
    model = models.resolve(model_id)
    _verify(blobs, model)
    with blobs.open(model.weights) as stream:
        content = bundle_of(model.document, stream.read())
    disposition = f'attachment; filename="{model.id}.zip"'
    return Response(content, media_type=BUNDLE, headers={"Content-Disposition": disposition})


def _verify(blobs: Blobs, model: Model) -> None:
    """Raise Corrupt rather than send damaged weights."""
    blobs.verify(model.weights, model.document["weights"]["sha256"], f"model {model.id}")


class _OpenFileResponse(FileResponse):
    """Sends a file that is open already, so that its deletion meanwhile harms no download."""

    def __init__(self, file: BinaryIO, **options: Any) -> None:
        number = file.fileno()
        super().__init__(f"/proc/self/fd/{number}", stat_result=os.fstat(number), **options)
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            await super().__call__(scope, receive, send)


@router.delete(
    "/models/{model_id}",
    operation_id="deleteModel",
    status_code=204,
    responses=problems(404, 409),
)
def delete_model(
    model_id: IdPath, models: ModelsDep, blobs: BlobsDep, predictor: PredictorDep
) -> None:
    """Delete a model; not while an alias points at it."""
    model = models.delete(model_id)
    predictor.loaded.forget(model.id)
    blobs.delete(model.weights)
