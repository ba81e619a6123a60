"""Bundles: a whole model as one zip file, from one server to another."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

from engine.artifact import (
    FORMAT,
    load_model,
    resolved_regularizers,
)
from engine.descriptions import describe_graph, describe_parameters, describe_regularizer
from engine.errors import ArtifactError, EngineError

__all__ = ["bundle_of", "read_bundle"]

DOCUMENT, WEIGHTS = "document.json", "weights.safetensors"
_MAX_DOCUMENT = 64 * 2**20
_END_RECORD = 22
_MAX_DIRECTORY = 2**16
_STAMP = (1980, 1, 1, 0, 0, 0)  # the earliest that zip knows, so that equal models have equal bytes
_KEYS = frozenset(
    {"format", "version", "spec", "network", "encoding", "rates", "noise_precision", "metrics"}
    | {"members"}
    | {"kept_epoch", "calibration"}
)


def bundle_of(document: Mapping[str, Any], weights: bytes) -> bytes:
    """Return the zip file of a model; its bytes depend on the model only."""
    target = io.BytesIO()
    told = {name: document[name] for name in sorted(_KEYS & document.keys())}
    with zipfile.ZipFile(target, "w") as archive:
        content = json.dumps(told, sort_keys=True, allow_nan=False).encode()
        archive.writestr(zipfile.ZipInfo(DOCUMENT, _STAMP), content, zipfile.ZIP_DEFLATED)
        # Weights hardly shrink.
        archive.writestr(zipfile.ZipInfo(WEIGHTS, _STAMP), weights, zipfile.ZIP_STORED)
    return target.getvalue()


def read_bundle(content: bytes, *, max_bytes: int) -> tuple[dict[str, Any], bytes]:
    """Return the document and the weights of a bundle, once they make a model.

    Raises ArtifactError where the zip file is broken, larger than `max_bytes` when unpacked, or
    where its parts do not fit each other.
    """
    told, weights = _unpacked(content, max_bytes)
    document = {name: value for name, value in told.items() if name in _KEYS}
    if document.get("format") != FORMAT:
        raise ArtifactError(
            f"the bundle has format {told.get('format')!r:.40}; this version reads {FORMAT}"
        )
    document["weights"] = {"sha256": hashlib.sha256(weights).hexdigest(), "bytes": len(weights)}
    try:
        model = load_model(document, weights)
        for own in model.members or (model,):
            shapes = {layer.name: layer.shape for layer in own.graph.inputs}
            if (own.encoding.input_shapes, own.encoding.output_shape) != (
                shapes,
                own.graph.last.shape,
            ):
                raise ArtifactError("the bundle's encoding does not fit its network")
        described = [
            describe_regularizer(index, regularizer)
            for index, regularizer in enumerate(resolved_regularizers(document, model.graph))
        ]
    except EngineError as error:
        raise ArtifactError(f"the bundle makes no model: {error.detail}") from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ArtifactError("the bundle's document is not one that a server wrote") from error
    metrics = document.get("metrics")
    document |= {
        **describe_graph(model.graph),
        **describe_parameters([own.graph for own in model.members or (model,)]),
        "regularizers": described,
        "metrics": metrics if isinstance(metrics, dict) else {},
    }
    return document, weights


def _check_directory(content: bytes) -> None:
    """Refuse a directory too long to be that of two files, before it is made a list of objects."""
    end = content.rfind(b"PK\x05\x06", max(0, len(content) - _END_RECORD - 2**16))
    if end < 0 or len(content) - end < _END_RECORD:
        raise ArtifactError("the bundle is not a zip file, or it breaks off before its end")
    (directory,) = struct.unpack_from("<I", content, end + 12)
    if directory > _MAX_DIRECTORY or content.rfind(b"PK\x06\x07", 0, end) == end - 20 >= 0:
        raise ArtifactError("the bundle's zip file has a directory that is too long")


def _unpacked(content: bytes, max_bytes: int) -> tuple[dict[str, Any], bytes]:
    _check_directory(content)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = sorted(info.filename for info in archive.infolist())
            if names != sorted((DOCUMENT, WEIGHTS)):
                raise ArtifactError(f"a bundle holds {DOCUMENT} and {WEIGHTS}, and nothing else")
            document = _entry(archive, DOCUMENT, min(_MAX_DOCUMENT, max_bytes))
            weights = _entry(archive, WEIGHTS, max_bytes)
            told = json.loads(document)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        RecursionError,
        RuntimeError,
        ValueError,
    ) as error:
        raise ArtifactError("the bundle is not a readable zip file of a model") from error
    if not isinstance(told, dict):
        raise ArtifactError("the bundle's document is not a JSON object")
    return told, weights


def _entry(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """Read no more than the limit, whatever the entry's header says of its size."""
    with archive.open(name) as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise ArtifactError(f"{name} has more than {limit} bytes when unpacked")
    return content
