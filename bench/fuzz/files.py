"""Files of every format that is read, sound ones and crafted ones."""

from __future__ import annotations

import gzip
import io
import json
import random
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy

__all__ = ["CRAFTED", "sound"]

CSV, PARQUET = "text/csv", "application/vnd.apache.parquet"
STREAM, NPZ = "application/vnd.apache.arrow.stream", "application/x-npz"
JSON, NDJSON, PLAIN = "application/json", "application/x-ndjson", "text/plain"


def sound() -> Mapping[str, list[bytes]]:
    """Return good files by their media type, and `weights` for the route of models."""
    table = pa.table(
        {
            "city": pa.array(["Rome", "Oslo", None] * 8),
            "age": pa.array([None if i % 7 == 0 else i * 1.5 for i in range(24)]),
            "flag": pa.array([i % 2 == 0 for i in range(24)]),
            "since": pa.array(range(18_600, 18_624), pa.date32()),
            "y": pa.array(range(24), pa.int64()),
        }
    )
    rows = json.loads(json.dumps(table.to_pylist(), default=str))
    lines = ["city,age,flag,since,y"]
    lines += [",".join("" if v is None else str(v) for v in row.values()) for row in rows]
    csv = "\n".join(lines).encode()
    arrays = {
        "x": np.arange(96, dtype=np.float32).reshape(24, 2, 2),
        "y": np.arange(24, dtype=np.int64),
        "label": np.array(["a", "bc"] * 12),
    }
    weights = {"out.w": np.ones((2, 1), np.float32), "out.b": np.zeros(1, np.float32)}
    return {
        CSV: [csv, csv.replace(b",", b";").replace(b"\n", b"\r\n"), b'a,"b ""c"\n1,"x\ny"\n2,z\n'],
        PARQUET: [
            _parquet(table),
            _parquet(table, compression="zstd", use_dictionary=False, data_page_version="2.0"),
            _parquet(table, compression="gzip", row_group_size=5),
        ],
        STREAM: [
            _stream(table),
            _stream(table.combine_chunks(), "zstd"),
            _stream(table.set_column(0, "city", table["city"].dictionary_encode()), "lz4"),
            _stream(pa.table({"x": pa.array([[[1.0, 2.0]] * 3] * 4), "y": pa.array([1, 2, 3, 4])})),
        ],
        NPZ: [_npz(np.savez, arrays), _npz(np.savez_compressed, arrays)],
        JSON: [
            json.dumps(rows).encode(),
            json.dumps({k: [r[k] for r in rows] for k in rows[0]}).encode(),
        ],
        NDJSON: ["\n".join(map(json.dumps, rows)).encode()],
        PLAIN: ["Ünïcode \u202e text\nof two lines".encode()],
        "weights": [safetensors.numpy.save(weights)],
    }


def _parquet(table: pa.Table, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


def _stream(table: pa.Table, compression: str | None = None) -> bytes:
    buffer = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(buffer, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=10)
    return buffer.getvalue()


def _npz(write: Callable[..., None], arrays: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    write(buffer, **arrays)
    return buffer.getvalue()


# -- crafted: whole files that say what no honest writer says --------------------------------------


def _npy_head(chance: random.Random) -> tuple[str, bytes]:
    """An npz archive whose array claims an odd type or shape."""
    descr = chance.choice(
        [
            "'<f8'",
            "'|O'",
            "'<U9999999'",
            "'|V8'",
            "'<f16'",
            "[('a', '<f8')]",
            "'<M8[s]'",
            "''",
            "'<c16'",
            "'|S0'",
            "'<i3'",
        ]
    )
    shape = chance.choice(
        [
            "(3,)",
            "(-1,)",
            f"({2**62},)",
            f"({2**33}, {2**33})",
            "()",
            "(0,)",
            "(1,1,1,1,1)",
            "(3L,)",
            "3",
            "(__import__('os'),)",
            "(1e9,)",
            "(" * 200,
            f"({'1,' * 30})",
        ]
    )
    order = chance.choice(["False", "True", "None", "0"])
    head = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    claimed = chance.choice([len(head), len(head), 0, 65535, len(head) - 3])
    version = chance.choice([1, 1, 2, 3, 9])
    form = "<H" if version == 1 else "<I"
    npy = b"\x93NUMPY" + bytes([version, 0]) + struct.pack(form, claimed) + head + bytes(24)
    name = chance.choice(
        ["x.npy", "../x.npy", "/etc/x.npy", "x", "x.npy\x00", "é.npy", "a" * 70 + ".npy"]
    )
    return NPZ, _zip(chance, {name: npy})


def _zip(chance: random.Random, members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    packing = chance.choice(
        [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    )
    with zipfile.ZipFile(buffer, "w", packing) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
            if chance.randrange(6) == 0:
                archive.writestr(zipfile.ZipInfo(name + "2"), bytes(2**16))
    return buffer.getvalue()


def _packed(chance: random.Random) -> tuple[str, bytes]:
    """Something packed, bombs among it, that says it is something else."""
    inner = chance.choice([b"a,b\n1,2\n3,4\n", bytes(2**20), b"[" * 2**16, b"a\n" + b"1\n" * 2**18])
    packed = gzip.compress(inner)
    if chance.randrange(2):
        packed = gzip.compress(packed)
    return chance.choice([CSV, JSON, NDJSON, NPZ, PARQUET, STREAM, PLAIN]), packed


def _nested(chance: random.Random) -> tuple[str, bytes]:
    """JSON that nests, repeats keys, or holds numbers and texts that few readers take."""
    depth = chance.choice([10, 253, 255, 5000, 100_000])
    value = chance.choice([
        b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth, b"[" * depth,
        b'[{"a":1,"a":2}]', b'[{"a":1e999},{"a":-1e999}]', b'[{"a":"\\ud800"}]',
        b'[{"a":"\xed\xa0\x80"}]',
        b'[{"a":' + b"9" * 5000 + b"}]", b'[{"a":NaN}]', b'{"a":[1,2],"b":[1]}', b'[[1,2],[3]]',
        b'[{"":1},{"\\u0000":2}]', b'{"x":[[[1],[2]],[[3],[4]]],"y":[1,2]}',
        b'[{"a":{"b":{"c":[1]}}}]',
        b'[{"a":1},{"b":2},{"a":"x"},null,3]', b'[]', b'{}', b'""', b'[{}]', b'{"a":[]}',
        b"\xef\xbb\xbf[]",
    ])  # fmt: skip
    return chance.choice([JSON, NDJSON]), value


def _odd_csv(chance: random.Random) -> tuple[str, bytes]:
    """CSV with many columns, long fields, open quotes, odd ends of lines, odd encodings."""
    content = chance.choice([
        b"a" * 2**20, b",".join(b"c%d" % i for i in range(20_000)) + b"\n" + b"1," * 20_000,
        b'"a\n1\n', b"a,a\n1,2\n",
        b"a,b\n" + b"1,2,3\n" * 3, b"a\x00b,c\n1,2\n", b"a,b\r1,2\r3,4",
        "ä,b\n1,2\n".encode("latin-1"),
        "a,b\n1,2\n".encode("utf-16"), b"a,b\n" + b'"' * 1001 + b",1\n", b"\n\n\n",
        b"a\n" + b"9" * 10_000 + b"\n",
        b",\n,\n", b"a,b\n1,2\n" + b"1,x\n" * 5000 + b"1.5,2021-01-01\n",
        b"a\n" + b"true\n" * 3000 + b"7\n",
        b"y\n" + b"2021-02-30\n2021-02-28\n", b"a,b\n0x1f,1_000\n", b"a;b|c\td,e\n1;2|3\t4,5\n",
        b"=1+1\n=2\n",
    ])  # fmt: skip
    return CSV, content


def _odd_table(chance: random.Random) -> tuple[str, bytes]:
    """Arrow or Parquet of types that a table seldom has, and of names that are none."""
    made: list[Callable[[], pa.Array]] = [
        lambda: pa.array([[1, 2], None, []], pa.list_(pa.int8())),
        lambda: pa.array([{"a": 1}, None, {"a": 3}]),
        lambda: pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int8())),
        lambda: pa.array([1, 2, None], pa.timestamp("ns", "Europe/Rome")),
        lambda: pa.array([1, 2, 2**62], pa.timestamp("s")),
        lambda: pa.array([1, 2, 3], pa.duration("us")),
        lambda: pa.array([b"\xff\xfe", None, b""], pa.binary()),
        lambda: pa.nulls(3),
        lambda: pa.array([1, 2, 2**64 - 1], pa.uint64()),
        lambda: pa.array([1.0, float("nan"), float("inf")], pa.float16()),
        lambda: pa.array(["a", "b", None], pa.large_utf8()),
        lambda: pa.array(["a", "b", None], pa.string_view()),
        lambda: pa.array([1, 2, None], pa.decimal128(38, 10)),
        lambda: pa.RunEndEncodedArray.from_arrays([1, 3], pa.array(["a", "b"])),
        _wild_dictionary,
        lambda: pa.UnionArray.from_dense(
            pa.array([0, 1, 0], pa.int8()),
            pa.array([0, 0, 1], pa.int32()),
            [pa.array([1, 2]), pa.array(["a"])],
        ),
        lambda: pa.array([1, 2, 3], pa.time64("ns")),
    ]
    columns = [chance.choice(made)() for _ in range(chance.randint(1, 3))]
    names = [chance.choice(["x", "y", "", "é/~", "a" * 300, "x\x00", "*", "\n"]) for _ in columns]
    table = pa.Table.from_arrays(columns, names=names)
    if chance.randrange(3) == 0:
        table = table.slice(0, 0)
    writers: list[tuple[str, Any]] = [(STREAM, _stream)]
    if not any(pa.types.is_dictionary(column.type) for column in columns):
        writers.append((PARQUET, _parquet))  # which would follow the wild indices itself
    media_type, write = chance.choice(writers)
    try:
        return str(media_type), bytes(write(table))
    except (pa.ArrowException, ValueError, NotImplementedError):  # not to be had in this format
        return media_type, b""


def _wild_dictionary() -> pa.Array:
    """Indices that no dictionary has."""
    indices = pa.array([0, 99, -5], pa.int32())
    return pa.DictionaryArray.from_arrays(indices, pa.array(["a", "b"]), safe=False)


def _wild_offsets(chance: random.Random) -> tuple[str, bytes]:
    """A stream whose texts are not UTF-8, or whose offsets run beyond their buffer."""
    right = np.array([0, 3, 7, 12], np.int32).tobytes()
    text = pa.array(["abc", "defg", "hijkl"])
    numbers = pa.array([[1, 2, 3], [4] * 4, [5] * 5], pa.list_(pa.int64()))
    content = _stream(pa.table({"t": text, "n": numbers, "y": [1, 2, 3]}))
    if chance.randrange(2):
        return STREAM, content.replace(b"defg", b"\xff\xfe\xc0\x80")
    wild = chance.choice(
        [(0, 3, 1, 12), (0, 3, 7, 2**30), (-4, 3, 7, 12), (5, 3, 7, 12), (0, 0, 0, -1)]
    )
    return STREAM, content.replace(right, np.array(wild, np.int32).tobytes(), chance.choice([1, 2]))


CRAFTED: tuple[Callable[[random.Random], tuple[str, bytes]], ...] = (
    _npy_head, _packed, _nested, _odd_csv, _odd_table, _odd_table, _wild_offsets,
)  # fmt: skip
"""Each makes one file, with the media type that it claims."""
