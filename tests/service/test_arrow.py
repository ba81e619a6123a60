"""`POST /predict` with rows and answers as Arrow IPC streams: the numbers of JSON, to the bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest

from service.answer_tables import STREAM
from tests.e2e.servers import npz_of
from tests.service.conftest import Api, assert_problem

LAYERS = {"layers": [None, 8, None]}
SENT = {"Content-Type": STREAM}
WANTED = {"Accept": STREAM}


def stream(columns: dict[str, Any], request: Any = None, **options: Any) -> bytes:
    """Write columns as a stream, and a request into the metadata of its schema."""
    table = pa.table(columns)
    if request is not None:
        text = request if isinstance(request, str) else json.dumps(request)
        table = table.replace_schema_metadata({"bernoulli.request": text})
    sink = pa.BufferOutputStream()
    writing = pa.ipc.IpcWriteOptions(**options)
    with pa.ipc.new_stream(sink, table.schema, options=writing) as writer:
        writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def table_of(answer: httpx.Response) -> tuple[pa.Table, dict[str, Any]]:
    """Return the columns of an answer, and what it says besides."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == STREAM
    table = pa.ipc.open_stream(answer.content).read_all()
    rest: dict[str, Any] = json.loads(table.schema.metadata[b"bernoulli.answer"])
    return table, rest


def sent(api: Api, columns: dict[str, Any], **request: Any) -> httpx.Response:
    return api.post("/predict", content=stream(columns, request), headers=SENT)


def trained(api: Api, dataset: str, **spec: Any) -> str:
    job = api.train(dataset, **{"network": LAYERS, "epochs": 2, "hidden_dropout": 0.3, **spec})
    api.work()
    model = api.get(f"/jobs/{job['id']}").json()["model"]
    assert model, api.get(f"/jobs/{job['id']}").json()
    return str(model)


@pytest.fixture(scope="module")
def table() -> dict[str, Any]:
    draw = np.random.default_rng(5)
    a, b = draw.standard_normal((2, 40))
    city = ["Oslo", "Rome"] * 20
    return {"a": a, "b": b, "city": city, "y": a + b, "z": a - b}


@pytest.fixture(scope="module")
def model(shared: Api, table: dict[str, Any]) -> str:
    """A model of two targets."""
    return trained(
        shared, shared.upload(stream(table), STREAM), inputs=["a", "b", "city"], targets=["y", "z"]
    )


@pytest.fixture(scope="module")
def classifier(shared: Api, table: dict[str, Any]) -> str:
    kinds = np.where(table["y"] > 0, "up", "down")
    content = stream({"a": table["a"], "b": table["b"], "kind": kinds})
    return trained(shared, shared.upload(content, STREAM), inputs=["a", "b"], targets=["kind"])


@pytest.fixture(scope="module")
def sequences(shared: Api) -> str:
    """A model of arrays (rows, steps, features) that says two numbers for each step."""
    x = np.random.default_rng(7).standard_normal((30, 4, 3))
    dataset = shared.upload(npz_of(x=x, y=x[:, :, :2]), "application/x-npz")
    layers = [None, {"form": "rnn", "size": 5}, None]
    return trained(shared, dataset, network={"layers": layers})


ROWS = {"a": [0.1, -2.0, 3.0], "b": [1.0, 2.0, 0.5], "city": ["Rome", "Oslo", "Rome"]}


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"hidden_dropout": 0.5, "seed": 3},
        {"num_samples": 30, "seed": 11, "row_offset": 5, "quantiles": [0.1]},
        {"num_samples": 8, "seed": 1, "outputs": ["hid1:out"], "statistics": ["mean", "samples"]},
    ],
)
def test_rows_in_a_stream_have_the_answer_of_json(
    shared: Api, model: str, asked: dict[str, Any]
) -> None:
    fields = {"model": model, **asked}
    expected = shared.post("/predict", json={**fields, "inputs": ROWS})
    assert expected.status_code == 200, expected.text
    in_metadata = shared.post("/predict", content=stream(ROWS, fields), headers=SENT)
    in_query = shared.post(
        "/predict",
        params={"request": json.dumps(fields)},
        content=stream(ROWS),
        headers={"Content-Type": f"{STREAM}; charset=binary"},
    )
    assert in_metadata.content == in_query.content == expected.content


def test_arrays_come_as_lists_tensors_or_columns(shared: Api, sequences: str) -> None:
    x = np.random.default_rng(1).standard_normal((6, 4, 3))
    asked = {"model": sequences, "num_samples": 5, "seed": 2}
    expected = shared.post("/predict", json={**asked, "inputs": x.tolist()})
    assert expected.status_code == 200, expected.text
    for column in (pa.array(x.tolist()), pa.FixedShapeTensorArray.from_numpy_ndarray(x)):
        assert sent(shared, {"x": column}, **asked).content == expected.content


def test_features_of_an_array_come_as_columns(shared: Api) -> None:
    model = shared.import_model().json()["id"]
    answer = sent(shared, {"first": [1.0, 2.0], "second": [10.0, 20.0]}, model=model)
    assert answer.json()["outputs"] == {"prediction": [[11.0], [22.0]]}


def test_values_of_a_hidden_layer_come_as_lists(shared: Api, model: str) -> None:
    values = np.random.default_rng(3).standard_normal((4, 8))
    asked = {"model": model, "start": "hid1:out"}
    expected = shared.post("/predict", json={**asked, "inputs": values.tolist()})
    assert expected.status_code == 200, expected.text
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 8)
    assert sent(shared, {"hid1:out": column}, **asked).content == expected.content


def test_a_column_may_be_called_as_a_field_is(shared: Api) -> None:
    dataset = shared.upload(b"dataset,rows,y\n1,2,3\n2,3,5\n3,4,7\n4,5,9\n")
    model = trained(shared, dataset, hidden_dropout=0)
    answer = sent(shared, {"dataset": [1.0], "rows": [2.0]}, model=model)
    assert answer.status_code == 200, answer.text


# -- what is wrong ---------------------------------------------------------------------------------


def test_the_request_comes_once(shared: Api, model: str) -> None:
    both = shared.post(
        "/predict",
        params={"request": json.dumps({"model": model})},
        content=stream(ROWS, {"model": model}),
        headers=SENT,
    )
    assert_problem(both, 422, "#/query/request")
    neither = shared.post("/predict", content=stream(ROWS), headers=SENT)
    assert_problem(neither, 422, "#/query/request")
    with_json = shared.post(
        "/predict", params={"request": "{}"}, json={"model": model, "inputs": ROWS}
    )
    assert_problem(with_json, 422, "#/query/request")
    assert_problem(sent(shared, ROWS, model=model, inputs=[[1]]), 422, "#/inputs")


@pytest.mark.parametrize(
    ("request_text", "status"), [("{", 400), ('{"model": NaN}', 400), ("[1]", 422), ("\udce9", 400)]
)
def test_a_request_that_is_no_object_is_told(shared: Api, request_text: str, status: int) -> None:
    text = request_text.encode(errors="surrogateescape")
    content = stream(ROWS, "placeholder of bytes").replace(b"placeholder of bytes", text.ljust(20))
    assert_problem(shared.post("/predict", content=content, headers=SENT), status)


@pytest.mark.parametrize(
    ("asked", "pointer"),
    [
        ({"num_samples": 0}, "#/num_samples"),
        ({"quantiles": [2]}, "#/quantiles/0"),
        ({"mode": 1}, "#/mode"),
        ({"dropout": {"nothing": 0.5}}, "#/dropout/nothing"),
    ],
)
def test_what_is_wrong_in_the_request_is_pointed_at(
    shared: Api, model: str, asked: dict[str, Any], pointer: str
) -> None:
    of_json = shared.post("/predict", json={"model": model, "inputs": ROWS, **asked})
    of_arrow = sent(shared, ROWS, model=model, **asked)
    expected, found = assert_problem(of_json, 422, pointer), assert_problem(of_arrow, 422, pointer)
    assert found["errors"] == expected["errors"]


@pytest.mark.parametrize(
    "columns",
    [
        {"a": ["x", "y", "z"]},
        {"city": ["Rome", "Rome", "Nowhere"]},
        {"unknown": [1.0, 2.0, 3.0]},
    ],
)
def test_what_is_wrong_in_the_rows_is_told_as_of_json(
    shared: Api, model: str, columns: dict[str, Any]
) -> None:
    rows = ROWS | columns
    of_json = shared.post("/predict", json={"model": model, "inputs": rows})
    expected = assert_problem(of_json, 422)
    found = assert_problem(sent(shared, rows, model=model), 422)
    assert (found["detail"], found["errors"]) == (expected["detail"], expected["errors"])


def test_columns_that_the_model_needs_are_asked_for(shared: Api, model: str) -> None:
    assert_problem(sent(shared, {"a": [1.0], "b": [1.0]}, model=model), 422, "#/inputs/city")
    assert_problem(sent(shared, {**ROWS, "a": pa.nulls(3)}, model="mdl_none"), 404)


def test_lists_of_one_number_are_no_values_of_a_column(shared: Api, model: str) -> None:
    columns = {**ROWS, "a": pa.array([[0.1], [-2.0], [3.0]])}
    assert_problem(sent(shared, columns, model=model), 422, "#/inputs/a/0")


def test_a_stream_that_was_cut_is_malformed(shared: Api, model: str) -> None:
    content = stream(ROWS, {"model": model})
    for end in (0, 4, 100, len(content) // 2, len(content) - 8, len(content) - 1):
        assert_problem(shared.post("/predict", content=content[:end], headers=SENT), 400)
    assert_problem(shared.post("/predict", content=content + b"more", headers=SENT), 400)


def test_bombs_are_refused(shared: Api, model: str) -> None:
    zeros = {name: np.zeros(1000) for name in "ab"}
    squeezed = stream(zeros, {"model": model}, compression="zstd")
    assert_problem(shared.post("/predict", content=squeezed, headers=SENT), 422, "#/inputs")
    long = pa.DictionaryArray.from_arrays(np.zeros(2**16, np.int8), ["x" * 2**16])
    for column in (pa.nulls(2**30), long):
        assert_problem(sent(shared, {"a": column}, model=model), 422, "#/inputs")


def test_other_media_types_are_told_what_is_read(shared: Api) -> None:
    answer = shared.post("/predict", content=b"1", headers={"Content-Type": "text/csv"})
    assert STREAM in assert_problem(answer, 415)["detail"]


# -- answers ---------------------------------------------------------------------------------------


def asked_both(api: Api, **body: Any) -> tuple[pa.Table, dict[str, Any], dict[str, Any]]:
    """Return the table of an answer, its rest, and the same answer as JSON."""
    table, rest = table_of(api.post("/predict", json=body, headers=WANTED))
    whole: dict[str, Any] = api.post("/predict", json=body).json()
    return table, rest, whole


def test_statistics_are_columns_by_target(shared: Api, model: str) -> None:
    table, rest, whole = asked_both(shared, model=model, inputs=ROWS, num_samples=20, seed=4)
    outputs = whole.pop("outputs")
    assert rest == whole | {"outputs": {}}
    found = table.to_pydict()
    for index, target in enumerate("yz"):
        for name in ("mean", "std", "standard_error"):
            assert found.pop(f"{name}.{target}") == [row[index] for row in outputs[name]]
        for part, values in outputs["variance"].items():
            assert found.pop(f"variance_{part}.{target}") == [row[index] for row in values]
        for quantile, values in outputs["quantiles"].items():
            assert found.pop(f"quantile_{quantile}.{target}") == [row[index] for row in values]
    assert found == {}


def test_columns_are_called_as_those_of_stored_predictions(shared: Api, model: str) -> None:
    dataset = shared.upload(stream(ROWS), STREAM)
    asked: dict[str, Any] = {"model": model, "inputs": {"dataset": dataset}, "seed": 1}
    asked |= {"num_samples": 9, "outputs": ["hid1:out"], "quantiles": [0.05]}
    table, _ = table_of(shared.post("/predict", json=asked, headers=WANTED))
    job = shared.post("/predictions", json=asked).json()["id"]
    shared.work()
    result = shared.get(f"/jobs/{job}").json()["result"]["dataset"]
    stored = shared.get(f"/datasets/{result}/content", headers=WANTED)
    assert table.to_pydict() == pa.ipc.open_stream(stored.content).read_all().to_pydict()


def test_classes_are_labels_and_probabilities(shared: Api, classifier: str) -> None:
    rows = {name: ROWS[name] for name in "ab"}
    table, _, whole = asked_both(shared, model=classifier, inputs=rows, num_samples=20, seed=4)
    found, outputs = table.to_pydict(), whole["outputs"]
    assert found["label"] == outputs["label"]
    assert found["probability.up"] == [row[1] for row in outputs["probabilities"]]
    for name in ("entropy", "mutual_information", "variation_ratio"):
        assert found[name] == outputs[name]
    single, _ = table_of(
        shared.post("/predict", json={"model": classifier, "inputs": rows}, headers=WANTED)
    )
    assert single.column_names == ["label", "probability.down", "probability.up"]


def test_samples_are_lists_of_passes(shared: Api, model: str) -> None:
    asked: dict[str, Any] = {"model": model, "inputs": ROWS, "num_samples": 6, "seed": 2}
    asked |= {"statistics": ["samples"], "outputs": ["hid1:out"]}
    table, _, whole = asked_both(shared, **asked)
    samples = np.array(whole["outputs"]["samples"])  # (passes, rows, targets)
    for index, target in enumerate("yz"):
        column = table.column(f"samples.{target}")
        assert column.type == pa.list_(pa.float64(), 6)
        assert column.to_pylist() == samples[:, :, index].T.tolist()
    hidden = table.column("hid1:out.samples")
    assert list(hidden.type.shape) == [6, 8]
    expected = np.array(whole["outputs"]["hid1:out"]["samples"]).swapaxes(0, 1)
    assert (hidden.combine_chunks().to_numpy_ndarray() == expected).all()


def test_outputs_of_higher_rank_are_tensors(shared: Api, sequences: str) -> None:
    x = np.random.default_rng(1).standard_normal((5, 4, 3)).tolist()
    table, _, whole = asked_both(shared, model=sequences, inputs=x, num_samples=7, seed=2)
    for name in ("mean", "std"):
        column = table.column(name)
        assert list(column.type.shape) == [4, 2]
        values = column.combine_chunks().to_numpy_ndarray()
        assert (values == np.array(whole["outputs"][name])).all()


def test_covariance_has_a_row_for_each_row(shared: Api, model: str) -> None:
    asked: dict[str, Any] = {"model": model, "inputs": ROWS, "num_samples": 6, "seed": 2}
    asked |= {"masks": "shared", "statistics": ["covariance"]}
    table, _, whole = asked_both(shared, **asked)
    values = table.column("covariance").combine_chunks().to_numpy_ndarray()
    assert (values == np.array(whole["outputs"]["covariance"])).all()


def test_what_one_pass_has_not_is_null(shared: Api, model: str) -> None:
    asked: dict[str, Any] = {"model": model, "inputs": ROWS, "num_samples": 1, "seed": 2}
    table, _, _ = asked_both(shared, **asked)
    assert table.column("std.y").to_pylist() == [None, None, None]
    assert table.column("mean.y").null_count == 0


def test_rows_of_sequences_are_named(shared: Api) -> None:
    dataset = shared.upload(stream({"v": np.sin(np.arange(30.0))}), STREAM)
    spec: dict[str, Any] = {"sequence": {"window": 4}, "inputs": ["v"], "targets": ["v"]}
    spec["network"] = {"layers": [None, {"form": "rnn", "size": 4}, None]}
    model = trained(shared, dataset, **spec)
    table, rest, whole = asked_both(shared, model=model, inputs={"dataset": dataset})
    assert table.column("row").to_pylist() == whole["rows"]
    assert "rows" not in rest


def test_too_many_columns_are_lists(shared: Api) -> None:
    draw = np.random.default_rng(2)
    arrays = npz_of(x=draw.standard_normal((20, 3)), y=draw.standard_normal((20, 400)))
    # Without validation rows, on which the noise of each of the 400 would be fitted.
    model = trained(shared, shared.upload(arrays, "application/x-npz"), validation=None)
    table, _, whole = asked_both(
        shared, model=model, inputs=[[1.0, 2.0, 3.0]], num_samples=4, seed=1
    )
    assert table.column("mean").type == pa.list_(pa.float64(), 400)
    assert table.column("mean").to_pylist() == whole["outputs"]["mean"]


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("application/*", "application/json"),
        (STREAM, STREAM),
        (f"{STREAM}, */*;q=0.1", STREAM),
        (f"application/json;q=0.5, {STREAM};q=0.9", STREAM),
        (f"application/json, {STREAM};q=0.9", "application/json"),
        (f"text/csv, {STREAM};q=0.2", STREAM),
    ],
)
def test_the_caller_chooses_the_format(shared: Api, accept: str | None, kind: str) -> None:
    model = shared.import_model().json()["id"]
    headers = {} if accept is None else {"Accept": accept}
    answer = shared.post("/predict", json={"model": model, "inputs": [[1, 2]]}, headers=headers)
    assert answer.headers["content-type"] == kind


@pytest.mark.parametrize("accept", ["text/csv", "application/json;q=0", "image/*", f"{STREAM};q=0"])
def test_formats_that_are_not_written_are_refused(shared: Api, accept: str) -> None:
    body = {"model": "mdl_none", "inputs": [[1, 2]]}
    answer = shared.post("/predict", json=body, headers={"Accept": accept})
    assert STREAM in assert_problem(answer, 406)["detail"]


def test_problems_are_json_whatever_was_asked_for(shared: Api) -> None:
    answer = shared.post("/predict", json={"model": "mdl_none", "inputs": [[1]]}, headers=WANTED)
    assert_problem(answer, 404)


def test_the_example_of_the_guide_runs(shared: Api, capsys: pytest.CaptureFixture[str]) -> None:
    draw = np.random.default_rng(4)
    rm, lstat = draw.standard_normal((2, 30))
    dataset = shared.upload(stream({"rm": rm, "lstat": lstat, "medv": rm - lstat}), STREAM)
    model = trained(shared, dataset)
    assert shared.put("/aliases/boston", json={"model": model}).status_code in (200, 201)

    guide = Path(__file__).parents[2] / "docs" / "api.md"
    section = guide.read_text().split("### Arrow streams")[1]
    code = section.split("```python\n")[1].split("```")[0]
    client = 'httpx.Client(base_url="http://127.0.0.1:8000")'
    assert client in code
    names: dict[str, Any] = {"shared": shared}
    exec(code.replace(client, "shared"), names)

    assert names["answer"].num_rows == 2
    assert "hid1:out" in capsys.readouterr().out
