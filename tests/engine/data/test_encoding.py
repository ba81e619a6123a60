"""What is learnt on the training rows is applied to all others, and undone on the way out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from engine.data.encoding import Encoding, Scaled
from engine.data.formats import Data
from engine.data.lengths import of_steps
from engine.data.selection import Selection
from engine.errors import DataError
from engine.spec import Form
from tests.engine.data.conftest import Parse, npz
from tests.engine.networks import only

CSV = b"age,flag,w,y\n1,true,1,10\n3,false,2,30\n5,true,0,50\n100,false,1,0\n"


def _selection(form: Form = "regressor", **fields: Any) -> Selection:
    return Selection(
        **{"kind": "table", "form": form, "inputs": ("age", "flag"), "targets": ("y",), **fields}
    )


def _numbers(encoding: Encoding) -> list[Scaled]:
    return [field for field in encoding.inputs if isinstance(field, Scaled)]


def _rows(*numbers: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(numbers, dtype=np.int64)


@pytest.fixture
def data(parsed: Parse) -> Data:
    return parsed(CSV)


@pytest.fixture
def encoding(data: Data) -> Encoding:
    return Encoding.fit(data, _selection(sample_weight="w"), _rows(0, 1, 2))


def test_means_and_deviations_are_those_of_the_training_rows(encoding: Encoding) -> None:
    age, flag = _numbers(encoding)

    assert (age.name, age.type, age.mean) == ("age", "integer", 3.0)
    assert age.scale == pytest.approx(math.sqrt(8 / 3))  # divisor n
    assert flag.type == "boolean"
    assert flag.mean == pytest.approx(2 / 3)
    assert flag.scale == pytest.approx(math.sqrt(2 / 9))
    assert encoding.target_mean.tolist() == [30.0]
    assert encoding.target_scale == pytest.approx(math.sqrt(800 / 3))
    assert (encoding.input_shapes["in"][0], encoding.output_shape[0]) == (2, 1)
    assert (encoding.input_names, encoding.target_names) == (("age", "flag"), ("y",))


def test_rows_are_standardised(encoding: Encoding, data: Data) -> None:
    x = only(encoding.encode_inputs(data, _rows(0, 1, 3)))

    assert x.dtype == np.float32
    assert x[:, 0].tolist() == pytest.approx([-math.sqrt(3 / 2), 0, 97 / math.sqrt(8 / 3)])
    assert x[:, 1].tolist() == pytest.approx([math.sqrt(1 / 2), -math.sqrt(2), -math.sqrt(2)])
    assert only(encoding.encode_inputs(data)).shape == (4, 2)


def test_targets_come_back_in_their_own_units(encoding: Encoding, data: Data) -> None:
    encoded = encoding.encode_targets(data)

    assert encoded.shape == (4, 1)
    assert encoding.decode(encoded)[:, 0].tolist() == pytest.approx([10, 30, 50, 0], abs=1e-4)
    assert encoding.encode_truth(data, _rows(3, 0)).tolist() == [[0], [10]]


def test_a_constant_column_is_encoded_as_zero(parsed: Parse) -> None:
    data = parsed(b"a,y\n" + b"0.1,0.3\n" * 1000)
    selection = _selection(inputs=("a",), targets=("y",))
    encoding = Encoding.fit(data, selection, np.arange(1000))

    assert (_numbers(encoding)[0].mean, _numbers(encoding)[0].scale) == (0.1, 1.0)
    assert not only(encoding.encode_inputs(data)).any()
    assert encoding.decode(encoding.encode_targets(data)).tolist() == [[0.3]] * 1000


@given(
    values=npst.arrays(
        np.float64,
        st.tuples(st.integers(1, 9), st.integers(1, 3)),
        elements=st.floats(allow_nan=False, allow_infinity=False),
    )
)
@settings(deadline=None)
def test_training_rows_always_encode_to_finite_numbers_of_deviation_one(values: Any) -> None:
    data = Data(arrays={"x": values})
    selection = _selection("autoencoder", kind="arrays", inputs=("x",), targets=("x",))
    encoding = Encoding.fit(data, selection, np.arange(len(values)))
    x = only(encoding.encode_inputs(data))

    assert np.isfinite(x).all()
    scale = encoding.target_scale
    assert (scale > 0).all()
    # Where values differ in their last digits only, or are subnormal, rounding is all there is.
    spread = values.max(axis=0) / 2 - values.min(axis=0) / 2
    varied = spread > np.maximum(1e-9 * np.abs(values).max(axis=0), 1e-290)
    assert x[:, varied].std(axis=0) == pytest.approx(1, abs=1e-3)


def test_weights_are_read_and_checked(encoding: Encoding, data: Data, parsed: Parse) -> None:
    weights = encoding.encode_weights(data, _rows(1, 2))
    assert weights is not None
    assert weights.dtype == np.float32
    assert weights.tolist() == [2, 0]
    assert Encoding.fit(data, _selection(), _rows(0, 1)).encode_weights(data) is None

    with pytest.raises(DataError, match="are 0"):
        encoding.encode_weights(data, _rows(2))
    for content, says in [(b"w\n-1\n", "0 or more"), (b"v\n1\n", "no 'w'"), (b"w\n1e39\n", "fin")]:
        with pytest.raises(DataError, match=says) as caught:
            encoding.encode_weights(parsed(content))
        assert caught.value.pointer == "#/sample_weight"


@pytest.mark.parametrize(
    ("content", "classes"),
    [
        (b"age,y\n1,b\n2,a\n3,b\n", ("a", "b")),
        (b"age,y\n1,7\n2,-1\n3,7\n", (-1, 7)),
        (b"age,y\n1,true\n2,false\n3,true\n", (False, True)),
        (b"age,y\n1,2.0\n2,1e0\n3,2\n", (1, 2)),
    ],
)
def test_classes_are_the_sorted_labels_as_they_are(
    parsed: Parse, content: bytes, classes: tuple[Any, ...]
) -> None:
    data = parsed(content)
    encoding = Encoding.fit(data, _selection("classifier", inputs=("age",)), _rows(0, 1, 2))
    again = Encoding.model_validate_json(encoding.model_dump_json())

    assert again == encoding
    assert again.classes == classes
    assert [type(label) for label in again.classes or ()] == [type(label) for label in classes]
    assert again.encode_targets(data).tolist() == [1, 0, 1]
    assert again.labels([0, 1]) == list(classes)
    assert (again.output_shape[0], again.target_names) == (2, ("y",))
    assert again.target_scale.tolist() == [1]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"age,y\n1,a\n2,a\n", "the same class 'a'"),
        (b"age,y\n1,1.5\n2,2\n", "not whole"),
        (b"age,y\n1,a\n2,\n", "missing"),
        (b"age,y\n1,1\n2,\n", "missing"),
        (b"age,y\n1,2020-01-01\n2,2020-01-02\n", "one class label a row"),
        (b"age,y\n" + b"".join(b"1,%d\n" % n for n in range(10_001)), "10001 classes"),
    ],
)
def test_targets_that_are_no_classes_are_refused(parsed: Parse, content: bytes, says: str) -> None:
    data = parsed(content)
    with pytest.raises(DataError, match=says) as caught:
        Encoding.fit(data, _selection("classifier", inputs=("age",)), np.arange(data.rows))

    assert caught.value.pointer == "#/targets"


def test_a_label_that_training_has_not_seen_is_named(parsed: Parse) -> None:
    data = parsed(b"age,y\n1,1\n2,0\n3,5\n")
    encoding = Encoding.fit(data, _selection("classifier", inputs=("age",)), _rows(0, 1))

    with pytest.raises(DataError, match="5 in 'y' is not one of the 2 classes"):
        encoding.encode_targets(data)
    with pytest.raises(DataError, match="True in 'y'"):
        encoding.encode_targets(parsed(b"age,y\n1,true\n"))
    with pytest.raises(DataError, match="no target 'y'"):
        encoding.encode_targets(parsed(b"age\n1\n"))


def test_an_encoding_is_the_same_after_json(encoding: Encoding) -> None:
    assert Encoding.model_validate_json(encoding.model_dump_json()) == encoding
    described = encoding.describe()
    assert described["inputs"][0]["name"] == "age"
    assert "classes" not in described


def test_arrays_are_standardised_by_feature(parsed: Parse) -> None:
    content = npz(x=np.array([[0, 5], [2, 5]], np.uint8), u=np.array([1.0, 3.0]), y=np.ones((2, 2)))
    data = parsed(content, "application/x-npz")
    selection = _selection(kind="arrays", inputs=("x", "u"), targets=("y",))
    encoding = Encoding.fit(data, selection, _rows(0, 1))

    assert _numbers(encoding)[0].mean == (1.0, 5.0)
    assert _numbers(encoding)[0].scale == (1.0, 1.0)
    assert encoding.input_names == ("x[0]", "x[1]", "u")
    assert encoding.target_names == ("y[0]", "y[1]")
    assert only(encoding.encode_inputs(data)).tolist() == [[-1, 0, -1], [1, 0, 1]]
    assert only(encoding.encode_inputs(data, _rows(1))).tolist() == [[1, 0, 1]]


def test_wide_arrays_are_read_in_blocks() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(3, 2, size=(3000, 3000)).astype(np.float32)  # more than one block
    data = Data(arrays={"x": x})
    selection = _selection("autoencoder", kind="arrays", inputs=("x",), targets=("x",))
    rows = np.arange(0, 3000, 2)
    encoding = Encoding.fit(data, selection, rows)

    assert encoding.target_mean == pytest.approx(x[rows].mean(axis=0, dtype=np.float64))
    assert encoding.target_scale == pytest.approx(x[rows].std(axis=0, dtype=np.float64))
    expected = (x[rows] - encoding.target_mean) / encoding.target_scale
    assert np.allclose(only(encoding.encode_inputs(data, rows)), expected, atol=1e-5)


def test_a_stored_data_set_must_have_what_the_model_reads(
    encoding: Encoding, parsed: Parse
) -> None:
    for content, says in [
        (b"flag,y\ntrue,1\n", "lacks what the model has as inputs: 'age'"),
        (b"age,flag\n1,x\n", "'flag' holds text"),
        (b"age,flag\n2020-01-01,true\n", "'age' holds datetime; numbers are needed"),
        (b"age,flag\n1e300,true\n", "too far"),
    ]:
        with pytest.raises(DataError, match=says) as caught:
            only(encoding.encode_inputs(parsed(content)))
        assert caught.value.pointer == "#/inputs"


@pytest.mark.parametrize("form", ["regressor", "classifier", "autoencoder"])
def test_an_imported_models_numbers_pass_as_they_are(form: Form) -> None:
    encoding = Encoding.identity({"in": (3,)}, (3,), form)

    assert (encoding.input_shapes["in"][0], encoding.output_shape[0]) == (3, 3)
    assert only(encoding.encode_records([[1, 2.5, -3]])).tolist() == [[1, 2.5, -3]]
    assert (
        only(encoding.encode_inputs(Data(arrays={"x": np.eye(3)}))).tolist() == np.eye(3).tolist()
    )
    assert encoding.decode([[1, 2, 3]]).tolist() == [[1, 2, 3]]
    assert encoding.classes == ((0, 1, 2) if form == "classifier" else None)
    with pytest.raises(DataError, match="2 numbers a row; the model takes 3"):
        only(encoding.encode_inputs(Data(arrays={"x": np.eye(2)})))


@pytest.mark.parametrize(
    ("inputs", "pointer"),
    [
        ([{"age": [1.0], "flag": True}], "#/inputs/0/age"),
        ([{"age": 1.0, "flag": True}, {"age": 1.0, "flag": [1]}], "#/inputs/1/flag"),
        ({"age": [1.0, [2.0]], "flag": [1, 1]}, "#/inputs/age/1"),
        ({"age": np.array([[1.0], [2.0]]), "flag": [1, 1]}, "#/inputs/age/0"),
        ([[[1.0], True]], "#/inputs/0/0"),
    ],
)
def test_a_list_of_one_number_is_no_value_of_a_column(
    encoding: Encoding, inputs: Any, pointer: str
) -> None:
    with pytest.raises(DataError, match="got a list") as caught:
        encoding.encode_records(inputs)
    assert caught.value.pointer == pointer


def test_a_list_of_one_number_is_a_row_of_an_array() -> None:
    read = Encoding.identity({"in": (1,)}, (1,), "regressor")
    for inputs in ([{"x": [3.0]}], {"x": [[3.0]]}, {"x": np.array([[3.0]])}, [[3.0]]):
        assert only(read.encode_records(inputs)).tolist() == [[3.0]]


def test_records_are_standardised_as_rows_are(encoding: Encoding, data: Data) -> None:
    expected = only(encoding.encode_inputs(data, _rows(0, 1))).tolist()

    for inputs in (
        [[1, 1], [3.0, 0]],
        [[1, True], [3, False]],
        [{"age": 1, "flag": True}, {"flag": 0, "age": 3, "y": None, "w": "any"}],
        {"flag": [True, 0], "age": [1, 3], "y": [1]},
    ):
        assert only(encoding.encode_records(inputs)).tolist() == expected


def test_arrays_may_be_given_by_name() -> None:
    fields = (Scaled(name="x", size=2), Scaled(name="u"))
    encoding = Encoding(kind="arrays", form="regressor", inputs=fields, targets=fields[1:])

    for inputs in (
        [[1, 2, 3], [4, 5, 6]],
        [{"x": [1, 2], "u": [3]}, {"u": [6], "x": [4, 5]}],
        {"x": [[1, 2], [4, 5]], "u": [3, 6]},
    ):
        assert only(encoding.encode_records(inputs)).tolist() == [[1, 2, 3], [4, 5, 6]]
    with pytest.raises(DataError, match="a list of 2 numbers, got a row of 1") as caught:
        only(encoding.encode_records({"x": [[1, 2], [4]], "u": [3, 6]}))
    assert caught.value.pointer == "#/inputs/x/1"


@pytest.mark.parametrize(
    ("inputs", "pointer", "says"),
    [
        (3, "#/inputs", "got a number"),
        (None, "#/inputs", "got null"),
        ("1,2", "#/inputs", "got a text"),
        ([], "#/inputs", "at least one"),
        ({}, "#/inputs/age", "'age' is missing"),
        ([1, 0], "#/inputs/0", "got a number"),
        ([[1, 0], {"age": 1}], "#/inputs/1", "got an object"),
        ([{"age": 1, "flag": 0}, [1, 0]], "#/inputs/1", "got a list"),
        ([[1, 0], [1]], "#/inputs/1", "expected 2 numbers (age, flag), got a row of 1"),
        ([[]], "#/inputs/0", "row of 0"),
        ([[1, 0], [1, 0, 2]], "#/inputs/1", "row of 3"),
        ([[1, 0], ["2", 0]], "#/inputs/1/0", "expected a number, got a text"),
        ([[True, 0]], "#/inputs/0/0", "got a boolean"),
        ([[1, 0.5]], "#/inputs/0/1", "true, false, 0 or 1"),
        ([[1, "true"]], "#/inputs/0/1", "true, false, 0 or 1"),
        ([[[1], 0]], "#/inputs/0/0", "got a list"),
        ([[float("nan"), 0]], "#/inputs/0/0", "finite"),
        ([[10**400, 0]], "#/inputs/0/0", "finite"),
        ([[1e200, 0]], "#/inputs/0", "too far"),
        ([{"age": 1, "flag": 0}, {"flag": 0}], "#/inputs/1/age", "'age' is missing"),
        ([{"age": 1, "flag": 0}, {"age": "1", "flag": 0}], "#/inputs/1/age", "got a text"),
        ([{"age": 1, "flag": 0, "agee": 2}], "#/inputs/0", "does not know 'agee'"),
        ({"age": [1], "flag": [0], "x": [1]}, "#/inputs", "does not know 'x'"),
        ({"age": [1, 2], "flag": [0]}, "#/inputs/flag", "'flag' has 1 values, 'age' has 2"),
        ({"age": 1, "flag": [0]}, "#/inputs/age", "got a number"),
        ({"age": [1, "x"], "flag": [0, 0]}, "#/inputs/age/1", "got a text"),
        ({"age": [1], "flag": [2]}, "#/inputs/flag/0", "true, false, 0 or 1"),
        ({"age": [0, 10**400], "flag": [0, 0]}, "#/inputs/age/1", "finite"),
        ({"age": [], "flag": []}, "#/inputs/age", "at least one"),
    ],
)
def test_what_is_wrong_with_records_is_pointed_at(
    encoding: Encoding, inputs: Any, pointer: str, says: str
) -> None:
    with pytest.raises(DataError) as caught:
        only(encoding.encode_records(inputs))

    assert caught.value.pointer == pointer
    assert says in caught.value.detail


def test_pointers_escape_the_names_of_columns() -> None:
    field = Scaled(name="a/b~c d%é")
    encoding = Encoding(kind="table", form="regressor", inputs=(field,), targets=(field,))
    with pytest.raises(DataError) as caught:
        only(encoding.encode_records([{}]))

    assert caught.value.pointer == "#/inputs/0/a~1b~0c%20d%25%C3%A9"


def test_what_a_model_was_fitted_to_must_be_there_to_evaluate_it(parsed: Parse, data: Data) -> None:
    classifier = Encoding.fit(data, _selection("classifier"), _rows(0, 1))

    assert classifier.encode_truth(data, _rows(1, 0)).tolist() == [1, 0]
    with pytest.raises(DataError, match="lacks what the model has as targets: 'y'"):
        Encoding.fit(data, _selection(), _rows(0, 1)).encode_truth(parsed(b"age\n1\n"))


def test_class_labels_may_stand_in_one_column_of_an_array() -> None:
    data = Data(arrays={"x": np.eye(2), "y": np.array([["b"], ["a"]])})
    selection = _selection("classifier", kind="arrays", inputs=("x",))

    assert Encoding.fit(data, selection, _rows(0, 1)).classes == ("a", "b")
    cube = Data(arrays={"x": np.eye(2), "y": np.zeros((2, 2, 2), dtype=int)})
    with pytest.raises(DataError, match="one class label a row"):
        Encoding.fit(cube, selection, _rows(0, 1))


def test_images_and_sequences_are_scaled_by_channel_and_feature() -> None:
    rng = np.random.default_rng(4)
    images, sequences = rng.normal(3, 2, (5, 2, 4, 3)), rng.normal(-1, 5, (5, 4, 2))
    for x, axes in ((images, (0, 2, 3)), (sequences, (0, 1))):
        data = Data(arrays={"x": x})
        encoding = Encoding.fit(
            data,
            _selection("autoencoder", kind="arrays", inputs=("x",), targets=("x",)),
            _rows(0, 1, 2),
        )
        mean, std = x[:3].mean(axes, keepdims=True), x[:3].std(axes, keepdims=True)
        expected = (x - mean) / std
        assert encoding.input_shapes == {"in": x.shape[1:]}
        assert encoding.output_shape == x.shape[1:]
        assert encoding.target_names == ("x[0]", "x[1]")
        stored = only(encoding.encode_inputs(data))
        np.testing.assert_allclose(stored, expected, atol=1e-5)
        assert np.array_equal(only(encoding.encode_records(x.tolist())), stored)
        assert np.array_equal(only(encoding.encode_records({"x": x.tolist()})), stored)
        assert np.array_equal(encoding.encode_targets(data), stored)
        np.testing.assert_allclose(encoding.decode(stored), x, atol=1e-5)
        np.testing.assert_allclose(encoding.encode_truth(data), x)
        with pytest.raises(DataError, match="a list of"):
            encoding.encode_records([[1, 2]])


def test_labels_of_steps_are_numbered_step_by_step() -> None:
    data = Data(arrays={"x": np.zeros((3, 2, 1)), "y": np.array([[5, 7], [7, 7], [5, 5]])})
    selection = _selection("classifier", kind="arrays", inputs=("x",))
    encoding = Encoding.fit(data, selection, _rows(0, 1))
    assert encoding.output_shape == (2, 2)
    assert encoding.encode_targets(data).tolist() == [[0, 1], [1, 1], [0, 0]]


def test_labels_of_another_number_of_steps_are_refused() -> None:
    data = Data(arrays={"x": np.zeros((3, 2, 1)), "y": np.array([[5, 7], [7, 7], [5, 5]])})
    selection = _selection("classifier", kind="arrays", inputs=("x",))
    encoding = Encoding.fit(data, selection, _rows(0, 1))
    for y in (np.array([[5, 7, 5]]), np.array([5])):
        with pytest.raises(DataError, match=r"labels of shape \[2\] are needed") as caught:
            encoding.encode_targets(Data(arrays={"y": y}))
        assert caught.value.pointer == "#/targets"
    one = of_steps(encoding, 1, (1, 2))
    for y in (np.array([[5], [7]]), np.array([5, 7])):
        assert one.encode_targets(Data(arrays={"y": y})).tolist() == [[0], [1]]


@pytest.mark.parametrize("shape", [(4, 2), (4, 1), (2, 4, 3), (1, 4, 1)])
def test_one_number_a_row_is_no_sequence_or_image(shape: tuple[int, ...]) -> None:
    encoding = Encoding.identity({"in": shape}, (1,), "regressor")
    with pytest.raises(DataError, match="numbers of shape") as caught:
        encoding.encode_inputs(Data(arrays={"x": np.zeros(3)}))
    assert caught.value.pointer == "#/inputs"


def test_an_array_by_name_is_a_list_of_rows() -> None:
    encoding = Encoding.identity({"in": (2,)}, (1,), "regressor")
    for inputs, pointer in (({"x": [1, 2]}, "#/inputs/x/0"), ([{"x": 1}], "#/inputs/0/x")):
        with pytest.raises(DataError, match="a list of 2 numbers, got a number") as caught:
            only(encoding.encode_records(inputs))
        assert caught.value.pointer == pointer


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(
        st.tuples(*[st.floats(allow_nan=False, allow_infinity=False) | st.integers()] * 2),
        min_size=1,
        max_size=3,
    ),
    mean=st.floats(-1e300, 1e300),
    scale=st.floats(1e-300, 1e300),
)
def test_few_numbers_many_and_those_read_one_by_one_are_encoded_alike(
    rows: list[tuple[float, float]], mean: float, scale: float
) -> None:
    fields = (Scaled(name="a", mean=mean, scale=scale), Scaled(name="b"))
    encoding = Encoding(kind="table", form="regressor", inputs=fields, targets=())

    def encoded(inputs: Any) -> Any:
        try:
            return only(encoding.encode_records(inputs))
        except DataError as error:
            return str(error)

    lists = [list(row) for row in rows]
    few, many = encoded(lists), encoded(lists * 100)
    slow = encoded(rows)  # tuples are looked at one by one
    if isinstance(few, str):
        assert few == many == slow
    else:
        np.testing.assert_array_equal(few, slow)
        np.testing.assert_array_equal(np.tile(few, (100, 1)), many)
