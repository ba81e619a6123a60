"""No file, however it is broken or meant, does more than raise a DataError of our own words."""

from __future__ import annotations

import io
import random
import struct
import time
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from engine.data.columnar import _is_compressed
from engine.data.formats import MEDIA_TYPES, Limits, parse, save
from engine.data.profile import profile
from engine.data.writing import WRITABLE, write
from engine.errors import DataError
from tests.engine.data.conftest import Parse, npz
from tests.engine.data.test_parsing import _parquet, _stream

LIMITS = Limits(max_rows=10_000, max_cells=100_000, max_unpacked_bytes=2**24)


def _seeds() -> dict[str, bytes]:
    table = pa.table(
        {
            "i": [1, 2, None],
            "n": [1.5, -2.25, 1e300],
            "t": pa.array(["x", "é", "x"]).dictionary_encode(),
            "s": ["long text", None, ""],
            "b": [True, None, False],
            "d": pa.array([0, 1, 2], type=pa.timestamp("ms")),
        }
    )
    return {
        "text/csv": b'i,n,t,b,d\n1,1.5,"x\n""y""",true,2020-01-01\n2,-2e3,,false,2020-01-02\n',
        "application/vnd.apache.parquet": _parquet(table),
        "application/vnd.apache.arrow.stream": _stream(table),
        "application/x-ndjson": b'{"a": 1, "b": "x"}\n{"a": 2.5, "c": true}\n',
        "application/json": b'{"a": [1, 2.5], "b": ["2020-01-01", null], "c": [null, true]}',
        "application/x-npz": npz(
            x=np.arange(6.0).reshape(3, 2), y=np.array(["a", "b", "c"]), z=np.array([True] * 3)
        ),
        "text/plain": "Ein Stück\r\nText, größer als nichts.\n".encode(),
    }


def _nested_seeds() -> list[tuple[str, bytes]]:
    """Files whose columns of lists are arrays."""
    table = pa.table(
        {
            "x": pa.array([[[1.0, 2.0]] * 3] * 4, pa.list_(pa.list_(pa.float64(), 2))),
            "y": pa.array([[1, 2]] * 4, pa.large_list(pa.int16())),
            "b": [True, False, True, True],
            "t": pa.array(["u", "v", "u", "w"]).dictionary_encode(),
        }
    )
    return [
        ("application/vnd.apache.arrow.stream", _stream(table)),
        ("application/json", b'{"x": [[[1, 2.5], [3, 4]], [[5, 6], [7, 8]]], "t": ["a", "b"]}'),
    ]


def _mangled(content: bytes, draw: random.Random) -> bytes:
    mangled = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 8])):
        at = draw.randrange(len(mangled))
        match draw.randrange(5):
            case 0:
                mangled[at] ^= 1 << draw.randrange(8)
            case 1:
                mangled[at] = draw.choice(b'\x00\xff\x7f"\n,\r;{[\\')
            case 2:
                del mangled[at : at + draw.randrange(1, 9)]
            case 3:
                mangled[at:at] = mangled[: draw.randrange(1, 17)]
            case _:
                word = draw.choice([2**31 - 1, 2**32 - 1, 2**24])
                mangled[at : at + 4] = struct.pack("<I", word)
        if not mangled:
            break
    return bytes(mangled)


def test_the_fuzzed_formats_are_all_that_are_taken() -> None:
    assert set(_seeds()) == set(MEDIA_TYPES)


@pytest.mark.parametrize(("media_type", "content"), [*_seeds().items(), *_nested_seeds()])
def test_a_mangled_file_is_a_data_error_or_a_sound_data_set(
    media_type: str, content: bytes, tmp_path: Path
) -> None:
    draw = random.Random(7)
    messages: set[str] = set()
    path, stored = tmp_path / "upload", tmp_path / "stored"
    cut = [content[:length] for length in range(0, len(content), max(1, len(content) // 100))]
    for mangled in [*cut, *(_mangled(content, draw) for _ in range(500))]:
        path.write_bytes(mangled)
        try:
            data = parse(path, media_type, limits=LIMITS)
        except DataError as error:
            messages.add(error.detail)
            continue
        profile(data).model_dump_json()
        save(data, stored)
        b"".join(write(data, WRITABLE[data.kind][0]))
    assert messages
    assert not any(str(tmp_path) in message for message in messages)


# A pool must outlive what was allocated from it, and Arrow's threads may still hold some of that.
_POOLS: list[pa.MemoryPool] = []


def _peak_bytes(path: Path, media_type: str, limits: Limits) -> int:
    """Return the memory that Python and Arrow held at most while the file was refused."""
    pool = pa.default_memory_pool()
    counted = pa.proxy_memory_pool(pool)
    _POOLS.append(counted)
    pa.set_memory_pool(counted)
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            parse(path, media_type, limits=limits)
        return tracemalloc.get_traced_memory()[1] + int(counted.max_memory())
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(pool)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    file = io.BytesIO()
    np.savez_compressed(file, x=np.zeros(2**24))
    path = tmp_path / "bomb"
    path.write_bytes(file.getvalue())

    assert _peak_bytes(path, "application/x-npz", Limits(max_unpacked_bytes=2**26)) < 2**20


def _npz_of(header: str, body: bytes = b"", name: str = "x.npy") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        head = header.encode("latin-1")
        archive.writestr(name, b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + body)
    return file.getvalue()


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 99999999999), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (" + "9" * 60 + ",), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (2,), 'shape': (1,), }",
        "{'descr': '<U999999', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '<f3', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '<f16', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '<U0', 'fortran_order': False, 'shape': (1,), }",
        "(" * 4000,
        "(" * 5000,
        "",
    ],
)
def test_a_head_that_claims_what_is_not_there_is_refused(parsed: Parse, header: str) -> None:
    with pytest.raises(DataError, match="'x'"):
        parsed(_npz_of(header, b"\0" * 8), "application/x-npz")


@pytest.mark.parametrize(
    ("descr", "body", "says"),
    [("|b1", b"\x02", "booleans"), ("<U1", struct.pack("<I", 0xD800), "Unicode"),
     ("<U1", struct.pack("<I", 0xFFFFFFFF), "Unicode")],
)  # fmt: skip
def test_bytes_that_are_no_value_of_their_type_are_refused(
    parsed: Parse, descr: str, body: bytes, says: str
) -> None:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': (1,), }}"
    with pytest.raises(DataError, match=says):
        parsed(_npz_of(header, body), "application/x-npz")


def test_two_members_of_one_name_are_refused(parsed: Parse) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for _ in range(2):
            member = zipfile.ZipInfo("x.npy")
            content = io.BytesIO()
            np.save(content, np.zeros(1))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # zipfile's own, of the name written twice
                archive.writestr(member, content.getvalue())
    with pytest.raises(DataError, match="two arrays named 'x'"):
        parsed(file.getvalue(), "application/x-npz")


def test_an_archive_of_very_many_members_is_refused_before_they_are_listed(parsed: Parse) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for index in range(20_000):
            archive.writestr(f"a{index}.npy", b"")
    with pytest.raises(DataError, match="too long"):
        parsed(file.getvalue(), "application/x-npz")


def test_a_header_of_a_million_columns_is_refused_at_once(parsed: Parse) -> None:
    names = b",".join(b"c%d" % index for index in range(1_000_000))
    started = time.perf_counter()
    with pytest.raises(DataError, match="at most"):
        parsed(names + b"\n" + b"1," * 999_999 + b"1\n")
    assert time.perf_counter() - started < 20


def test_a_row_without_end_is_refused(parsed: Parse) -> None:
    with pytest.raises(DataError, match="longer than 1000"):
        parsed(b"a,b\n1," + b"x" * 10_000 + b"\n", limits=Limits(max_row_bytes=1000))
    with pytest.raises(DataError, match=r"(longer than|too long)"):
        parsed(b"a" * 10_000, limits=Limits(max_row_bytes=1000))


@pytest.mark.parametrize("encode", ["parquet", "arrow.stream"])
def test_one_long_text_repeated_is_refused_before_it_is_unpacked(
    tmp_path: Path, encode: str
) -> None:
    words = pa.DictionaryArray.from_arrays(pa.array([0] * 5000, pa.int32()), ["x" * 100_000])
    table = pa.table({"t": words})
    path = tmp_path / "bomb"
    path.write_bytes(_parquet(table) if encode == "parquet" else _stream(table))
    assert path.stat().st_size < 2**20

    peak = _peak_bytes(path, f"application/vnd.apache.{encode}", Limits(max_unpacked_bytes=2**26))

    assert peak < 2**23


def test_more_rows_than_any_file_holds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(_parquet(pa.table({"a": np.zeros(1_000_000)})))
    peak = _peak_bytes(path, "application/vnd.apache.parquet", Limits(max_rows=1000))
    assert peak < 2**20

    nothing = pa.Array.from_buffers(pa.null(), 2**31 - 1, [None])
    path.write_bytes(_stream(pa.table({"a": nothing})))
    assert path.stat().st_size < 1000
    assert _peak_bytes(path, "application/vnd.apache.arrow.stream", Limits()) < 2**20


def test_a_member_that_is_no_array_is_refused(parsed: Parse) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", b"no array at all")
    with pytest.raises(DataError, match="'x' has no readable head"):
        parsed(file.getvalue(), "application/x-npz")


def test_a_message_that_says_nothing_is_not_compressed() -> None:
    assert not _is_compressed(b"", dictionary=True)
