"""npz archives: read without trust and without pickle, written with the same bytes every time."""

from __future__ import annotations

import io
import math
import mmap
import re
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from engine.data.dataset import Data, Limits
from engine.errors import DataError

__all__ = [
    "check_arrays",
    "is_array_name",
    "load_npz",
    "map_npz",
    "parse_npz",
    "write_npz",
    "write_npz_pieces",
]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_MAGIC = b"\x93NUMPY"
_MAX_HEADER = 4096
_MAX_DIRECTORY = 2**20
_MAX_DIMENSIONS = 4
_MAX_LABEL = 1024
_END_RECORD = 22
_PIECE = 2**22


@dataclass(frozen=True)
class _Header:
    """What the head of an npy file says about the array that follows."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    length: int  # of the head itself, in bytes

    @property
    def nbytes(self) -> int:
        size = self.dtype.itemsize
        for dimension in self.shape:
            size *= dimension  # Python's integers: a product that no machine word could hold
        return size


def parse_npz(path: Path, limits: Limits) -> Data:
    """Read an npz archive of numbers, booleans and text labels with as many rows each."""
    _check_directory(path)
    with zipfile.ZipFile(path) as archive:
        members = _members(archive, limits)
        headers = {name: _read_header(archive, name, member) for name, member in members.items()}
        _check_rows(headers, limits)
        arrays = {
            name: _read_array(archive, name, members[name], header)
            for name, header in headers.items()
        }
    for name, array in arrays.items():
        _check_values(name, array)
    return Data(arrays=arrays)


def check_arrays(arrays: Mapping[str, npt.NDArray[Any]], limits: Limits) -> None:
    """Refuse arrays in memory that an npz archive could not hold, or that are not alike."""
    if len(arrays) > limits.max_arrays:
        raise DataError(f"{len(arrays)} arrays are too many; at most {limits.max_arrays} are taken")
    for name, array in arrays.items():
        if not _NAME.fullmatch(name):
            raise DataError(
                f"{name[:80]!r} does not name an array; names are letters, digits, '_', '-' and "
                "'.', up to 64 of them"
            )
        if array.dtype.kind == "U" and array.dtype.itemsize > 4 * _MAX_LABEL:
            raise DataError(f"array {name!r} has a text of more than {_MAX_LABEL} characters")
    headers = {name: _Header(array.dtype, array.shape, False, 0) for name, array in arrays.items()}
    _check_rows(headers, limits)
    for name, array in arrays.items():
        _check_values(name, array)


def is_array_name(name: str) -> bool:
    """Say whether an array may be called so."""
    return _NAME.fullmatch(name) is not None


def _check_directory(path: Path) -> None:
    """Refuse a directory too long to be that of some arrays, before it is read into memory."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _END_RECORD - 2**16 - 20))
        tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) - end < _END_RECORD:
        raise DataError("this is not an npz archive, or it breaks off before its end")
    (directory,) = struct.unpack_from("<I", tail, end + 12)
    if directory > _MAX_DIRECTORY or tail.rfind(b"PK\x06\x07", 0, end) == end - 20 >= 0:
        raise DataError("the npz archive has a directory that is too long")


def _members(archive: zipfile.ZipFile, limits: Limits) -> dict[str, zipfile.ZipInfo]:
    entries = archive.infolist()
    if not entries:
        raise DataError("the npz archive is empty")
    if len(entries) > limits.max_arrays:
        raise DataError(
            f"{len(entries)} arrays are too many; at most {limits.max_arrays} are taken"
        )
    members: dict[str, zipfile.ZipInfo] = {}
    total = 0
    for position, entry in enumerate(entries, start=1):
        name = entry.filename.removesuffix(".npy")
        if not entry.filename.endswith(".npy") or not _NAME.fullmatch(name):
            raise DataError(
                f"member {position} of the archive is not named as an array; names are letters, "
                "digits, '_', '-' and '.', up to 64 of them, and end in .npy"
            )
        if name in members:
            raise DataError(f"the archive has two arrays named {name!r}")
        if entry.flag_bits & 1:
            raise DataError(f"array {name!r} is encrypted")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(
                f"array {name!r} is packed in a way that is not taken; use deflate or none"
            )
        total += entry.file_size
        if total > limits.max_unpacked_bytes:
            raise DataError(
                f"the arrays take more than {limits.max_unpacked_bytes} bytes "
                "once they are unpacked"
            )
        members[name] = entry
    return members


def _read_header(archive: zipfile.ZipFile, name: str, member: zipfile.ZipInfo) -> _Header:
    with archive.open(member) as file:
        header = read_header(file)
    if header is None:
        raise DataError(
            f"array {name!r} has no readable head, or is not of numbers, booleans or text; "
            "object and structured arrays are not taken"
        )
    if header.length + header.nbytes != member.file_size:
        raise DataError(f"array {name!r} says that it has another size than it has")
    return header


def read_header(file: IO[bytes]) -> _Header | None:
    """Read the head of an npy file; None unless it is one, of a dtype that we take.

    NumPy would evaluate the head as a Python literal; a few patterns read as much as we take.
    """
    prefix = file.read(8)
    if len(prefix) < 8 or prefix[:6] != _MAGIC or prefix[6] not in (1, 2, 3):
        return None
    width = 2 if prefix[6] == 1 else 4
    length = int.from_bytes(file.read(width), "little")
    if length > _MAX_HEADER:
        return None
    text = file.read(length).decode("latin-1")
    descr = re.findall(r"'descr': ?'([<>|=]?[a-zA-Z]\d{1,6}|\?)'", text)
    order = re.findall(r"'fortran_order': ?(True|False)", text)
    shape = re.findall(r"'shape': ?\(([\d, L]*)\)", text)
    if len(text) != length or not len(descr) == len(order) == len(shape) == 1:
        return None
    numbers = [part.strip().rstrip("L") for part in shape[0].split(",")]
    if not all(len(number) < 20 for number in numbers):
        return None
    try:
        dtype = np.dtype(descr[0])
        dimensions = tuple(int(number) for number in numbers if number)
    except (TypeError, ValueError):
        return None
    if dtype.kind not in "fiubU" or dtype.itemsize == 0 or dtype.hasobject:
        return None
    if (dtype.kind == "f" and dtype.itemsize > 8) or dtype.itemsize > 4 * _MAX_LABEL:
        return None
    return _Header(dtype, dimensions, order[0] == "True", 8 + width + length)


def _check_rows(headers: Mapping[str, _Header], limits: Limits) -> None:
    rows: int | None = None
    for name, header in headers.items():
        shape = header.shape
        if not 1 <= len(shape) <= _MAX_DIMENSIONS:
            raise DataError(
                f"array {name!r} has {len(shape)} dimensions; an array has rows first and "
                f"1 to {_MAX_DIMENSIONS} dimensions"
            )
        if 0 in shape:
            raise DataError(f"array {name!r} is empty: its shape is {list(shape)}")
        rows = shape[0] if rows is None else rows
        if shape[0] != rows:
            raise DataError(
                f"array {name!r} has {shape[0]} rows, {next(iter(headers))!r} has {rows}; "
                "all arrays of a data set have the same first dimension"
            )
        if shape[0] > limits.max_rows:
            raise DataError(f"{rows} rows are too many; at most {limits.max_rows} are taken")


def _read_array(
    archive: zipfile.ZipFile, name: str, member: zipfile.ZipInfo, header: _Header
) -> npt.NDArray[Any]:
    # Grown as it is unpacked, so that a size which is only claimed takes no memory.
    content = bytearray()
    with archive.open(member) as file:
        file.read(header.length)
        while piece := file.read(_PIECE):
            content += piece
    flat = np.frombuffer(content, dtype=header.dtype)
    if header.dtype.kind == "b" and content and np.frombuffer(content, dtype=np.uint8).max() > 1:
        raise DataError(f"array {name!r} is of booleans, but holds other values")
    array = flat.reshape(header.shape, order="F" if header.fortran else "C")
    return np.ascontiguousarray(array, dtype=header.dtype.newbyteorder("="))


def _check_values(name: str, array: npt.NDArray[Any]) -> None:
    flat = array.reshape(-1)
    for start in range(0, len(flat), _PIECE):
        piece = flat[start : start + _PIECE]
        if array.dtype.kind == "f" and not np.isfinite(piece).all():
            at = start + int(np.argmin(np.isfinite(piece)))
            position = [int(i) for i in np.unravel_index(at, array.shape)]
            raise DataError(
                f"array {name!r} is not finite at {position}; arrays hold no NaN and no infinities"
            )
        if array.dtype.kind == "U":
            codes = piece.view(np.uint32)
            if bool((codes > 0x10FFFF).any() | ((codes >= 0xD800) & (codes < 0xE000)).any()):
                raise DataError(f"array {name!r} has a text that is not Unicode")


def write_npz(arrays: Mapping[str, npt.NDArray[Any]], file: IO[bytes]) -> None:
    """Write the arrays in their order; the bytes depend on names, order and contents only."""
    write_npz_pieces({name: [array] for name, array in arrays.items()}, file)


def write_npz_pieces(arrays: Mapping[str, Sequence[npt.NDArray[Any]]], file: IO[bytes]) -> None:
    """Write arrays that lie in pieces of some rows each, with no more of them in memory than one.

    The bytes are those of `write_npz` of the whole arrays.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, pieces in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")  # dated 1980
            member.create_system = 3
            member.external_attr = 0o600 << 16
            # Contiguous and of native order: one content, one head.
            dtype = np.result_type(*(piece.dtype for piece in pieces)).newbyteorder("=")
            shape = (sum(len(piece) for piece in pieces), *pieces[0].shape[1:])
            head = {
                "descr": np.lib.format.dtype_to_descr(dtype),
                "fortran_order": False,
                "shape": shape,
            }
            large = math.prod(shape) * dtype.itemsize > 2**31 - 2**16
            with archive.open(member, "w", force_zip64=large) as stream:
                np.lib.format.write_array_header_1_0(stream, head)
                for piece in pieces:
                    _write_rows(stream, piece, dtype)


def _write_rows(stream: IO[bytes], array: npt.NDArray[Any], dtype: np.dtype[Any]) -> None:
    size = max(1, dtype.itemsize * math.prod(array.shape[1:]))
    step = max(1, _PIECE // size)
    for start in range(0, len(array), step):
        stream.write(np.ascontiguousarray(array[start : start + step], dtype=dtype).tobytes())


def load_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Map the arrays of an archive written by `write_npz`, without reading them."""
    with path.open("rb") as file:
        return map_npz(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def map_npz(mapping: mmap.mmap) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a mapped archive written by `write_npz`, without reading them."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    with zipfile.ZipFile(cast(IO[bytes], mapping)) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise DataError("the stored arrays are damaged")
            local = mapping[member.header_offset : member.header_offset + 30]
            skip = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
            start = member.header_offset + 30 + skip
            size = min(member.file_size, _MAX_HEADER + 12)
            header = read_header(io.BytesIO(mapping[start : start + size]))
            if header is None or header.length + header.nbytes != member.file_size:
                raise DataError("the stored arrays are damaged")
            name = member.filename.removesuffix(".npy")
            flat = np.frombuffer(
                mapping,
                dtype=header.dtype,
                count=math.prod(header.shape),
                offset=start + header.length,
            )
            arrays[name] = flat.reshape(header.shape)
    return arrays
