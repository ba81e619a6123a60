"""The schema says exactly what is in the data."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from engine.data.profile import profile
from tests.engine.data.conftest import Parse, npz


def test_statistics_are_those_of_the_values_that_are_there(parsed: Parse) -> None:
    schema = profile(parsed(b"i,n,t,b,d\n1,2.5,x,true,2020-01-01\n2,,y,false,\n6,4.5,x,,\n"))
    i, n, t, b, d = schema.columns

    assert (schema.kind, schema.rows, schema.names) == ("table", 3, ("i", "n", "t", "b", "d"))
    assert (i.type, i.nulls, i.min, i.max, i.mean) == ("integer", 0, 1, 6, 3)
    assert i.std == pytest.approx(math.sqrt(7))  # (4 + 1 + 9) / 2
    assert (n.type, n.nulls, n.min, n.max, n.mean) == ("number", 1, 2.5, 4.5, 3.5)
    assert n.std == pytest.approx(math.sqrt(2))
    assert (t.type, t.categories, t.mean) == ("text", ("x", "y"), None)
    assert (b.type, b.nulls, b.min, b.max, b.categories) == ("boolean", 1, None, None, None)
    assert (d.type, d.nulls, d.min) == ("datetime", 2, None)


def test_one_value_has_no_deviation_and_equal_values_one_of_zero(parsed: Parse) -> None:
    single = profile(parsed(b"a,b\n0.1,\n")).columns
    same = profile(parsed(b"a\n" + b"0.1\n" * 1000)).columns[0]

    assert (single[0].mean, single[0].std) == (0.1, None)
    assert (single[1].type, single[1].nulls, single[1].mean) == ("number", 1, None)
    assert (same.mean, same.std) == (0.1, 0.0)


def test_no_statistic_leaves_the_numbers(parsed: Parse) -> None:
    huge, tiny, big = profile(
        parsed(b"a,b,c\n1.7e308,1e-320,9223372036854775807\n1.7e308,0,9223372036854775807\n"
               b"-1.7e308,1e-320,9223372036854775806\n")
    ).columns  # fmt: skip

    assert huge.mean == pytest.approx(1.7e308 / 3)
    assert huge.std is None  # 1.96e308
    assert tiny.std == pytest.approx(1e-320 / math.sqrt(3), rel=1e-3)
    assert big.mean == pytest.approx(2**63)
    json.loads(profile(parsed(b"a\n1e308\n-1e308\n")).model_dump_json())


def test_categories_are_the_first_thousand_that_are_short(parsed: Parse) -> None:
    values = [b"x" * 257, *(b"v%d" % index for index in range(1200))]
    column = profile(parsed(b"a,b\n" + b"".join(v + b",1\n" for v in values))).columns[0]

    assert column.categories == tuple(f"v{index}" for index in range(1000))


def test_arrays_show_shape_and_dtype(parsed: Parse) -> None:
    content = npz(x=np.zeros((3, 2), np.float32), y=np.array(["a", "b", "c"]), z=np.ones(3, bool))
    schema = profile(parsed(content, "application/x-npz"))

    assert (schema.kind, schema.rows, schema.columns) == ("arrays", 3, ())
    assert [(a.name, a.shape, a.dtype) for a in schema.arrays] == [
        ("x", (3, 2), "float32"),
        ("y", (3,), "text"),
        ("z", (3,), "bool"),
    ]
