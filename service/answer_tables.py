"""Answers as Arrow IPC streams: a row for each input row, a column for each statistic and target.

What is no number or label of a row is JSON, in the schema's metadata.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from engine.artifact import Model
from engine.collation import MAX_COLUMNS, column_of, type_of
from engine.data.labels import Label
from engine.tabulation import Block, blocks_of

__all__ = ["ANSWER", "STREAM", "arrow_of"]

STREAM = "application/vnd.apache.arrow.stream"
ANSWER = b"bernoulli.answer"
"""The key, among the schema's metadata, of the rest of the answer."""
ROW = "row"
_BATCH_NUMBERS = 2**20

Array = npt.NDArray[Any]


def arrow_of(answer: Mapping[str, Any], model: Model) -> bytes:
    """Write an answer, whose `outputs` are arrays.

    `rows` of the answer become its first column.
    """
    rest = dict(answer)
    columns: dict[str, pa.Array] = {}
    if "rows" in rest:
        columns[ROW] = pa.array(np.asarray(rest.pop("rows"), dtype=np.int64))
    columns |= dict(_columns(blocks_of(answer["outputs"], model), model))
    rest["outputs"] = _scalars(answer["outputs"])
    metadata = {ANSWER: orjson.dumps(rest, option=orjson.OPT_SERIALIZE_NUMPY)}
    table = pa.table(columns).replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=_batch_rows(table))
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _columns(blocks: Sequence[Block], model: Model) -> Iterator[tuple[str, pa.Array]]:
    """Yield columns by name: of each number of a row where these are not too many, else lists.

    Lists, too, where two numbers would have one name.
    """
    classes = model.encoding.classes or ()
    is_table = len(model.graph.last.shape) == 1
    apart = [block for block in blocks if is_table and _is_apart(block)]
    if sum(_width(block) for block in apart) > MAX_COLUMNS or not _are_distinct(apart, blocks):
        apart = []
    for block in blocks:
        if block in apart:
            for name, values in _series(block):
                yield name, _column(values, classes)
        else:
            yield block.name, _column(block.values, classes)


def _is_apart(block: Block) -> bool:
    """Say whether each target (class) of a statistic can be a column by itself."""
    if block.name == "samples":
        return block.values.ndim == 3 and block.labels is not None
    return block.is_flat and not (block.values.dtype == object and block.values.ndim > 1)


def _are_distinct(apart: Sequence[Block], blocks: Sequence[Block]) -> bool:
    names = [ROW, *(block.name for block in blocks if block not in apart)]
    names += [name for block in apart for name, _ in _series(block)]
    return len(set(names)) == len(names)


def _width(block: Block) -> int:
    return int(block.values.shape[-1]) if block.values.ndim > 1 else 1


def _series(block: Block) -> Iterator[tuple[str, Array]]:
    """Yield what is a column each: numbers of a flat block, the passes of each target."""
    if block.is_flat:
        yield from block.columns()
        return
    names = Block(name=block.name, values=block.values[:, 0], labels=block.labels).columns()
    for index, (name, _) in enumerate(names):
        yield name, block.values[:, :, index]


def _column(values: Array, classes: Sequence[Label]) -> pa.Array:
    """Return values (rows, …) as numbers or labels, as lists of a fixed size, or as tensors."""
    kind = type_of(values, classes)
    if values.dtype == object and values.ndim == 1 and all(isinstance(v, str) for v in values):
        kind = pa.large_string()  # also texts that are no labels
    column = column_of(np.ascontiguousarray(values).reshape(-1), kind)
    if values.ndim == 1:
        return column
    shape = values.shape[1:]
    column = pa.FixedSizeListArray.from_arrays(column, int(np.prod(shape)))
    if len(shape) == 1:
        return column
    return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(kind, shape), column)


def _scalars(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is the same for all rows, such as the coverage of an interval."""
    found: dict[str, Any] = {}
    for name, value in outputs.items():
        if isinstance(value, Mapping):
            within = _scalars(value)
            if within:
                found[name] = within
        elif not isinstance(value, np.ndarray):
            found[name] = value
    return found


def _batch_rows(table: pa.Table) -> int:
    """Return how many rows make a batch of some megabytes."""
    return max(1, int(_BATCH_NUMBERS * 8 * table.num_rows // max(1, table.nbytes)))
