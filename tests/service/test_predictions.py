"""`POST /predictions`: the numbers of `/predict`, as a job that leaves a data set."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from engine import cuts
from service import batch
from service.store.jobs import Jobs
from tests.e2e.servers import csv_of, npz_of
from tests.service.conftest import Api, assert_problem

LAYERS = {"layers": [None, 8, None]}


def named(rows: int = 40) -> bytes:
    """A table of two numbers, two targets, classes, names and times, with gaps among the names."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((rows, 2))
    lines = ["id,a,b,y,z,kind"]
    for row, (a, b) in enumerate(x):
        name = "" if row == 3 else f"n{row}"
        lines.append(f"{name},{a:.6f},{b:.6f},{a + b:.6f},{a - b:.6f},{'up' if a > 0 else 'down'}")
    return "\n".join(lines).encode()


def trained(api: Api, dataset: str, **spec: Any) -> str:
    job = api.train(dataset, **{"network": LAYERS, "epochs": 2, "hidden_dropout": 0.3, **spec})
    api.work()
    model = api.get(f"/jobs/{job['id']}").json()["model"]
    assert model, api.get(f"/jobs/{job['id']}").json()
    return str(model)


@pytest.fixture(scope="module")
def world(shared: Api) -> tuple[Api, str, str]:
    """A server with a table and a model of its `y` and `z`."""
    dataset = shared.upload(named())
    model = trained(shared, dataset, inputs=["a", "b"], targets=["y", "z"])
    return shared, dataset, model


def posted(api: Api, **body: Any) -> dict[str, Any]:
    answer = api.post("/predictions", json=body)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    return job


def finished(api: Api, **body: Any) -> dict[str, Any]:
    job_id = posted(api, **body)["id"]
    api.work()
    job: dict[str, Any] = api.get(f"/jobs/{job_id}").json()
    assert job["status"] == "succeeded", job
    return job


def content(api: Api, dataset: str) -> dict[str, list[Any]]:
    kind = "application/vnd.apache.arrow.stream"
    answer = api.get(f"/datasets/{dataset}/content", headers={"Accept": kind})
    assert answer.status_code == 200, answer.text
    columns: dict[str, list[Any]] = pa.ipc.open_stream(answer.content).read_all().to_pydict()
    return columns


def arrays(api: Api, dataset: str) -> dict[str, Any]:
    answer = api.get(f"/datasets/{dataset}/content", headers={"Accept": "application/x-npz"})
    assert answer.status_code == 200, answer.text
    with np.load(io.BytesIO(answer.content)) as archive:
        return dict(archive)


def test_a_job_has_the_numbers_of_predict(world: tuple[Api, str, str]) -> None:
    api, dataset, model = world
    asked: dict[str, Any] = {"model": model, "inputs": {"dataset": dataset}, "num_samples": 30}
    asked |= {"seed": 11, "quantiles": [0.1, 0.9]}
    outputs = api.post("/predict", json=asked).json()["outputs"]
    job = finished(api, **asked, name="scores")
    assert (job["kind"], job["model"]) == ("predict", None)
    found = content(api, job["result"]["dataset"])
    for index, target in enumerate(("y", "z")):
        for name in ("mean", "std", "standard_error"):
            assert found[f"{name}.{target}"] == [row[index] for row in outputs[name]]
        for quantile in ("0.1", "0.9"):
            column = [row[index] for row in outputs["quantiles"][quantile]]
            assert found[f"quantile_{quantile}.{target}"] == column
        for part in ("epistemic", "aleatoric", "total"):
            column = [row[index] for row in outputs["variance"][part]]
            assert found[f"variance_{part}.{target}"] == column
    assert len(found) == 2 * (3 + 2 + 3)


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"hidden_dropout": 0.5},
        {"num_samples": 5},
        {"num_samples": 5, "masks": "shared", "row_offset": 1000},
        {"num_samples": 1},
        {"num_samples": 70, "statistics": ["mean", "predictive_quantiles"]},
    ],
)
def test_a_cut_anywhere_changes_no_bit(
    asked: dict[str, Any], world: tuple[Api, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    api, dataset, model = world
    asked = {"model": model, "inputs": {"dataset": dataset}, "seed": 3, **asked}
    whole = finished(api, **asked)
    monkeypatch.setattr(cuts, "PIECE_NUMBERS", 1)
    monkeypatch.setattr(cuts, "MOST_ROWS", 7)
    pieces = finished(api, **asked)
    sha256 = {
        api.get(f"/datasets/{job['result']['dataset']}").json()["sha256"] for job in (whole, pieces)
    }
    assert len(sha256) == 1
    assert pieces["progress"]["completed"] == 40


def test_chosen_rows_come_in_their_order_and_keep_their_streams(
    world: tuple[Api, str, str],
) -> None:
    api, dataset, model = world
    asked = {"model": model, "num_samples": 9, "seed": 4, "statistics": ["mean"]}
    everything = content(
        api, finished(api, inputs={"dataset": dataset}, **asked)["result"]["dataset"]
    )
    rows = [30, 2, 17, 2]
    job = finished(api, inputs={"dataset": dataset, "rows": rows}, **asked)
    some = content(api, job["result"]["dataset"])
    assert some == {name: [column[row] for row in rows] for name, column in everything.items()}


def test_the_key_is_passed_through_first(world: tuple[Api, str, str]) -> None:
    api, dataset, model = world
    job = finished(api, model=model, inputs={"dataset": dataset}, key="id")
    found = content(api, job["result"]["dataset"])
    assert list(found) == ["id", "prediction.y", "prediction.z"]
    assert found["id"] == [None if row == 3 else f"n{row}" for row in range(40)]


def test_classes_have_labels_and_probabilities(world: tuple[Api, str, str]) -> None:
    api, dataset, _ = world
    model = trained(api, dataset, inputs=["a", "b"], targets=["kind"])
    asked: dict[str, Any] = {"model": model, "inputs": {"dataset": dataset}, "seed": 2}
    for passes in (None, 20):
        asked["num_samples"] = passes
        outputs = api.post("/predict", json=asked).json()["outputs"]
        found = content(api, finished(api, **asked)["result"]["dataset"])
        assert found["label"] == outputs["label"]
        assert found["probability.up"] == [row[1] for row in outputs["probabilities"]]
    assert found["mutual_information"] == outputs["mutual_information"]


def test_samples_become_arrays_with_the_rows_first(world: tuple[Api, str, str]) -> None:
    api, dataset, model = world
    asked: dict[str, Any] = {"model": model, "inputs": {"dataset": dataset}, "seed": 2}
    asked |= {"num_samples": 6, "statistics": ["mean", "samples"], "outputs": ["hid1:out"]}
    outputs = api.post("/predict", json=asked).json()["outputs"]
    job = finished(api, **asked)
    view = api.get(f"/datasets/{job['result']['dataset']}").json()
    assert view["kind"] == "arrays"
    found = arrays(api, view["id"])
    np.testing.assert_array_equal(found["samples"], np.swapaxes(outputs["samples"], 0, 1))
    np.testing.assert_array_equal(found["mean"], outputs["mean"])
    np.testing.assert_array_equal(found["hid1.out.mean"], outputs["hid1:out"]["mean"])


def test_sequences_of_steps_become_arrays(shared: Api) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((12, 5, 2)).astype(np.float32)
    dataset = shared.upload(
        npz_of(x=x, y=x.sum(axis=2, keepdims=True), id=np.arange(12)), "application/x-npz"
    )
    layers = [None, {"form": "rnn", "size": 4}, None]
    model = trained(shared, dataset, network={"layers": layers}, targets=["y"], inputs=["x"])
    asked: dict[str, Any] = {"model": model, "inputs": {"dataset": dataset}, "seed": 2}
    asked["num_samples"] = 3
    outputs = shared.post("/predict", json=asked).json()["outputs"]
    found = arrays(shared, finished(shared, **asked, key="id")["result"]["dataset"])
    assert found["id"].tolist() == list(range(12))
    np.testing.assert_array_equal(found["mean"], outputs["mean"])
    assert found["mean"].shape == (12, 5, 1)


def test_windows_of_a_table_say_their_rows(shared: Api) -> None:
    dataset = shared.upload(csv_of(30))
    network = {"layers": [None, 4, {"form": "last"}, None]}
    model = trained(shared, dataset, network=network, sequence={"window": 4}, targets=["y"])
    asked = {"model": model, "inputs": {"dataset": dataset}}
    answer = shared.post("/predict", json=asked).json()
    found = content(shared, finished(shared, **asked)["result"]["dataset"])
    assert found["row"] == answer["rows"] == list(range(3, 30))
    assert found["prediction"] == [row[0] for row in answer["outputs"]["prediction"]]


def test_what_was_not_given_is_drawn_and_told(world: tuple[Api, str, str]) -> None:
    api, dataset, model = world
    api.put("/aliases/scorer", json={"model": model})
    job = finished(api, model="scorer", inputs={"dataset": dataset}, num_samples=3)
    assert job["spec"]["model"] == model
    again = {key: job["spec"][key] for key in ("model", "inputs", "num_samples", "seed")}
    outputs = api.post("/predict", json=again).json()["outputs"]
    found = content(api, job["result"]["dataset"])
    assert found["std.y"] == [row[0] for row in outputs["std"]]


def test_the_result_is_a_data_set_like_any_other(world: tuple[Api, str, str]) -> None:
    api, dataset, model = world
    job = finished(api, model=model, inputs={"dataset": dataset}, name="scores", num_samples=2)
    view = api.get(f"/datasets/{job['result']['dataset']}").json()
    assert (view["name"], view["job"], view["rows"]) == ("scores", job["id"], 40)
    assert view["columns"][0]["name"] == "mean.y"
    stored = api.get(f"/datasets/{view['id']}/content", headers={"Accept": "text/csv"})
    assert stored.text.startswith('"mean.y","mean.z",')
    assert api.delete(f"/datasets/{view['id']}").status_code == 204
    assert api.get(f"/jobs/{job['id']}").json()["result"] == {"dataset": view["id"]}


def test_events_and_progress_tell_how_far_it_is(world: tuple[Api, str, str]) -> None:
    api, dataset, model = world
    job = finished(api, model=model, inputs={"dataset": dataset}, num_samples=2, seed=1)
    assert job["progress"] | {"rows_per_second": 0} == {
        "phase": "storing",
        "completed": 40,
        "total": 40,
        "unit": "rows",
        "rows_per_second": 0,
        "eta_seconds": 0.0,
    }
    events = api.get(f"/jobs/{job['id']}/events").json()["data"]
    types = [event["type"] for event in events]
    assert types[:3] == ["queued", "started", "log"]
    assert types[-1] == "finished"
    told = events[2]["data"]["prediction"]
    assert (told["seed"], told["num_samples"], told["masks"]) == (1, 2, "independent")
    assert told["dropout"][0]["matched"] == ["hid1:out"]
    assert events[-1]["data"]["result"] == job["result"]
    assert api.get(f"/jobs/{job['id']}/regularizers").json() == {"data": []}
    assert list(api.state["blobs"].keys("parts")) == []


def test_the_same_key_gets_the_same_job(world: tuple[Api, str, str]) -> None:
    api, dataset, model = world
    body = {"model": model, "inputs": {"dataset": dataset}, "num_samples": 2}
    headers = {"Idempotency-Key": "scores-1"}
    first = api.post("/predictions", json=body, headers=headers)
    assert api.post("/predictions", json=body, headers=headers).content == first.content
    other = api.post("/predictions", json={**body, "num_samples": 3}, headers=headers)
    assert_problem(other, 422)
    api.work()


def test_what_a_job_needs_cannot_be_deleted(api: Api) -> None:
    model = api.import_model().json()["id"]
    dataset = api.upload(npz_of(x=np.ones((4, 2))), "application/x-npz")
    job = posted(api, model=model, inputs={"dataset": dataset})
    assert_problem(api.delete(f"/models/{model}"), 409)
    assert_problem(api.delete(f"/datasets/{dataset}"), 409)
    api.work()
    assert api.delete(f"/models/{model}").status_code == 204
    assert api.delete(f"/datasets/{dataset}").status_code == 204
    result = api.get(f"/jobs/{job['id']}").json()["result"]["dataset"]
    assert content(api, result) == {"prediction": [2.0] * 4}


@pytest.mark.parametrize(
    ("change", "pointers"),
    [
        ({"inputs": [[1, 2]]}, ["#/inputs"]),
        ({"inputs": {"a": [1], "b": [2]}}, ["#/inputs"]),
        ({"inputs": {"dataset": "DATASET", "rows": []}}, ["#/inputs/rows"]),
        ({"inputs": {"dataset": "DATASET", "rows": [0, -1]}}, ["#/inputs/rows/1"]),
        ({"inputs": {"dataset": "DATASET", "rows": [0, 40]}}, ["#/inputs/rows/1"]),
        ({"inputs": {"dataset": "DATASET", "rows": [True]}}, ["#/inputs/rows/0"]),
        ({"inputs": {"dataset": "DATASET", "rows": [2**70]}}, ["#/inputs/rows/0"]),
        ({"inputs": {"dataset": "DATASET", "row": 1}}, ["#/inputs/row"]),
        ({"inputs": {"dataset": "OTHER"}}, ["#/inputs/dataset"]),
        ({"key": "nobody"}, ["#/key"]),
        ({"num_samples": 5, "dropout": {"nothing": 0.1}}, ["#/dropout/nothing"]),
        ({"num_samples": 5, "statistics": ["entropy"]}, ["#/statistics/0"]),
        ({"num_samples": 5, "tolerance": 0.1}, ["#/tolerance"]),
        ({"num_samples": 5, "budget_ms": 10}, ["#/budget_ms"]),
        ({"start": "hid1"}, ["#/start"]),
        ({"generate": {"steps": 3}}, ["#/generate"]),
        (
            {"num_samples": 5, "masks": "shared", "statistics": ["mean", "covariance"]},
            ["#/statistics/1"],
        ),
        ({"num_samples": 10_000_000, "statistics": ["samples"]}, ["#/inputs"]),
        ({"surprise": 1}, ["#/surprise"]),
        ({"checkpoint_every": {"epochs": 1}}, ["#/checkpoint_every/epochs"]),
        ({"limits": {"seconds": 0}}, ["#/limits/seconds"]),
    ],
)
def test_what_is_wrong_is_said_before_it_is_a_job(
    change: dict[str, Any], pointers: list[str], world: tuple[Api, str, str]
) -> None:
    api, dataset, model = world
    other = api.upload(b"p,q\n1,2\n3,4\n")
    text = json.dumps({"model": model, "inputs": {"dataset": "DATASET"}, **change})
    body = json.loads(text.replace("DATASET", dataset).replace("OTHER", other))
    before = api.get("/jobs").json()["data"][0]["id"]
    assert_problem(api.post("/predictions", json=body), 422, *pointers)
    assert api.get("/jobs").json()["data"][0]["id"] == before


def test_rows_in_the_request_are_told_where_to_go(world: tuple[Api, str, str]) -> None:
    api, _, model = world
    body = assert_problem(
        api.post("/predictions", json={"model": model, "inputs": [[1, 2]]}), 422, "#/inputs"
    )
    assert "POST /datasets" in body["errors"][0]["detail"]


def test_a_model_or_data_set_that_is_not_there_is_not_found(world: tuple[Api, str, str]) -> None:
    api, dataset, model = world
    inputs = {"dataset": dataset}
    assert_problem(api.post("/predictions", json={"model": "nobody", "inputs": inputs}), 404)
    missing = {"dataset": "ds_" + "1" * 26}
    assert_problem(api.post("/predictions", json={"model": model, "inputs": missing}), 404)


def test_values_that_cannot_be_read_are_refused_wherever_they_stand(
    shared: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuts, "MOST_ROWS", 8)
    dataset = shared.upload(b"c,y\n" + b"".join(b"%c,%d\n" % (97 + i % 3, i) for i in range(30)))
    model = trained(shared, dataset, targets=["y"])
    rows = [b"%c,%d\n" % (97 + i % 3, i) for i in range(30)]
    rows[25] = b"z,1\n"
    other = shared.upload(b"c,y\n" + b"".join(rows))
    body = {"model": model, "inputs": {"dataset": other}}
    problem = assert_problem(shared.post("/predictions", json=body), 422, "#/inputs/dataset")
    assert "'z'" in problem["errors"][0]["detail"]


def test_a_key_that_clashes_is_refused(shared: Api) -> None:
    dataset = shared.upload(b"mean,a,y\n" + b"".join(b"%d,%d,%d\n" % (i, i, i) for i in range(20)))
    model = trained(shared, dataset, inputs=["a"], targets=["y"])
    body = {"model": model, "inputs": {"dataset": dataset}, "num_samples": 2, "key": "mean"}
    assert_problem(shared.post("/predictions", json=body), 422, "#/key")


@pytest.mark.parametrize("keep", [False, True])
def test_a_cancelled_job_leaves_what_was_asked_for(
    keep: bool, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = api.import_model().json()["id"]
    dataset = api.upload(npz_of(x=np.ones((50, 2))), "application/x-npz")
    monkeypatch.setattr(cuts, "PIECE_NUMBERS", 10)
    job_id = posted(api, model=model, inputs={"dataset": dataset})["id"]
    jobs: Jobs = api.state["jobs"]
    pieces = batch.Batch.pieces

    def cancelled_after_two(self: batch.Batch, done: int = 0) -> Any:
        for number, piece in enumerate(pieces(self, done)):
            if number == 2:
                jobs.cancel(job_id, keep=keep)
            yield piece

    monkeypatch.setattr(batch.Batch, "pieces", cancelled_after_two)
    api.work()
    job = api.get(f"/jobs/{job_id}").json()
    assert job["status"] == "cancelled"
    if keep:
        found = content(api, job["result"]["dataset"])
        assert 20 <= len(found["prediction"]) <= 50
    else:
        assert job["result"] is None
        assert len(api.get("/datasets").json()["data"]) == 1
    assert list(api.state["blobs"].keys("parts")) == []
    assert list((api.state["blobs"].root / "temporary").iterdir()) == []


@pytest.mark.parametrize("damage", ["nothing", "missing", "changed"])
def test_a_job_goes_on_with_its_parts_or_without_them(
    damage: str, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = api.import_model().json()["id"]
    rng = np.random.default_rng(2)
    dataset = api.upload(npz_of(x=rng.standard_normal((60, 2))), "application/x-npz")
    asked = {"model": model, "inputs": {"dataset": dataset}, "seed": 1}
    asked |= {"num_samples": 4, "input_dropout": 0.3}
    calm = finished(api, **asked)["result"]["dataset"]
    monkeypatch.setattr(cuts, "PIECE_NUMBERS", 100)
    job_id = posted(api, **asked)["id"]
    calls = iter([False, False, False, True])
    worker = api.worker(should_stop=lambda: next(calls))
    assert worker.work_once()
    job = api.get(f"/jobs/{job_id}").json()
    assert (job["status"], job["attempts"]) == ("queued", 1)
    blobs = api.state["blobs"]
    (part,) = [key for key, _ in blobs.keys("parts")]
    if damage == "missing":
        blobs.delete(part)
    elif damage == "changed":
        blobs.delete(part)
        blobs.put_bytes(part, b"something else")
    api.work()
    job = api.get(f"/jobs/{job_id}").json()
    assert job["status"] == "succeeded", job
    sha256 = [
        api.get(f"/datasets/{made}").json()["sha256"] for made in (calm, job["result"]["dataset"])
    ]
    assert sha256[0] == sha256[1]
    told = [event["data"] for event in api.get(f"/jobs/{job_id}/events").json()["data"]]
    messages = [data.get("message", "") for data in told]
    assert any("starts again" in text for text in messages) == (damage != "nothing")
    assert [data["from_row"] > 0 for data in told if "from_row" in data] == [True]
    assert list(blobs.keys("parts")) == []


def test_a_worker_that_lost_its_lease_leaves_nothing(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = api.import_model().json()["id"]
    dataset = api.upload(npz_of(x=np.ones((60, 2))), "application/x-npz")
    job_id = posted(api, model=model, inputs={"dataset": dataset})["id"]
    jobs: Jobs = api.state["jobs"]
    ticks = iter(range(100))
    monkeypatch.setattr(cuts, "PIECE_NUMBERS", 10)

    def lose() -> None:
        if next(ticks) == 3:
            jobs.void_leases()

    assert api.worker(tick=lose).work_once()
    job = api.get(f"/jobs/{job_id}").json()
    assert (job["status"], job["result"]) == ("queued", None)
    assert len(api.get("/datasets").json()["data"]) == 1
    assert list((api.state["blobs"].root / "temporary").iterdir()) == []
    api.work()
    assert api.get(f"/jobs/{job_id}").json()["status"] == "succeeded"
    assert len(api.get("/datasets").json()["data"]) == 2


def test_a_request_may_wait_for_the_end(world: tuple[Api, str, str]) -> None:
    api, dataset, model = world
    body = {"model": model, "inputs": {"dataset": dataset}}
    answer = api.post("/predictions", json=body, headers={"Prefer": "wait=0"})
    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "wait=0"
    api.work()
    kinds = {job["kind"] for job in api.get("/jobs?kind=predict").json()["data"]}
    assert kinds == {"predict"}


def test_what_is_too_large_online_is_sent_here(world: tuple[Api, str, str]) -> None:
    api, dataset, model = world
    inputs = {"dataset": dataset, "rows": [0] * 2000}
    body = {"model": model, "inputs": inputs, "num_samples": 10_000_000}
    problem = assert_problem(api.post("/predict", json=body), 413)
    assert "POST /predictions" in problem["detail"]
    assert api.post("/predictions", json=body).status_code == 202
    for job in api.get("/jobs?status=queued").json()["data"]:
        api.post(f"/jobs/{job['id']}/cancel")
