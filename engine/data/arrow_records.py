"""The rows of a request as an Arrow IPC stream: read within limits, as columns of NumPy arrays.

What a crafted stream says of itself is believed nowhere: it is checked for its end, for compressed
buffers and for how much it unpacks to before it is read, and in full before values are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.data.columnar import refuse_compressed
from engine.data.columns import check_names, check_text_size, make_table
from engine.data.dataset import Limits
from engine.errors import DataError

__all__ = ["ArrowRecords", "DamagedStreamError", "read_arrow_records"]

_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"
_MAX_LEVELS = 8
_INLINE = 12  # bytes of a text that its view holds itself

Array = npt.NDArray[Any]

# What the library raises over streams that are not what they say; its own errors derive from
# ValueError, KeyError, MemoryError, NotImplementedError and others.
_BROKEN = (
    pa.ArrowException,
    OSError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OverflowError,
    TypeError,
    ValueError,
)


class DamagedStreamError(DataError):
    """Bytes that are no Arrow IPC stream, or only a part of one."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ArrowRecords:
    """Columns of a stream, and what its schema says besides."""

    columns: dict[str, Any]
    """By name: arrays (rows, …) of numbers, booleans or times, or lists as JSON has them."""
    metadata: Mapping[bytes, bytes]


def read_arrow_records(content: bytes, *, max_bytes: int, max_cells: int) -> ArrowRecords:
    """Read a stream of at most so many bytes, once unpacked, and numbers or other values.

    Raises DamagedStreamError for what cannot be read, and DataError, at `#/inputs`, for what is
    not taken.
    """
    limits = Limits(
        max_rows=max_cells,
        max_columns=min(Limits().max_columns, max_cells),
        max_cells=max_cells,
        max_unpacked_bytes=max_bytes,
    )
    try:
        _require_whole(content)
        schema, chunks = _chunks(content, limits)
        columns: dict[str, Any] = {}
        cells = 0
        for field, column in zip(schema, chunks, strict=True):
            cells += sum(map(_cells, column.chunks))
            _check_cells(cells, limits)
            columns[field.name] = _values(field.name, column, limits)
    except DamagedStreamError:
        raise
    except DataError as error:
        pointer = error.pointer if error.pointer != "#" else "#/inputs"
        raise DataError(error.detail, pointer=pointer) from error
    except _BROKEN as error:
        raise DamagedStreamError(
            "the body cannot be read as an Arrow IPC stream: it is damaged, or of another format"
        ) from error
    return ArrowRecords(columns=columns, metadata=schema.metadata or {})


def _require_whole(content: bytes) -> None:
    """Refuse a stream without its end, which may have lost rows, and one with more behind it."""
    source = pa.BufferReader(content)
    refuse_compressed(source)
    if source.tell() != len(content) or not content.endswith(_END):
        raise DamagedStreamError(
            "the Arrow IPC stream does not end with its end-of-stream marker: close its writer, "
            "and send nothing behind it"
        )


def _chunks(content: bytes, limits: Limits) -> tuple[pa.Schema, list[pa.ChunkedArray]]:
    """Return the columns, whose values are not to be touched before they are validated."""
    with pa.ipc.open_stream(pa.BufferReader(content)) as reader:
        schema = reader.schema
        check_names(schema.names, limits)
        for field in schema:
            _check_type(field)
        chunks: list[list[pa.Array]] = [[] for _ in schema]
        rows = size = 0
        for batch in reader:
            rows += batch.num_rows
            limits.check_table(rows, len(chunks))
            batch.validate()  # of sizes
            size += batch.nbytes
            if size > limits.max_unpacked_bytes:
                raise _too_large(limits)
            for column, piece in zip(chunks, batch.columns, strict=True):
                column.append(piece)
    if not rows:
        raise DataError("there are no rows; give at least one")
    return schema, [
        pa.chunked_array(column, type=field.type)
        for column, field in zip(chunks, schema, strict=True)
    ]


def _check_type(field: pa.Field) -> None:
    """Refuse what is no number, boolean, text or time, and no list or tensor of such."""
    kind = field.type
    if isinstance(kind, pa.FixedShapeTensorType):
        if kind.permutation is not None and list(kind.permutation) != sorted(kind.permutation):
            raise DataError(
                f"column {field.name!r} holds tensors whose axes are permuted; send them in the "
                "order of their axes"
            )
        kind = kind.storage_type
    levels = 0
    while _is_list(kind) and levels <= _MAX_LEVELS:
        kind = kind.value_type
        levels += 1
    if not levels and pa.types.is_dictionary(kind):
        kind = kind.value_type
        levels = 1
    if not (_is_plain(kind) or (not levels and _is_scalar(kind))):
        raise DataError(
            f"column {field.name!r} is of a type that is not taken; take numbers, booleans, texts, "
            "dates or timestamps, or lists (or tensors) of numbers, booleans or texts"
        )


def _is_plain(kind: pa.DataType) -> bool:
    """Say whether lists and dictionaries may hold such values."""
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
    )


def _is_scalar(kind: pa.DataType) -> bool:
    return bool(
        kind == pa.string_view()
        or pa.types.is_decimal(kind)
        or pa.types.is_date(kind)
        or pa.types.is_timestamp(kind)
        or pa.types.is_null(kind)
    )


def _cells(chunk: pa.Array) -> int:
    """Return how many values a piece of a column holds, counted without reading one."""
    count = len(chunk)
    if isinstance(chunk, pa.ExtensionArray):
        chunk = chunk.storage
    while _is_list(chunk.type):
        chunk = chunk.values
        count = max(count, len(chunk))
    return count


def _check_cells(count: int, limits: Limits) -> None:
    if count > limits.max_cells:
        raise DataError(f"there are more than {limits.max_cells} values, the most that are taken")


def _too_large(limits: Limits) -> DataError:
    return DataError(f"the rows take more than {limits.max_unpacked_bytes} bytes once unpacked")


def _values(name: str, column: pa.ChunkedArray, limits: Limits) -> Any:
    """Return a column as an array, or as a list where it has gaps or holds texts."""
    try:
        # A stream may lie about offsets, indices and encodings; nothing below would survive that.
        column.validate(full=True)
    except (pa.ArrowException, ValueError) as error:
        raise DamagedStreamError(f"column {name!r} of the Arrow IPC stream is damaged") from error
    shape: Sequence[int] | None = None
    if isinstance(column.type, pa.FixedShapeTensorType):
        shape = column.type.shape
        column = pa.chunked_array(
            [chunk.storage for chunk in column.chunks], type=column.type.storage_type
        )
    if _is_list(column.type):
        array = _dense(column)
        if array is None:
            return column.to_pylist()
        return array if shape is None else array.reshape(len(array), *shape)
    if column.type == pa.string_view():
        check_text_size(column, limits)
        return [text for chunk in column.chunks for text in _viewed(chunk)]
    if pa.types.is_dictionary(column.type):
        check_text_size(column, limits)
        chunks = [chunk.dictionary_decode() for chunk in column.chunks]
        column = pa.chunked_array(chunks, type=column.type.value_type)
    if pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
        return _numpy(column.cast(pa.float64(), safe=False))
    plain = make_table([name], [column], limits).table
    assert plain is not None
    column = plain.column(0)
    is_text = pa.types.is_large_string(column.type)
    if is_text or (column.null_count and not pa.types.is_timestamp(column.type)):
        return column.to_pylist()
    return _numpy(column)


def _viewed(chunk: pa.Array) -> Iterator[str | None]:
    """Yield texts that are views (16 bytes each) into other buffers.

    Arrow itself does not look whether the view of a missing text points anywhere, and follows it.
    """
    _, views, *buffers = chunk.buffers()
    lengths = np.frombuffer(views, dtype="<i4").reshape(-1, 4)[chunk.offset :]
    valid = chunk.is_valid().to_pylist()
    for at, (is_valid, (length, _, index, start)) in enumerate(
        zip(valid, lengths.tolist()[: len(valid)], strict=True), start=chunk.offset
    ):
        if not is_valid:
            yield None
        elif length <= _INLINE:
            yield views[16 * at + 4 : 16 * at + 4 + length].to_pybytes().decode()
        else:
            yield buffers[index][start : start + length].to_pybytes().decode()


def _dense(column: pa.ChunkedArray) -> Array | None:
    """Return lists of numbers or booleans as an array (rows, …).

    None where there are gaps, or lists of several lengths.
    """
    parts = [_dense_part(chunk) for chunk in column.chunks if len(chunk)]
    there = [part for part in parts if part is not None]
    if len(there) < len(parts) or len({part.shape[1:] for part in there}) > 1:
        return None
    return np.concatenate(there)


def _dense_part(chunk: pa.Array) -> Array | None:
    if chunk.null_count:
        return None
    if not _is_list(chunk.type):
        if pa.types.is_string(chunk.type) or pa.types.is_large_string(chunk.type):
            return None
        return _numpy(chunk)
    inner = _dense_part(chunk.flatten())
    if inner is None or not len(chunk) or len(inner) % len(chunk):
        return None
    length = len(inner) // len(chunk)
    if not pa.types.is_fixed_size_list(chunk.type):
        offsets = chunk.offsets.to_numpy()
        if (np.diff(offsets) != length).any():
            return None
    return inner.reshape(len(chunk), length, *inner.shape[1:])


def _numpy(column: pa.Array | pa.ChunkedArray) -> Array:
    if isinstance(column, pa.ChunkedArray):
        values: Array = column.to_numpy()
    else:
        values = column.to_numpy(zero_copy_only=False)
    return values


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )
