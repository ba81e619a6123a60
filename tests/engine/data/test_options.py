"""Columns are read as the caller says, and what makes no sense for them is refused."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from engine.data.encoding import Encoding
from engine.data.formats import Data
from engine.errors import DataError, SpecError
from engine.plan import plan_training
from engine.spec import TrainSpec
from tests.engine.data.conftest import Parse
from tests.engine.networks import only

CSV = b"""zone,size,code,flag,name,y
3,1.5,12,true,a,1
1,,7,false,b,2
3,2.5, 8.5 ,,b,3
2,4.0,,true,,4
,9.0,1e2,true,b,5
"""


def fitted(parse: Parse, columns: dict[str, Any], content: bytes = CSV) -> tuple[Encoding, Data]:
    data = parse(content)
    if "code" in data.names:  # numbers that came as texts
        texts = pa.array(["12", "7", " 8.5 ", None, "1e2"], pa.large_string())
        assert data.table is not None
        at = data.names.index("code")
        data = Data(table=data.table.set_column(at, "code", texts))
    spec = TrainSpec.model_validate(
        {"network": {"layers": [None, 3, None]}, "columns": columns, "validation": None}
    )
    plan = plan_training(spec, data)
    again = Encoding.model_validate_json(plan.encoding.model_dump_json())
    assert again == plan.encoding
    return again, data


def column(encoding: Encoding, data: Data, name: str) -> list[float]:
    """The values of one input of the network, row by row."""
    values: list[float] = only(encoding.encode_inputs(data))[:, encoding.input_names.index(name)]
    return [round(float(value), 5) for value in values]


def test_numbers_may_be_categories(parsed: Parse) -> None:
    encoding, data = fitted(parsed, {"zone": {"type": "category"}, "flag": {"type": "category"}})
    names = encoding.input_names
    assert names[:4] == ("zone=1", "zone=2", "zone=3", "zone is missing")
    assert {"flag=false", "flag=true", "flag is missing"} <= set(names)
    assert column(encoding, data, "zone=3") == [1, 0, 1, 0, 1]  # the last one filled
    assert column(encoding, data, "zone is missing") == [0, 0, 0, 0, 1]
    record = {"zone": 3, "size": 1, "code": "7", "flag": True, "name": "a"}
    row = only(encoding.encode_records([record]))[0]
    assert row[names.index("zone=3")] == 1
    assert row[names.index("flag=true")] == 1
    for zone, says in ((4, "'4' is not a category"), ("3", "a number")):
        with pytest.raises(DataError, match=says):
            encoding.encode_records([{**record, "zone": zone}])


def test_texts_may_spell_numbers(parsed: Parse) -> None:
    encoding, data = fitted(
        parsed, {"code": {"type": "number", "scale": "none", "missing": "mean"}}
    )
    mean = (12 + 7 + 8.5 + 100) / 4
    assert column(encoding, data, "code") == [12, 7, 8.5, mean, 100]
    assert column(encoding, data, "code is missing") == [0, 0, 0, 1, 0]
    record = {"zone": 3, "size": 1, "flag": True, "name": "a"}
    at = encoding.input_names.index("code")
    for code, value in ((4, 4.0), ("4.5", 4.5), (None, mean)):
        assert only(encoding.encode_records([{**record, "code": code}]))[0, at] == value
    with pytest.raises(DataError, match="spells one, got 'x'"):
        encoding.encode_records([{**record, "code": "x"}])
    with pytest.raises(SpecError, match=r"row 1 of 'label': expected a number.*'x'") as caught:
        fitted(parsed, {"la*": {"type": "number"}, "*": {}}, b"label,y\n1 ,1\nx,2\n3,4\n")
    assert caught.value.pointer == "#/columns/la*/type"


def test_texts_may_spell_times(parsed: Parse) -> None:
    written = {"type": "datetime", "format": "%d.%m.%Y %H:%M", "scale": "none"}
    content = b"day,iso,y\n01.03.2021 10:00,2021-03-01,1\n,2021-03-01T10:00+02:00,2\n"
    content += b"03.03.1950 10:30, ,3\n"
    filled = {**written, "missing": "constant", "fill": "02.01.1970 00:00"}
    encoding, data = fitted(
        parsed, {"day": filled, "iso": {"type": "datetime", "scale": "none"}}, content
    )
    assert data.type_of("day") == data.type_of("iso") == "text"

    def seconds(moment: str) -> float:
        return float(np.float32(datetime.fromisoformat(f"{moment}+00:00").timestamp()))

    first, morning = seconds("2021-03-01T00:00"), seconds("2021-03-01T10:00")
    assert column(encoding, data, "day") == [morning, 86400, seconds("1950-03-03T10:30")]
    assert column(encoding, data, "iso")[:2] == [first, seconds("2021-03-01T08:00")]
    assert column(encoding, data, "iso is missing") == [0, 0, 1]
    records = [{"day": "01.03.2021 10:00", "iso": "2021-03-01"}, {"day": None, "iso": None}]
    rows = only(encoding.encode_records(records))
    assert rows[:, encoding.input_names.index("day")].tolist() == [morning, 86400]
    for day in ("2021-03-01", "31.02.2021 10:00", "", 5, "1" * 99):
        with pytest.raises(DataError, match=r"%d.%m.%Y"):
            encoding.encode_records([{"day": day, "iso": None}])
    with pytest.raises(SpecError, match=r"row 0 of 'day'.*ISO 8601.*'01\.03") as caught:
        fitted(parsed, {"day": {"type": "datetime"}}, content)
    assert caught.value.pointer == "#/columns/day/type"


@pytest.mark.parametrize(
    "written", ["%d", "%d.%m", "%q", "%d%d%m%Y", "x", "%", "%H:%M", "%Y-%m", "%Y%m%d\0"]
)
def test_a_format_tells_year_month_and_day(parsed: Parse, written: str) -> None:
    with pytest.raises(SpecError, match="is no format of dates") as caught:
        fitted(parsed, {"name": {"type": "datetime", "format": written}})
    assert caught.value.pointer == "#/columns/name/format"


def test_a_boolean_is_filled_by_what_the_caller_says(parsed: Parse) -> None:
    for options, fill in (
        ({"missing": "mean"}, 0.6),
        ({"missing": "constant", "fill": 0.5}, 0.5),
        ({"missing": "constant", "fill": False}, 0.0),
        ({"missing": "mode"}, 1.0),
    ):
        content = b"f,y\n" + b"true,1\n" * 3 + b"false,2\n" * 2 + b",4\n"
        encoding, data = fitted(parsed, {"f": {**options, "scale": "none"}}, content)
        assert column(encoding, data, "f")[-1] == fill


def test_rows_that_only_validate_are_looked_at_too(parsed: Parse) -> None:
    for content, options in (
        (b"a,y\n1,1\n2,2\n,3\n", {"missing": "refuse"}),
        (b"a,y\np,1\nq,2\n,3\n", {"missing": "refuse"}),
        (b"a,y\n1 ,1\n2 ,2\nx,3\n", {"type": "number"}),
        (b"a,y\n2021-03-01,1\n2021-03-02,2\nx,3\n", {"type": "datetime"}),
    ):
        spec = {"network": {"layers": [None, 2, None]}, "columns": {"a": options}}
        data = parsed(content)
        within = TrainSpec.model_validate({**spec, "validation": {"rows": [2]}})
        with pytest.raises(DataError, match=r"the validation rows do not fit.*(2|row 2)"):
            plan_training(within, data)
        other = TrainSpec.model_validate(
            {**spec, "rows": [0, 1], "validation": {"dataset": "ds_x"}}
        )
        with pytest.raises(DataError, match="validation data set does not fit") as caught:
            plan_training(other, data, data)
        assert caught.value.pointer == "#/validation/dataset"


@pytest.mark.parametrize(
    ("options", "fill"),
    [
        ({}, 3.25),
        ({"missing": "median"}, 3.25),
        ({"missing": "mean"}, 4.25),
        ({"missing": "mode"}, 1.5),
        ({"missing": "constant", "fill": -7}, -7.0),
    ],
)
def test_gaps_are_filled_as_the_caller_says(
    parsed: Parse, options: dict[str, Any], fill: float
) -> None:
    encoding, data = fitted(parsed, {"size": {**options, "scale": "none"}})
    assert column(encoding, data, "size") == [1.5, fill, 2.5, 4.0, 9.0]
    assert column(encoding, data, "size is missing") == [0, 1, 0, 0, 0]
    without, _ = fitted(parsed, {"size": {**options, "indicator": False}})
    assert "size is missing" not in without.input_names


def test_categories_may_be_filled_and_unknown(parsed: Parse) -> None:
    encoding, data = fitted(
        parsed,
        {"name": {"missing": "constant", "fill": "none", "unknown": "column"},
         "zone": {"type": "category", "unknown": "column", "indicator": False},
         "code": {"type": "number"}},
    )  # fmt: skip
    assert column(encoding, data, "name=none") == [0, 0, 0, 1, 0]
    assert column(encoding, data, "name is unknown") == [0] * 5
    record = {"zone": 77, "size": 1, "code": "7", "flag": True, "name": "zzz"}
    row = only(encoding.encode_records([record]))[0]
    told = {name for name, value in zip(encoding.input_names, row, strict=True) if value == 1}
    assert {"zone is unknown", "name is unknown"} <= told
    assert not any(name.startswith(("zone=", "name=")) for name in told)
    stored = parsed(b"zone,size,code,flag,name,y\n77,1,7,true,zzz,1\n77,1,7,true,zzz,1\n")
    assert np.array_equal(only(encoding.encode_inputs(stored))[0], row)


def test_missing_values_may_be_refused(parsed: Parse) -> None:
    full = b"a,b,y\n1,p,1\n2,q,2\n3,p,3\n"
    encoding, _ = fitted(parsed, {"*": {"missing": "refuse"}}, full)
    for record in ({"a": None, "b": "p"}, {"a": 1, "b": None}):
        with pytest.raises(DataError, match="takes no missing values"):
            encoding.encode_records([record])
    for gaps in (b"a,b,y\n,p,1\n2,q,2\n", b"a,b,y\n1,,1\n2,q,2\n"):
        with pytest.raises(DataError, match=r"missing.*row 0|row 0.*missing"):
            encoding.encode_inputs(parsed(gaps))
        with pytest.raises(SpecError, match=r"row 0: '[ab]' is missing") as caught:
            fitted(parsed, {"*": {"missing": "refuse"}, "a": {"scale": "none"}}, gaps)
        assert caught.value.pointer == "#/columns/*/missing"
    times, _ = fitted(parsed, {"t": {"missing": "refuse"}}, b"t,y\n2021-01-01,1\n2022-01-01,2\n")
    with pytest.raises(DataError, match="takes no missing values"):
        times.encode_records([{"t": None}])


def test_of_several_globs_the_later_ones_keys_come_first(parsed: Parse) -> None:
    encoding, data = fitted(
        parsed,
        {"[sz]*": {"missing": "constant", "fill": 5}, "size": {"missing": "mean", "scale": "none"}},
    )
    assert column(encoding, data, "size")[1] == 4.25
    assert [getattr(f, "fill", None) for f in encoding.inputs if f.name == "zone"] == [5.0]


@pytest.mark.parametrize(
    ("columns", "pointer"),
    [
        ({"nothing*": {"type": "category"}}, "#/columns/nothing*"),
        ({"y": {"scale": "none"}}, "#/columns/y"),
        ({"zone": {"unknown": "column"}}, "#/columns/zone/unknown"),
        ({"name": {"scale": "none"}}, "#/columns/name/scale"),
        ({"name": {"missing": "median"}}, "#/columns/name/missing"),
        ({"zone": {"missing": "constant", "fill": "x"}}, "#/columns/zone/fill"),
        ({"zone": {"missing": "constant", "fill": True}}, "#/columns/zone/fill"),
        ({"flag": {"missing": "constant", "fill": 7}}, "#/columns/flag/fill"),
        ({"si*": {"missing": "constant", "fill": 1e300}, "size": {}}, "#/columns/si*/fill"),
        ({"zone": {"type": "datetime"}}, "#/columns/zone/type"),
        ({"name": {"type": "datetime", "unknown": "column"}}, "#/columns/name/unknown"),
        (
            {"name": {"type": "datetime", "missing": "constant", "fill": "x"}},
            "#/columns/name/fill",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(
    parsed: Parse, columns: dict[str, Any], pointer: str
) -> None:
    with pytest.raises(SpecError) as caught:
        fitted(parsed, columns)
    assert caught.value.pointer == pointer


def test_an_autoencoder_takes_scales_alone(parsed: Parse) -> None:
    data = parsed(b"a,b\n1,2\n3,5\n4,4\n")
    for options, pointer in (
        ({"scale": "none"}, None),
        ({"missing": "mean"}, "#/columns/*/missing"),
    ):
        spec = TrainSpec.model_validate(
            {"network": {"form": "autoencoder", "layers": [None, 1, None]},
             "columns": {"*": options}, "validation": None}
        )  # fmt: skip
        if pointer is None:
            assert only(plan_training(spec, data).encoding.encode_inputs(data))[0].tolist() == [
                1,
                2,
            ]
        else:
            with pytest.raises(SpecError) as caught:
                plan_training(spec, data)
            assert caught.value.pointer == pointer
