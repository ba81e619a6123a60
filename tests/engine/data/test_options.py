"""Columns are read as the caller says, and what makes no sense for them is refused."""

from __future__ import annotations

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
    with pytest.raises(DataError, match=r"row 1 of 'label': expected a number.*'x'"):
        fitted(parsed, {"label": {"type": "number"}}, b"label,y\n1 ,1\nx,2\n3,4\n")


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
        with pytest.raises(DataError, match="missing"):
            encoding.encode_inputs(parsed(gaps))
        with pytest.raises(DataError, match="missing"):
            fitted(parsed, {"*": {"missing": "refuse"}}, gaps)


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
