"""Files as strange programs write them are read, stored, described and planned with, or refused."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.data.delimited import Dialect
from engine.data.formats import load, parse, save
from engine.data.profile import profile
from engine.data.schema import Schema
from engine.data.writing import WRITABLE, write
from engine.errors import EngineError
from engine.plan import plan_training
from engine.spec import TrainSpec

SETTINGS = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SPEC = TrainSpec.model_validate({"network": {"layers": [None, 2, None]}})
WORDS = st.sampled_from(
    [
        *("", " ", "NA", "nan", "NaN", "-nan", "inf", "-Infinity", "null", "None", "true", "False"),
        *("0", "-0.0", "1e308", "1e309", "9" * 400, "-9223372036854775809", "1_000", "1,5", "1.5"),
        *(
            "2021-03-01",
            "31.12.2021",
            "0000-00-00",
            "10:30",
            "9999-12-31T23:59:60Z",
            "=1",
            "1e-320",
        ),
        *('"', '""', '"a\nb"', '"x', "a\rb", "\\", "'", "#", "?", "é\u202e", "\ud800", "\0"),
    ]
)
CELLS = WORDS | st.text(max_size=8) | st.integers().map(str) | st.floats().map(repr)
HEADERS = st.sampled_from([["a", "b", "y"], ["a", "y"], ["a", "a"], ["a", ""], ['"a', "b"], []])
NAMES = st.sampled_from(["a", "b", "y", "", "é/~"])
SCALARS = st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats() | WORDS
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=15,
)


KINDS = st.sampled_from(
    [
        *(("1", "2.5", "", "-3e5"), ("1", "2", "3"), ("true", "false", ""), ("p", "q", '"r, s"')),
        *(("2021-03-01", "2020-02-29", "NA"), ("1,5", "2,25", ""), ("31.12.2021", ""), ("", "NA")),
    ]
)


@st.composite
def tables(draw: st.DrawFn) -> str:
    """CSV that is as it should be but for one cell at most, or for nothing at all."""
    delimiter = draw(st.sampled_from([",", ";", "\t", "|"]))
    if draw(st.integers(0, 3)):
        columns = [draw(KINDS) for _ in "aby"]
        count = draw(st.integers(1, 8))
        rows = [[draw(st.sampled_from(column)) for column in columns] for _ in range(count)]
        rows.insert(0, ["a", "b", "y"])
        if draw(st.booleans()):
            rows[draw(st.integers(0, len(rows) - 1))][draw(st.integers(0, 2))] = draw(CELLS)
        if delimiter == ",":
            rows = [[c if "," not in c or '"' in c else f'"{c}"' for c in row] for row in rows]
    else:
        rows = [draw(HEADERS | st.lists(CELLS, max_size=3))]
        rows += draw(st.lists(st.lists(CELLS, max_size=4), max_size=5))
    end = draw(st.sampled_from(["\n", "\r\n", "\r", "\n\n"]))
    mark = draw(st.sampled_from(["", "\ufeff"]))
    return mark + end.join(delimiter.join(row) for row in rows)


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, bytes]:
    """JSON or NDJSON that is as it should be but for one value, or any, and its media type."""
    if draw(st.integers(0, 3)):
        kinds = st.sampled_from(
            [(1, 2.5, None), (1, 2), (True, False, None), ("p", "é"), ("2021-03-01", "x", None)]
        )
        columns = {name: draw(kinds) for name in ("a", "b", "y")}
        count = draw(st.integers(1, 8))
        records: Any = [
            {name: draw(st.sampled_from(kind)) for name, kind in columns.items()}
            for _ in range(count)
        ]
        if draw(st.booleans()):
            records[draw(st.integers(0, count - 1))][draw(NAMES)] = draw(VALUES)
    else:
        records = draw(st.dictionaries(NAMES, st.lists(SCALARS, max_size=3), max_size=3) | VALUES)
    cut = draw(st.none() | st.none() | st.integers(0, 200))
    if draw(st.booleans()) and isinstance(records, list):
        text = "\n".join(json.dumps(record) for record in records)
        return "application/x-ndjson", text[:cut].encode()
    return "application/json", json.dumps(records)[:cut].encode()


def follow(folder: Path, content: bytes, media_type: str, dialect: Dialect | None = None) -> None:
    """Take a file through all that is done with an upload; our own refusals are answers."""
    path = folder / "upload"
    path.write_bytes(content)
    try:
        data = parse(path, media_type, dialect=dialect)
    except EngineError:
        return
    save(data, folder / "stored")
    again = load(folder / "stored", data.kind)
    schema = profile(again)
    assert (again.rows, again.names, schema.rows) == (data.rows, data.names, data.rows)
    assert Schema.model_validate_json(schema.model_dump_json()) == schema
    for format in WRITABLE[data.kind]:
        assert b"".join(write(again, format))
    with suppress(EngineError):
        plan_training(SPEC, again, schema=schema)


@given(
    table=tables(),
    delimiter=st.sampled_from([None, None, ",", ";", "\t", "|"]),
    decimal=st.sampled_from([".", ","]),
)
@SETTINGS
def test_any_csv_is_read_or_refused(
    tmp_path: Path, table: str, delimiter: str | None, decimal: str
) -> None:
    dialect = Dialect(delimiter=delimiter, decimal=decimal)
    follow(tmp_path, table.encode(errors="surrogatepass"), "text/csv", dialect)


@given(content=documents())
@SETTINGS
def test_any_json_is_read_or_refused(tmp_path: Path, content: tuple[str, bytes]) -> None:
    follow(tmp_path, content[1], content[0])


@given(content=st.binary(max_size=80), media_type=st.sampled_from(["text/csv", "text/plain"]))
@SETTINGS
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes, media_type: str) -> None:
    follow(tmp_path, content, media_type)
