"""Texts, times and missing values become numbers by what the training rows say, as rows do."""

from __future__ import annotations

import datetime
import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.data.dataset import DATETIME
from engine.data.encoding import Categories, Encoding, Scaled
from engine.data.formats import Data, write
from engine.data.selection import Selection
from engine.errors import DataError, SpecError
from engine.plan import plan_training
from engine.spec import Form, TrainSpec
from tests.engine.data.conftest import Parse
from tests.engine.networks import only

COLUMNS = ("city", "age", "flag", "since")
CSV = b"""city,age,flag,since,y
Rome,10,true,2020-01-01,1
Oslo,,,2020-01-03,2
Rome,40,true,2020-01-03,3
,20,false,,4
Wien,1000,true,2021-01-01,5
"""
TRAIN = np.arange(4)
JAN_1 = 1_577_836_800.0  # 2020-01-01T00:00:00Z
DAY = 86_400.0


def _fit(data: Data, *inputs: str, form: Form = "regressor", rows: Any = None) -> Encoding:
    selection = Selection(kind=data.kind, form=form, inputs=inputs, targets=("y",))
    return Encoding.fit(data, selection, np.arange(data.rows) if rows is None else rows)


def _field(encoding: Encoding, name: str) -> Any:
    return next(field for field in encoding.inputs if field.name == name)


@pytest.fixture
def data(parsed: Parse) -> Data:
    return parsed(CSV)


@pytest.fixture
def encoding(data: Data) -> Encoding:
    return _fit(data, *COLUMNS, rows=TRAIN)


def test_categories_are_the_sorted_texts_of_the_training_rows(encoding: Encoding) -> None:
    assert _field(encoding, "city") == Categories(
        name="city", categories=("Oslo", "Rome"), fill="Rome", indicator=True
    )


def test_gaps_are_filled_by_the_median_and_scaled_by_what_is_there(encoding: Encoding) -> None:
    age, flag, since = (_field(encoding, name) for name in COLUMNS[1:])

    assert (age.mean, age.fill, age.indicator) == (pytest.approx(70 / 3), 20.0, True)
    assert age.scale == pytest.approx(math.sqrt(1400 / 9))
    assert (flag.type, flag.mean, flag.fill) == ("boolean", pytest.approx(2 / 3), 1.0)
    assert (since.type, since.fill) == ("datetime", JAN_1 + 2 * DAY)
    assert since.mean == pytest.approx(JAN_1 + 4 / 3 * DAY)
    assert since.scale == pytest.approx(math.sqrt(8 / 9) * DAY)


def test_the_median_of_an_even_number_is_halfway_and_a_draw_of_booleans_is_false(
    parsed: Parse,
) -> None:
    data = parsed(b"a,b,c,y\n1,true,q,1\n4,false,p,1\n100,true,p,1\n2,false,q,1\n")
    encoding = _fit(data, "a", "b", "c")

    fields = [field for field in encoding.inputs if isinstance(field, Scaled | Categories)]
    assert [field.fill for field in fields] == [3.0, 0.0, "p"]
    assert not any(field.indicator for field in fields)


def test_every_input_of_the_network_has_a_name(encoding: Encoding) -> None:
    assert encoding.input_names == (
        "city=Oslo", "city=Rome", "city is missing",
        "age", "age is missing", "flag", "flag is missing", "since", "since is missing",
    )  # fmt: skip
    assert encoding.input_shapes["in"][0] == len(encoding.input_names)


def test_rows_are_one_hot_standardised_and_marked_where_missing(
    encoding: Encoding, data: Data
) -> None:
    x = only(encoding.encode_inputs(data, np.array([1, 3])))

    spread = math.sqrt(1400 / 9)
    assert x[0].tolist() == pytest.approx(
        [1, 0, 0, (20 - 70 / 3) / spread, 1, math.sqrt(1 / 2), 1, math.sqrt(1 / 2), 0], abs=1e-6
    )
    assert x[1].tolist() == pytest.approx(
        [0, 1, 1, (20 - 70 / 3) / spread, 0, -math.sqrt(2), 0, math.sqrt(1 / 2), 1], abs=1e-6
    )


def test_what_was_learnt_is_the_same_after_json_and_old_documents_are_read(
    encoding: Encoding,
) -> None:
    assert Encoding.model_validate_json(encoding.model_dump_json()) == encoding
    assert Encoding.model_validate(json.loads(json.dumps(encoding.describe()))) == encoding

    old = {"name": "age", "type": "integer", "size": 1, "mean": 3.0, "scale": 2.0}
    document = {"kind": "table", "form": "regressor", "inputs": [old], "targets": [old],
                "target": None, "classes": None, "sample_weight": None}  # fmt: skip
    read = Encoding.model_validate(document)
    assert only(read.encode_records([[5]])).tolist() == [[1]]
    with pytest.raises(DataError, match="takes no missing values for 'age'") as caught:
        only(read.encode_records([[None]]))
    assert caught.value.pointer == "#/inputs/0/0"
    with pytest.raises(DataError, match="'age' has missing values"):
        only(read.encode_inputs(Data(table=pa.table({"age": pa.array([1, None])}))))


def test_records_are_read_as_lists_objects_and_columns(encoding: Encoding, data: Data) -> None:
    expected = only(encoding.encode_inputs(data, np.array([0, 1, 3]))).tolist()
    rows: list[list[Any]] = [
        ["Rome", 10, True, "2020-01-01T00:00:00Z"],
        ["Oslo", None, None, "2020-01-03"],
        [None, 20.0, 0, None],
    ]

    for inputs in (
        rows,
        [dict(zip(COLUMNS, row, strict=True)) for row in rows],
        {name: [row[at] for row in rows] for at, name in enumerate(COLUMNS)},
    ):
        assert only(encoding.encode_records(inputs)).tolist() == expected


@pytest.mark.parametrize(
    "text", ["2020-01-03", "2020-01-03 00:00", "2020-01-03T02:00:00+02:00", "2020-01-03T00:00:00Z"]
)
def test_times_are_instants_in_utc_unless_they_say_otherwise(
    encoding: Encoding, data: Data, text: str
) -> None:
    record = {"city": "Oslo", "age": None, "flag": None, "since": text}

    assert np.array_equal(
        only(encoding.encode_records([record])), only(encoding.encode_inputs(data, np.array([1])))
    )


@pytest.mark.parametrize(
    ("change", "pointer", "says"),
    [
        ({"city": "Bern"}, "#/inputs/1/city", "'Bern' is not a category of 'city'"),
        ({"city": "Bern"}, "#/inputs/1/city", "known are: 'Oslo', 'Rome'"),
        ({"city": "x" * 999}, "#/inputs/1/city", "x…' is not a category"),
        ({"city": 7}, "#/inputs/1/city", "a category of 'city' (a text), got a number"),
        ({"city": True}, "#/inputs/1/city", "got a boolean"),
        ({"age": "20"}, "#/inputs/1/age", "expected a number, got a text"),
        ({"since": "soon"}, "#/inputs/1/since", "ISO 8601"),
        ({"since": "2020-02-30"}, "#/inputs/1/since", "got '2020-02-30'"),
        ({"since": "0001-01-01T00:00:00+23:00"}, "#/inputs/1/since", "ISO 8601"),
        ({"since": JAN_1}, "#/inputs/1/since", "ISO 8601"),
        ({"age": 1e300}, "#/inputs/1", "too far"),
    ],
)
def test_what_is_wrong_with_a_value_is_pointed_at(
    encoding: Encoding, change: dict[str, Any], pointer: str, says: str
) -> None:
    good = {"city": "Rome", "age": 1, "flag": True, "since": "2020-01-01"}
    with pytest.raises(DataError) as caught:
        only(encoding.encode_records([good, {**good, **change}]))

    assert caught.value.pointer == pointer
    assert says in caught.value.detail


def test_a_column_that_is_left_out_is_not_a_missing_value(encoding: Encoding) -> None:
    with pytest.raises(DataError, match="'since' is missing; the model needs it") as caught:
        only(encoding.encode_records([{"city": "Rome", "age": 1, "flag": True}]))

    assert caught.value.pointer == "#/inputs/0/since"


def test_a_gap_in_a_column_that_had_none_is_filled_without_an_indicator(parsed: Parse) -> None:
    data = parsed(b"a,c,y\n1,p,1\n2,p,1\n6,q,1\n")
    encoding = _fit(data, "a", "c")
    filled = only(encoding.encode_records([[2, "p"]])).tolist()

    assert encoding.input_names == ("a", "c=p", "c=q")
    assert only(encoding.encode_records([[None, None]])).tolist() == filled
    assert only(encoding.encode_inputs(parsed(b"a,c\n,\n"))).tolist() == filled
    numbers = _fit(data, "a")
    assert only(numbers.encode_records([[None], [6]])).tolist()[0] == filled[0][:1]


def test_a_stored_unseen_category_is_refused_or_is_none_of_the_known(
    encoding: Encoding, data: Data
) -> None:
    with pytest.raises(DataError, match="row 4: 'Wien' is not a category of 'city'"):
        only(encoding.encode_inputs(data, np.array([0, 4])))
    lenient = only(encoding.encode_inputs(data, np.array([4]), unseen="zeros"))
    assert lenient[0, :3].tolist() == [0, 0, 0]


def test_columns_of_another_type_are_refused_unless_all_is_missing(
    encoding: Encoding, parsed: Parse
) -> None:
    for content, says in [
        (b"city,age,flag,since\n1,1,true,2020-01-01\n", "'city' holds integer; texts"),
        (b"city,age,flag,since\nRome,x,true,2020-01-01\n", "'age' holds text; numbers"),
        (b"city,age,flag,since\nRome,1,true,7\n", "'since' holds integer; times"),
    ]:
        with pytest.raises(DataError, match=says) as caught:
            only(encoding.encode_inputs(parsed(content)))
        assert caught.value.pointer == "#/inputs"
    gaps = only(encoding.encode_inputs(parsed(b"city,age,flag,since\n,,,\n,,,\n")))
    assert gaps[0].tolist() == only(encoding.encode_records([[None] * 4]))[0].tolist()


def test_a_column_of_nothing_comes_to_its_indicator_alone(parsed: Parse) -> None:
    data = parsed(b"a,c,y\n,,1\n,,2\n7,p,3\n")
    encoding = _fit(data, "a", "c", rows=np.arange(2))

    assert encoding.input_names == ("a", "a is missing", "c is missing")
    assert only(encoding.encode_inputs(data, np.arange(2))).tolist() == [[0, 1, 1], [0, 1, 1]]
    with pytest.raises(DataError, match="none, as no training row has a value"):
        only(encoding.encode_records([[1, "p"]]))


def test_keys_and_prose_are_not_categories() -> None:
    def table(texts: list[str]) -> Data:
        column = pa.array(texts, pa.large_string())
        return Data(table=pa.table({"t": column, "y": column}))

    names = [f"n{number}" for number in range(1001)]
    encoding = _fit(table(names), "t", form="classifier", rows=np.arange(1000))
    assert encoding.input_shapes["in"][0] == 1000
    with pytest.raises(DataError, match=r"'n0', .*, … \(980 more\)"):
        only(encoding.encode_records([["n1000"]]))
    for texts, says in [(names, "1001 different texts"), (["a", "b" * 257], "257 characters")]:
        with pytest.raises(SpecError, match=says) as caught:
            _fit(table(texts), "t", form="classifier")
        assert caught.value.pointer == "#/inputs"


def test_more_categories_than_memory_holds_are_refused() -> None:
    names = pa.array([f"n{number % 1000}" for number in range(501_000)], pa.large_string())
    data = Data(table=pa.table({"t": names, "y": pa.nulls(501_000, pa.float64())}))
    selection = Selection(kind="table", form="classifier", inputs=("t",), targets=("y",))

    with pytest.raises(SpecError, match="1000 categories are too many for 501000 rows"):
        Encoding.fit(data, selection, np.arange(1000))


def test_an_array_of_texts_is_one_hot_too() -> None:
    data = Data(arrays={"x": np.array(["b", "a", "b"]), "y": np.arange(3.0)})
    encoding = _fit(data, "x")

    assert only(encoding.encode_inputs(data)).tolist() == [[0, 1], [1, 0], [0, 1]]
    assert only(encoding.encode_records({"x": ["a"]})).tolist() == [[1, 0]]


def _values(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.none() | strategy, min_size=5, max_size=5)


@given(
    # Of so few digits that no row is too far from the others to be read in 32 bits.
    number=_values(st.floats(-1e6, 1e6).map(lambda value: round(value, 3))),
    integer=_values(st.integers(-(2**40), 2**40)),
    boolean=_values(st.booleans()),
    text=_values(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)),
    time=_values(st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2300, 1, 1))),
    rows=st.sets(st.integers(0, 4), min_size=1),
)
@settings(deadline=None)
def test_a_record_is_encoded_as_the_stored_row_that_it_came_from(
    number: Any, integer: Any, boolean: Any, text: Any, time: Any, rows: set[int]
) -> None:
    table = pa.table({
        "n": pa.array(number, pa.float64()),
        "i": pa.array(integer, pa.int64()),
        "b": pa.array(boolean, pa.bool_()),
        "t": pa.array(text, pa.large_string()),
        "d": pa.array(time, DATETIME),
        "y": pa.array(range(5), pa.float64()),
    })  # fmt: skip
    data = Data(table=table)
    fitted = _fit(data, "n", "i", "b", "t", "d", rows=np.array(sorted(rows)))
    encoding = Encoding.model_validate_json(fitted.model_dump_json())
    kept = np.array([row for row in range(5) if row in rows or text[row] in (None,)])
    records = json.loads(b"".join(write(data, "application/json")))

    stored = only(encoding.encode_inputs(data, kept))
    assert np.isfinite(stored).all()
    assert only(encoding.encode_records([records[row] for row in kept])).tolist() == stored.tolist()
    columns = {name: [records[row][name] for row in kept] for name in table.column_names}
    assert only(encoding.encode_records(columns)).tolist() == stored.tolist()


MESSY = (
    "\ufeffname;city;joined;age;member;empty;const;churned\n"
    '"Smith; J.";Zürich;2021-03-01;41;true;;7;no\n'
    ";Basel;2020-07-15;;false;;7;yes\n"
    '"Lee ""L""";;;33.5;;;7;no\n'
    "Ray;Zürich;2019-12-31;58;true;;7;no\n"
) + "".join(f"P{n % 3};Bern;2021-01-{n % 28 + 1:02};{n};false;;7;yes\n" for n in range(20))


@pytest.mark.parametrize(("target", "form"), [("churned", "classifier"), ("const", "regressor")])
def test_a_messy_table_is_planned_with_no_preparation(
    parsed: Parse, target: str, form: str
) -> None:
    data = parsed(MESSY.encode())
    spec = TrainSpec.model_validate(
        {"targets": [target], "validation": {"rows": [0, 8]},
         "network": {"layers": [None, 5, None]}}
    )  # fmt: skip
    plan = plan_training(spec, data)

    assert plan.encoding.form == form
    assert plan.graph.layers[0].size == plan.encoding.input_shapes["in"][0]
    names = plan.encoding.input_names
    assert {"city=Zürich", "city is missing", "joined", "age is missing", "empty"} <= set(names)
    assert "name=Smith; J." not in names  # a validation row's alone
    assert plan.split.valid is not None
    x = only(plan.encoding.encode_inputs(data, plan.split.valid, unseen="zeros"))
    assert np.isfinite(x).all()
    assert x[0, [name.startswith("name=") for name in names]].sum() == 0


def test_gaps_in_targets_are_refused_and_counted(parsed: Parse) -> None:
    spec = TrainSpec.model_validate({"network": {"layers": [None, 5, None]}})
    with pytest.raises(SpecError, match=r"'y' \(2\); choose others by `targets`, leave") as caught:
        plan_training(spec, parsed(b"a,y\n1,1\n2,\n3,\n4,2\n"))

    assert caught.value.pointer == "#/targets"


def test_numbers_without_gaps_are_read_as_they_were() -> None:
    field = Scaled(name="a", mean=1, scale=2, fill=5)
    encoding = Encoding(kind="table", form="regressor", inputs=(field, field), targets=(field,))

    assert only(encoding.encode_records([[1, 3]])).tolist() == [[0, 1]]
    assert only(encoding.encode_records([[1, 3], [None, 1]])).tolist() == [[0, 1], [2, 0]]
