"""The whole way over HTTP: upload, train, follow, predict."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from sklearn.datasets import load_digits

from tests.e2e.servers import Server, csv_of, npz_of

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def table(server: Server) -> str:
    return server.upload(csv_of(300))


@pytest.fixture(scope="module")
def job(server: Server, table: str) -> dict[str, Any]:
    started = server.train(
        dataset=table,
        network={"layers": [None, 20, 20, None]},
        dropout={"hid[12]:out": 0.1, "in:out": 0.05},
        regularizers=[{"form": "weight_l2", "weight": 1e-4}],
        epochs=30,
        validation=0.2,
        name="flow",
        tags={"of": "tests"},
    )
    return server.finished(started["id"])


def test_a_job_ends_with_a_model_and_metrics(server: Server, job: dict[str, Any]) -> None:
    assert job["status"] == "succeeded", job
    assert job["attempts"] == 1
    assert job["result"] == {"model": job["model"]}
    assert job["metrics"]["valid"]["rmse"] < 1.5
    assert np.isfinite(job["metrics"]["valid"]["log_likelihood"])
    assert job["progress"]["completed"] == 30
    model = server.client.get(f"/models/{job['model']}").json()
    assert model["job"] == job["id"]
    assert model["parameters"]["hid1.w"]["shape"] == [3, 20]
    assert "hid2:pre" in model["outputs"]
    assert model["encoding"]["inputs"][0]["name"] == "x0"
    assert model["metrics"]["valid"] == job["metrics"]["valid"]
    assert model["noise_precision"]["y"] > 0


def test_events_tell_the_whole_story(server: Server, job: dict[str, Any]) -> None:
    answer = server.client.get(f"/jobs/{job['id']}/events", params={"limit": 1000}).json()
    events = answer["data"]
    assert [event["id"] for event in events] == list(range(1, len(events) + 1))
    types = [event["type"] for event in events]
    assert types[:2] == ["queued", "started"]
    assert types[-1] == "finished"
    epochs = [event["data"] for event in events if event["type"] == "epoch"]
    assert [epoch["epoch"] for epoch in epochs] == list(range(1, 31))
    assert {"loss", "rmse", "mae"} <= set(epochs[0]["valid"])
    best = min(epochs, key=lambda epoch: epoch["valid"]["loss"])
    assert job["metrics"]["valid"]["loss"] == best["valid"]["loss"]


def test_events_stream_and_resume(server: Server, job: dict[str, Any]) -> None:
    headers = {"Accept": "text/event-stream", "Last-Event-ID": "3"}
    with server.client.stream("GET", f"/jobs/{job['id']}/events", headers=headers) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        text = stream.read().decode()
    events = [
        json.loads(line.removeprefix("data:"))
        for line in text.splitlines()
        if line.startswith("data:")
    ]
    assert events[0]["id"] == 4
    assert events[-1]["type"] == "finished"
    headers["Last-Event-ID"] = str(events[-1]["id"])
    done = server.client.get(f"/jobs/{job['id']}/events", headers=headers)
    assert done.status_code == 204


def test_the_regularizer_log_tells_rates_and_terms(server: Server, job: dict[str, Any]) -> None:
    log = server.client.get(f"/jobs/{job['id']}/regularizers").json()["data"]
    assert [entry["form"] for entry in log] == [
        "bernoulli_dropout", "bernoulli_dropout", "weight_l2",
    ]  # fmt: skip
    assert log[0]["matched"] == ["hid1:out", "hid2:out"]
    assert log[0]["log"] == "regularizer: BernoulliDropout(hid[12]:out) ~ B(0.1)"
    assert [entry["epoch"] for entry in log[0]["history"]] == list(range(1, 31))
    elements = 30 * 240 * 20
    rate = np.mean([entry["rates"]["hid1:out"] for entry in log[0]["history"]])
    assert abs(rate - 0.1) < 4 * np.sqrt(0.1 * 0.9 / elements)
    weights = safetensors.numpy.load(server.weights(job["model"]))
    term = 1e-4 * np.mean([np.mean(w.astype(float) ** 2) for k, w in weights.items() if ".w" in k])
    assert log[2]["history"][-1]["loss"] == pytest.approx(term, rel=0.2)


def test_predictions_are_the_networks_worked_by_hand(server: Server, job: dict[str, Any]) -> None:
    model = server.client.get(f"/models/{job['model']}").json()
    weights = safetensors.numpy.load(server.weights(job["model"]))
    record = {"x0": 0.5, "x1": -1.0, "x2": 2.0}
    fields = {field["name"]: field for field in model["encoding"]["inputs"]}
    x = np.array([[(record[k] - f["mean"]) / f["scale"] for k, f in fields.items()]])
    hidden = np.maximum(x @ weights["hid1.w"] + weights["hid1.b"], 0)
    hidden = np.maximum(hidden @ weights["hid2.w"] + weights["hid2.b"], 0)
    y = hidden @ weights["out.w"] + weights["out.b"]
    (target,) = model["encoding"]["targets"]
    expected = (y * target["scale"] + target["mean"]).item()
    for inputs in ([record], {k: [v] for k, v in record.items()}, [list(record.values())]):
        outputs = server.predict(model=job["model"], inputs=inputs)["outputs"]
        assert outputs["prediction"] == [[pytest.approx(expected, rel=1e-4)]]


def test_statistics_of_passes_with_the_rates_of_training(
    server: Server, job: dict[str, Any], table: str
) -> None:
    body = server.predict(
        model=job["model"],
        inputs={"dataset": table, "rows": [4, 2, 7]},
        num_samples=200,
        seed=1,
        statistics=["mean", "std", "predictive_quantiles", "variance", "standard_error"],
    )
    assert [entry["pattern"] for entry in body["dropout"]] == ["hid[12]:out", "in:out"]
    assert body["stopped_by"] == "num_samples"
    outputs = body["outputs"]
    assert np.array(outputs["mean"]).shape == (3, 1)
    low, high = (outputs["predictive_quantiles"][q][0][0] for q in ("0.05", "0.95"))
    assert low < outputs["mean"][0][0] < high
    total = np.array(outputs["variance"]["total"])
    parts = np.array(outputs["variance"]["epistemic"]) + outputs["variance"]["aleatoric"]
    np.testing.assert_allclose(total, parts)
    # A stored row has its own stream, wherever it stands in the request.
    alone = server.predict(
        model=job["model"], inputs={"dataset": table, "rows": [7]}, num_samples=200, seed=1
    )
    assert alone["outputs"]["mean"][0] == outputs["mean"][2]


def test_digits_are_classified_with_their_uncertainty(server: Server) -> None:
    x, y = load_digits(return_X_y=True)
    dataset = server.upload(npz_of(x=x, y=y), "application/x-npz")
    started = server.train(
        dataset=dataset,
        rows=list(range(1400)),
        network={"form": "classifier", "layers": [None, 64, None]},
        hidden_dropout=0.2,
        epochs=15,
    )
    job = server.finished(started["id"])
    assert job["status"] == "succeeded", job
    assert job["metrics"]["valid"]["accuracy"] > 0.9
    body = server.predict(
        model=job["model"], inputs={"dataset": dataset, "rows": list(range(1400, 1797))},
        num_samples=50, seed=0,
    )  # fmt: skip
    outputs = body["outputs"]
    assert np.mean(np.array(outputs["label"]) == y[1400:]) > 0.85
    np.testing.assert_allclose(np.sum(outputs["probabilities"], axis=1), 1, rtol=1e-6)
    mutual = np.array(outputs["entropy"]) - outputs["expected_entropy"]
    np.testing.assert_allclose(outputs["mutual_information"], np.maximum(mutual, 0), atol=1e-12)


def test_a_tied_autoencoder_trains_and_tells_its_reconstruction_error(server: Server) -> None:
    x, _ = load_digits(return_X_y=True)
    dataset = server.upload(npz_of(x=x[:400]), "application/x-npz")
    started = server.train(
        dataset=dataset,
        network={"form": "autoencoder", "layers": [None, [16, "tanh"], "tied"]},
        hidden_dropout=0.1,
        epochs=5,
    )
    job = server.finished(started["id"])
    assert job["status"] == "succeeded", job
    outputs = server.predict(
        model=job["model"], inputs={"dataset": dataset, "rows": [0, 1]}, num_samples=10
    )["outputs"]
    assert np.array(outputs["reconstruction_error"]).shape == (2,)


def test_validate_only_tells_the_plan_and_queues_nothing(server: Server, table: str) -> None:
    before = server.client.get("/jobs", params={"limit": 1000}).json()["data"]
    answer = server.client.post(
        "/train?validate_only=true",
        json={
            "dataset": table,
            "network": {"layers": [None, 5, None]},
            "dropout": {"hid*:out": 0.1, "hid1:pre": 0.2},
        },
    )
    assert answer.status_code == 200
    plan = answer.json()
    assert plan["regularizers"][0]["matched"] == ["hid1:out"]
    assert plan["parameter_count"] == 3 * 5 + 5 + 5 + 1
    assert any("hid1:pre" in warning for warning in plan["warnings"])
    assert server.client.get("/jobs", params={"limit": 1000}).json()["data"] == before


def test_cancel_ends_a_running_job_for_good(server: Server, table: str) -> None:
    started = server.train(
        dataset=table, network={"layers": [None, 50, None]}, epochs=1_000_000, batch_size=8
    )
    assert server.client.post(f"/jobs/{started['id']}/cancel").status_code == 202
    job = server.finished(started["id"])
    assert job["status"] == "cancelled"
    assert job["model"] is None
    assert server.client.delete(f"/jobs/{started['id']}").status_code == 204
    assert server.client.get(f"/jobs/{started['id']}").status_code == 404


def test_an_alias_serves_wherever_an_id_does(server: Server, job: dict[str, Any]) -> None:
    put = server.client.put("/aliases/champion", json={"model": job["model"]})
    assert put.status_code in (200, 201)
    record = [[0.1, 0.2, 0.3]]
    by_name = server.predict(model="champion", inputs=record)
    assert by_name == server.predict(model=job["model"], inputs=record)
    assert server.client.delete(f"/models/{job['model']}").status_code == 409
    assert server.client.delete("/aliases/champion").status_code == 204


@pytest.mark.parametrize("target", ["number", "class"])
def test_rows_without_a_target_are_left_out_by_number_and_predicted(
    server: Server, target: str
) -> None:
    """As people keep them: a table whose last rows are those to be predicted."""
    lines = [f"{i},{i % 7},c{i % 2},{1 + i % 3}" for i in range(60)]
    lines += [f"{i},,," for i in range(60, 70)]
    dataset = server.upload("\n".join(["x,number,class,weight", *lines]).encode())
    spec = {
        "dataset": dataset, "inputs": ["x"], "targets": [target], "sample_weight": "weight",
        "network": {"layers": [None, 4, None]}, "epochs": 3, "rows": list(range(60)),
    }  # fmt: skip
    job = server.finished(server.train(**spec)["id"])
    assert job["status"] == "succeeded", job["error"]
    inputs = {"dataset": dataset, "rows": list(range(60, 70))}
    outputs = server.predict(model=job["model"], inputs=inputs)["outputs"]
    assert len(outputs["prediction"]) == 10
    del spec["rows"]
    answer = server.client.post("/train", json=spec)
    assert answer.status_code == 422
    assert "missing values" in answer.text
