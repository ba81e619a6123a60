"""Requests whose rows are an Arrow IPC stream, and whose other fields are JSON beside it."""

from __future__ import annotations

import json
from typing import Any

from engine.data.arrow_records import DamagedStreamError, read_arrow_records
from service.bodies import parse_json, validated
from service.errors import Invalid, Malformed
from service.prepared import PredictRequest

__all__ = ["REQUEST", "read_arrow_request"]

REQUEST = "bernoulli.request"
"""The key, among the schema's metadata, of the other fields."""
_POINTER = "#/query/request"
_BYTES_A_VALUE = 2
"""As JSON has it at least, `1,`: a stream holds no more values than JSON of the same limit."""


def read_arrow_request(
    content: bytes, query: str | None, *, max_bytes: int
) -> tuple[PredictRequest, dict[str, Any]]:
    """Return a request, and its fields but `inputs` as they were.

    They are in the query parameter `request`, or in the metadata of the schema. Raises Malformed
    for what cannot be read, DataError for rows that are not taken, Invalid where there are no other
    fields or two sets of them, and RequestValidationError for what is wrong with them.
    """
    try:
        records = read_arrow_records(
            content, max_bytes=max_bytes, max_cells=max_bytes // _BYTES_A_VALUE
        )
    except DamagedStreamError as error:
        raise Malformed(error.detail) from error
    fields = _fields(query, records.metadata.get(REQUEST.encode()))
    request = validated(PredictRequest, {**fields, "inputs": {}})
    return request.model_copy(update={"inputs": records.columns}), fields


def _fields(query: str | None, metadata: bytes | None) -> dict[str, Any]:
    where = f"the query parameter `request` or the schema's metadata `{REQUEST}`"
    if query is not None and metadata is not None:
        raise Invalid(
            f"the request comes twice, in the query parameter `request` and in the schema's "
            f"metadata `{REQUEST}`; send one of them",
            pointer=_POINTER,
        )
    text = metadata if query is None else query.encode()
    if text is None:
        raise Invalid(
            "an Arrow stream has the rows; send what else there is to say as JSON, such as "
            f'{{"model": "mdl_…", "num_samples": 100}}, in {where}',
            pointer=_POINTER,
        )
    try:
        fields = parse_json(text)
    except json.JSONDecodeError as error:
        raise Malformed(f"{where} is not valid JSON: {error.msg}") from error
    if not isinstance(fields, dict):
        raise Invalid(f"{where} is a JSON object", pointer="#")
    if "inputs" in fields:
        raise Invalid(
            "the rows are those of the Arrow stream; leave `inputs` out, or send JSON",
            pointer="#/inputs",
        )
    return fields
