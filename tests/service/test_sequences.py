"""Sequences and images over HTTP, from upload to prediction."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.engine.data.conftest import npz
from tests.service.conftest import Api, assert_problem

RNG = np.random.default_rng(7)
X = RNG.standard_normal((60, 6, 3))


def trained(api: Api, dataset: str, layers: list[Any], **spec: Any) -> dict[str, Any]:
    """Train to the end and return the job."""
    spec = {"epochs": 2, **spec}
    network = {"layers": layers, **spec.pop("network", {})}
    job = api.train(dataset, network=network, **spec)
    api.work()
    ended: dict[str, Any] = api.get(f"/jobs/{job['id']}").json()
    assert ended["status"] == "succeeded", ended["error"]
    return ended


def predict(api: Api, model: str, inputs: Any, **request: Any) -> dict[str, Any]:
    answer = api.post("/predict", json={"model": model, "inputs": inputs, **request})
    assert answer.status_code == 200, answer.text
    outputs: dict[str, Any] = answer.json()["outputs"]
    return outputs


@pytest.fixture(scope="module")
def regressor(shared: Api) -> str:
    """A model of sequences of 6 steps whose layers do not depend on their number."""
    dataset = shared.upload(npz(x=X, y=X[:, -1, :2]), "application/x-npz")
    layers = [None, 8, {"form": "last"}, None]
    return str(trained(shared, dataset, layers, hidden_dropout=0.2)["model"])


def test_sequences_are_sent_in_every_way(shared: Api, regressor: str) -> None:
    rows = X[:4].tolist()
    stored = shared.upload(npz(x=X, y=X[:, -1, :2]), "application/x-npz")
    expected = predict(shared, regressor, rows)["prediction"]
    assert np.shape(expected) == (4, 2)
    for inputs in (
        {"x": rows},
        [{"x": row} for row in rows],
        {"dataset": stored, "rows": [0, 1, 2, 3]},
    ):
        assert predict(shared, regressor, inputs)["prediction"] == expected
    assert predict(shared, regressor, rows[2:3])["prediction"] == expected[2:3]


def test_sequences_of_other_lengths_are_taken_where_the_layers_allow(
    shared: Api, regressor: str
) -> None:
    """These layers read the last step alone, so that what stands before it does not count."""
    expected = predict(shared, regressor, X[:3].tolist())["prediction"]
    for steps in (1, 2, 5):
        rows = X[:3, -steps:].tolist()
        assert predict(shared, regressor, rows)["prediction"] == expected
        assert predict(shared, regressor, {"x": rows})["prediction"] == expected
    longer = np.concatenate([X[:3], X[:3]], axis=1)
    assert predict(shared, regressor, longer.tolist())["prediction"] == expected
    stored = shared.upload(npz(x=longer), "application/x-npz")
    assert predict(shared, regressor, {"dataset": stored})["prediction"] == expected
    many = predict(shared, regressor, longer.tolist(), num_samples=5, seed=1, outputs=["hid1:out"])
    assert np.shape(many["hid1:out"]["mean"]) == (3, 12, 8)


def test_all_rows_of_a_request_have_one_length(shared: Api, regressor: str) -> None:
    rows = [X[0].tolist(), X[1, :5].tolist()]
    body = {"model": regressor, "inputs": rows}
    assert_problem(shared.post("/predict", json=body), 422, "#/inputs/1")


def test_a_model_that_depends_on_the_number_of_steps_says_so(shared: Api) -> None:
    dataset = shared.upload(npz(x=X, y=X[:, -1, :2]), "application/x-npz")
    wide = {"form": "conv1", "size": 4, "filter_size": 6}
    for layers in (
        [None, [4, "gru"], "flatten", None],
        [None, {"form": "flatten"}, None],
        [None, wide, "last", None],
    ):
        model = trained(shared, dataset, layers)["model"]
        assert np.shape(predict(shared, model, X[:3].tolist())["prediction"]) == (3, 2)
        body = {"model": model, "inputs": X[:3, :5].tolist()}
        detail = assert_problem(shared.post("/predict", json=body), 422, "#/inputs")["detail"]
        assert "sequences have 5 steps" in detail
        assert "give 6" in detail


@pytest.mark.parametrize("form", ["rnn", "lstm", "gru", "clockwork", "bidirectional"])
def test_recurrent_layers_read_sequences_of_any_length(shared: Api, form: str) -> None:
    """What is read of the first steps does not depend on those that follow, but both ways."""
    dataset = shared.upload(npz(x=X, y=X[..., 0]), "application/x-npz")
    layer: dict[str, Any] = {"form": form, "size": 4}
    layer |= {"periods": [1, 2]} if form == "clockwork" else {}
    layer |= {"worker": "rnn"} if form == "bidirectional" else {}
    model = trained(shared, dataset, [None, layer, None])["model"]
    whole = np.array(predict(shared, model, X[:3].tolist())["prediction"])
    part = np.array(predict(shared, model, X[:3, :4].tolist())["prediction"])
    assert (whole.shape, part.shape) == ((3, 6, 1), (3, 4, 1))
    if form != "bidirectional":
        assert np.array_equal(part, whole[:, :4])


@pytest.mark.parametrize(
    ("inputs", "pointer"),
    [
        ([[[1, 2, None]] * 6], "#/inputs/0/0/2"),
        ({"x": [[[1, 2, 3]] * 6, [[1, 2, 3]] * 5 + [[1, "2", 3]]]}, "#/inputs/x/1/5/1"),
        ([{"x": [[1, 2]] * 6}], "#/inputs/0/x/0"),
        ({"x": [[[1, 2, 3]], [[1, 2, 3]] * 2]}, "#/inputs/x/1"),
        ([[[[1]]]], "#/inputs/0/0"),
        ([[]], "#/inputs/0"),
        ([[[]]], "#/inputs/0/0"),
        ([None], "#/inputs/0"),
        ({"x": {}}, "#/inputs/x"),
        ({"x": [{}]}, "#/inputs/x/0"),
        ({"z": [[1]]}, "#/inputs"),
    ],
    ids=str,
)
def test_odd_inputs_are_pointed_at(shared: Api, regressor: str, inputs: Any, pointer: str) -> None:
    body = {"model": regressor, "inputs": inputs}
    assert_problem(shared.post("/predict", json=body), 422, pointer)


def test_images_and_plain_columns_enter_by_layers_of_their_own(shared: Api) -> None:
    arrays = {"s": X, "age": X[:, 0, 0] * 3 + 40, "y": X[:, -1, 0]}
    dataset = shared.upload(npz(**arrays), "application/x-npz")
    layers = [
        {"name": "s", "form": "input"},
        {"name": "last", "form": "last", "inputs": "s"},
        {"name": "age", "form": "input"},
        {"name": "hid", "size": 4, "inputs": ["last", "age"]},
        None,
    ]
    job = trained(shared, dataset, layers, inputs=["s", "age"])
    expected = predict(shared, job["model"], {"dataset": dataset, "rows": [0, 1]})["prediction"]
    records = [{"s": X[i].tolist(), "age": arrays["age"][i]} for i in (0, 1)]
    assert predict(shared, job["model"], records)["prediction"] == expected
    columns = {name: arrays[name][:2].tolist() for name in ("s", "age")}
    assert predict(shared, job["model"], columns)["prediction"] == expected
    del records[1]["age"]
    answer = shared.post("/predict", json={"model": job["model"], "inputs": records})
    assert_problem(answer, 422, "#/inputs/1/age")


LETTERS = np.array(list("abc"))
SPELT = LETTERS[RNG.integers(0, 3, (80, 5))]


def test_arrays_of_texts_are_read_one_hot_step_by_step(shared: Api) -> None:
    """Labels (rows, steps) of a text (rows, steps): capitals, learnt step by step."""
    arrays = {"x": SPELT, "y": np.char.upper(SPELT)}
    dataset = shared.upload(npz(**arrays), "application/x-npz")
    adam = {"form": "adam", "learning_rate": 0.1}
    job = trained(shared, dataset, [None, 8, None], epochs=30, optimizer=adam, hidden_dropout=0.1)
    assert job["metrics"]["valid"]["accuracy"] == 1
    model = shared.get(f"/models/{job['model']}").json()
    assert model["encoding"]["inputs"][0]["categories"] == ["a", "b", "c"]
    assert model["encoding"]["classes"] == ["A", "B", "C"]
    for inputs in (["abcab", "ccccc"], [list("abcab"), list("ccccc")], {"x": ["abcab", "ccccc"]}):
        outputs = predict(shared, job["model"], inputs)
        assert outputs["label"] == [list("ABCAB"), list("CCCCC")]
    assert np.shape(outputs["probabilities"]) == (2, 5, 3)
    assert predict(shared, job["model"], ["ab"])["label"] == [["A", "B"]]
    stored = predict(shared, job["model"], {"dataset": dataset, "rows": [3]})
    assert stored["label"] == [arrays["y"][3].tolist()]
    passes = predict(shared, job["model"], ["abcab"], num_samples=20, seed=1)
    for name in ("entropy", "expected_entropy", "mutual_information", "variation_ratio"):
        assert np.shape(passes[name]) == (1, 5)
    odd: list[tuple[Any, str]] = [
        (["abx"], "#/inputs/0"),
        ([["a", "x"]], "#/inputs/0/1"),
        ([["a", 1]], "#/inputs/0/1"),
        (["ab", "abc"], "#/inputs/1"),
        ([""], "#/inputs/0"),
        ([{"x": ["a", "x"]}], "#/inputs/0/x/1"),
        ([1], "#/inputs/0"),
        ({"x": "abc"}, "#/inputs/x"),
    ]
    for given, pointer in odd:
        answer = shared.post("/predict", json={"model": job["model"], "inputs": given})
        assert_problem(answer, 422, pointer)


def test_integers_are_categories_where_the_caller_says_so(shared: Api) -> None:
    x = RNG.integers(0, 12, (60, 5))
    arrays = {"x": x, "y": np.roll(x, -1, axis=1) % 2}
    dataset = shared.upload(npz(**arrays), "application/x-npz")
    columns = {"columns": {"x": {"type": "category"}}, "network": {"form": "classifier"}}
    model = trained(shared, dataset, [None, [6, "rnn"], None], **columns)["model"]
    (field,) = shared.get(f"/models/{model}").json()["encoding"]["inputs"]
    assert field["categories"] == [str(number) for number in range(12)]
    stored = predict(shared, model, {"dataset": dataset, "rows": [0, 1]})
    assert predict(shared, model, x[:2].tolist()) == stored
    assert np.shape(stored["label"]) == (2, 5)
    odd: list[tuple[Any, str]] = [
        ([[1, 12]], "#/inputs/0/1"),
        ([[1, 10**30]], "#/inputs/0/1"),
        ([[1, True]], "#/inputs/0/1"),
        ([[1, 2.0]], "#/inputs/0/1"),
        ([["1"]], "#/inputs/0/0"),
        (["12"], "#/inputs/0"),
    ]
    for given, pointer in odd:
        answer = shared.post("/predict", json={"model": model, "inputs": given})
        assert_problem(answer, 422, pointer)
    rows = {"x": x, "y": x[:, 0] % 2, "v": RNG.standard_normal((60, 2))}
    other = shared.upload(npz(**rows), "application/x-npz")
    body = {"dataset": other, "network": {"layers": [None, 3, None]}, "inputs": ["v"]}
    for asked, pointer in (
        ({"v": {"type": "category"}}, "#/columns/v/type"),
        ({"v": {"scale": "none"}}, "#/columns/v/scale"),
        ({"v": {"type": "number"}}, "#/columns/v/type"),
        ({"x": {"type": "category"}}, "#/columns/x"),
    ):
        answer = shared.post("/train", json={**body, "columns": asked})
        assert_problem(answer, 422, pointer)


def test_weights_may_be_those_of_steps(shared: Api) -> None:
    """What weighs nothing is not learnt: the first three steps say the opposite."""
    labels = (X[..., 0] > 0).astype(np.int64)
    labels[:, :3] = 1 - labels[:, :3]
    weights = np.ones((60, 6))
    weights[:, :3] = 0
    content = npz(x=X, y=labels, w=weights)
    dataset = shared.upload(content, "application/x-npz")
    spec: dict[str, Any] = {"network": {"form": "classifier"}, "sample_weight": "w", "epochs": 40}
    spec["optimizer"] = {"form": "adam", "learning_rate": 0.1}
    model = trained(shared, dataset, [None, None], **spec)["model"]
    found = np.array(predict(shared, model, X[:20].tolist())["label"])
    assert (found == (X[:20, :, 0] > 0)).mean() > 0.9
    body = {"dataset": dataset, "network": {"layers": [None, {"form": "last"}, None]}}
    body |= {"sample_weight": "w", "targets": ["y"]}
    answer = shared.post("/train", json=body)
    assert_problem(answer, 422, "#/sample_weight")


def test_a_target_of_rows_and_steps_is_what_the_network_makes_of_it(shared: Api) -> None:
    dataset = shared.upload(npz(x=X, y=X.sum(axis=2)), "application/x-npz")
    spec: dict[str, Any] = {"network": {"form": "regressor"}, "epochs": 60, "hidden_dropout": 0.01}
    spec["optimizer"] = {"form": "adam", "learning_rate": 0.05}
    stepwise = trained(shared, dataset, [None, [8, "linear"], None], **spec)
    assert stepwise["metrics"]["valid"]["r2"] > 0.9
    outputs = predict(shared, stepwise["model"], X[:2].tolist(), num_samples=9)
    assert np.shape(outputs["mean"]) == (2, 6, 1)
    np.testing.assert_allclose(np.array(outputs["mean"])[..., 0], X[:2].sum(axis=2), atol=0.5)
    vectors = trained(shared, dataset, [None, 4, {"form": "last"}, None], **(spec | {"epochs": 1}))
    assert np.shape(predict(shared, vectors["model"], X[:2].tolist())["prediction"]) == (2, 6)
    layers = [None, 4, {"form": "last"}, 5]
    body = {"dataset": dataset, "network": {"layers": layers}}
    assert_problem(shared.post("/train", json=body), 422, "#/network/layers/3/size")


def walks(rows: int, series: int, seed: int = 3) -> tuple[bytes, dict[str, Any]]:
    """Tables of the logistic map, `y' = 3.9 y (1 - y)`, each row with its time and a weekday."""
    y = np.random.default_rng(seed).random(series)
    columns: dict[str, list[Any]] = {"plant": [], "day": [], "kind": [], "y": []}
    for day in range(rows):
        for plant in range(series):
            columns["plant"].append(f"p{plant}")
            columns["day"].append(f"2024-{day // 28 + 1:02}-{day % 28 + 1:02}")
            columns["kind"].append("ab"[day % 2])
            columns["y"].append(float(y[plant]))
        y = 3.9 * y * (1 - y)
    lines = [
        ",".join(columns),
        *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True)),
    ]
    return "\n".join(lines).encode(), columns


@pytest.fixture(scope="module")
def forecast(shared: Api) -> tuple[dict[str, Any], str, dict[str, Any]]:
    content, columns = walks(100, 4)
    dataset = shared.upload(content)
    job = trained(
        shared,
        dataset,
        [None, [24, "tanh"], {"form": "last"}, None],
        sequence={"group": "plant", "order": "day", "window": 5},
        targets=["y"],
        epochs=60,
        hidden_dropout=0.02,
        optimizer={"form": "adam", "learning_rate": 0.01},
    )
    return job, dataset, columns


def test_a_long_table_is_forecast(
    shared: Api, forecast: tuple[dict[str, Any], str, dict[str, Any]]
) -> None:
    job, dataset, columns = forecast
    assert job["metrics"]["valid"]["r2"] > 0.95
    model = shared.get(f"/models/{job['model']}").json()
    assert model["encoding"]["sequence"] == {
        "group": "plant", "order": "day", "window": 5, "horizon": 1, "stride": 1,
        "predict": "last",
    }  # fmt: skip
    assert [field["name"] for field in model["encoding"]["inputs"]] == ["kind", "y"]
    answer = shared.post(
        "/predict", json={"model": job["model"], "inputs": {"dataset": dataset}, "num_samples": 10}
    ).json()
    assert len(answer["rows"]) == 4 * 96
    assert answer["rows"][0] == 4 * 4
    means = dict(zip(answer["rows"], answer["outputs"]["mean"], strict=True))
    errors = [means[row][0] - columns["y"][row + 4] for row in answer["rows"] if row + 4 < 400]
    assert np.sqrt(np.mean(np.square(errors))) < 0.1
    # The window that ends with the table forecasts the day after.
    latest = range(383, 400, 4)
    records = [{name: columns[name][row] for name in ("kind", "y")} for row in latest]
    one = {"dataset": dataset, "rows": [399]}
    expected = predict(shared, job["model"], one)["prediction"]
    for inputs in (
        [records],
        [[list(record.values()) for record in records]],
        {name: [[columns[name][row] for row in latest]] for name in ("kind", "y", "plant", "day")},
        [[record | {"plant": "new"} for record in records]],
    ):
        assert predict(shared, job["model"], inputs)["prediction"] == expected
    assert predict(shared, job["model"], [records[2:]])["prediction"] == expected


@pytest.mark.parametrize(
    ("inputs", "pointer"),
    [
        ([], "#/inputs"),
        ([[]], "#/inputs/0"),
        ([{"y": 1}], "#/inputs/0"),
        ([[{"y": 1}]], "#/inputs/0/0/kind"),
        ([[{"y": 1, "kind": "c"}]], "#/inputs/0/0/kind"),
        ([[{"y": None, "kind": "a"}, {"y": "1", "kind": "a"}]], "#/inputs/0/1/y"),
        ([[{"y": 1, "kind": "a"}], [{"y": 1, "kind": "a"}] * 2], "#/inputs/1"),
        ({"y": [[1]], "kind": [["a"], ["a"]]}, "#/inputs/y"),
        ({"y": [[1]], "kind": [["a", "b"]]}, "#/inputs/y/0"),
        ({"y": [["x"]], "kind": [["a"]]}, "#/inputs/y/0/0"),
        ({"y": "x"}, "#/inputs/y"),
        (["text"], "#/inputs/0"),
        ([None], "#/inputs/0"),
    ],
    ids=str,
)
def test_odd_sequences_of_records_are_pointed_at(
    shared: Api,
    forecast: tuple[dict[str, Any], str, dict[str, Any]],
    inputs: Any,
    pointer: str,
) -> None:
    body = {"model": forecast[0]["model"], "inputs": inputs}
    assert_problem(shared.post("/predict", json=body), 422, pointer)


def test_windows_that_are_not_in_a_stored_table_are_refused(
    shared: Api, forecast: tuple[dict[str, Any], str, dict[str, Any]]
) -> None:
    job, dataset, _ = forecast
    for inputs, pointer in (
        ({"dataset": dataset, "rows": [399, 3]}, "#/inputs/rows/1"),
        ({"dataset": dataset, "rows": [400]}, "#/inputs/rows/0"),
        ({"dataset": shared.upload(b"kind,y\na,1\n")}, "#/inputs/dataset"),
        ({"dataset": shared.upload(b"kind,y,plant,day\na,1,p,2024-01-01\n")}, "#/inputs/dataset"),
    ):
        answer = shared.post("/predict", json={"model": job["model"], "inputs": inputs})
        assert_problem(answer, 422, pointer)


def test_each_step_has_its_target_where_the_network_gives_a_sequence(shared: Api) -> None:
    dataset = shared.upload(walks(80, 3)[0])
    sequence = {"group": "plant", "order": "day", "window": 6}
    by_plant = {"fraction": 0.3, "group": "plant"}
    body = {"dataset": dataset, "network": {"layers": [None, 8, None]}, "sequence": sequence}
    body["validation"] = by_plant
    plan = shared.post("/train", params={"validate_only": True}, json=body).json()
    assert plan["layers"][-1]["shape"] == ["rows", 6, 1]
    assert plan["rows"] == {"train": 2 * 74, "valid": 74}
    assert plan["sequence"] == {**sequence, "horizon": 1, "stride": 1, "predict": "each"}
    assert not plan["warnings"]
    both_ways = {"layers": [None, {"form": "bidirectional", "size": 8, "worker": "rnn"}, None]}
    body["network"] = both_ways
    plan = shared.post("/train", params={"validate_only": True}, json=body).json()
    assert "can copy it" in plan["warnings"][0]
    job = trained(
        shared,
        dataset,
        [None, 6, None],
        sequence={**sequence, "horizon": 0},
        targets=["kind"],
        inputs=["y", "day"],
        validation=by_plant,
        hidden_dropout=0.1,
    )
    outputs = predict(shared, job["model"], {"dataset": dataset, "rows": [239, 100]})
    assert np.shape(outputs["label"]) == (2, 6)
    passes = predict(
        shared, job["model"], {"dataset": dataset, "rows": [239, 100]}, num_samples=8, seed=1
    )
    assert np.shape(passes["entropy"]) == (2, 6)
    alone = predict(
        shared, job["model"], {"dataset": dataset, "rows": [100]}, num_samples=8, seed=1
    )
    assert alone["probabilities"] == passes["probabilities"][1:]


@pytest.mark.parametrize(
    ("sequence", "pointer"),
    [
        (3, "#/sequence"),
        ({"window": 0}, "#/sequence/window"),
        ({"window": 2.5}, "#/sequence/window"),
        ({"horizon": -1}, "#/sequence/horizon"),
        ({"stride": 0}, "#/sequence/stride"),
        ({"predict": "all"}, "#/sequence/predict"),
        ({"group": ""}, "#/sequence/group"),
        ({"group": "no"}, "#/sequence/group"),
        ({"order": "kind", "window": 2}, "#/sequence/order"),
        ({"window": 1000000}, "#/sequence/window"),
        ({"windows": 3}, "#/sequence/windows"),
    ],
    ids=str,
)
def test_odd_windows_are_pointed_at(shared: Api, sequence: Any, pointer: str) -> None:
    dataset = shared.upload(walks(10, 2)[0])
    body = {"dataset": dataset, "network": {"layers": [None, 3, None]}, "sequence": sequence}
    assert_problem(shared.post("/train", json=body), 422, pointer)
