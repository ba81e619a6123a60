"""Whose things are whose: of another key's nothing is to be seen, unless it shares it."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from tests.service.conftest import Api, Serve, assert_problem

KEYS = {"first": "train,predict", "second": "train,predict", "root": "admin"}


@pytest.fixture
def served(serve: Serve) -> Api:
    return serve()


@pytest.fixture
def keys(served: Api) -> dict[str, dict[str, str]]:
    """Headers of three keys, by name."""
    made = {}
    for name, scopes in KEYS.items():
        _, secret = served.state["keys"].create(name, scopes=scopes.split(","))
        made[name] = {"Authorization": f"Bearer {secret}"}
    return made


@pytest.fixture
def first(served: Api, keys: dict[str, dict[str, str]]) -> dict[str, str]:
    """What the first key has made: an id for each name of a path's part."""
    served.headers.update(keys["first"])
    dataset = served.upload()
    job = served.train(dataset, epochs=1)
    model = str(served.import_model().json()["id"])
    assert served.put("/aliases/best", json={"model": model}).status_code == 201
    del served.headers["Authorization"]
    return {
        "dataset_id": dataset,
        "job_id": job["id"],
        "model_id": model,
        "name": "best",
    }


MISSING = {
    "dataset_id": "ds_" + "0" * 26,
    "job_id": "job_" + "0" * 26,
    "model_id": "mdl_" + "0" * 26,
    "name": "worst",
}
BODIES: dict[str, Any] = {
    "cancel": {},
    "resume": {"epochs": 1},
    "calibrate": {"dataset": MISSING["dataset_id"], "coverage": 0.5},
    "feedback": {"inputs": [[1, 2]], "targets": [3]},
}


def send(api: Api, method: str, path: str, headers: dict[str, str]) -> httpx.Response:
    body: Any = BODIES.get(path.rsplit("/", 1)[-1])
    if method == "PATCH":
        body = {"shared": True}
    return api.request(method, path, headers=headers, json=body)


def test_the_id_of_anothers_thing_is_the_same_404_as_a_missing_one(
    served: Api, keys: dict[str, dict[str, str]], first: dict[str, str]
) -> None:
    paths = served.get("/openapi.json").json()["paths"]
    tried = 0
    for path, operations in paths.items():
        names = re.findall(r"\{(\w+)\}", path)
        if not names:
            continue
        for method in operations:
            if method == "put":
                continue
            answers = []
            for ids in (first, MISSING):
                answer = send(served, method.upper(), path.format(**ids), keys["second"])
                problem = assert_problem(answer, 404)
                told = problem["detail"].replace(ids[names[0]], "ID")
                answers.append((problem["type"], told, problem.get("errors") is None))
            assert answers[0] == answers[1], (method, path)
            tried += 1
    assert tried >= 18
    for name, kind in (("dataset_id", "datasets"), ("job_id", "jobs"), ("model_id", "models")):
        assert served.get(f"/{kind}/{first[name]}", headers=keys["first"]).status_code == 200


def test_no_body_names_anothers_thing(
    served: Api, keys: dict[str, dict[str, str]], first: dict[str, str]
) -> None:
    served.headers.update(keys["second"])
    dataset, model = first["dataset_id"], first["model_id"]
    own = served.upload()
    network = {"layers": [None, 3, None]}
    bodies: list[tuple[str, dict[str, Any], str]] = [
        ("/train", {"dataset": dataset, "network": network}, "#/dataset"),
        (
            "/train",
            {"dataset": own, "network": network, "validation": {"dataset": dataset}},
            "#/validation/dataset",
        ),
        ("/train?validate_only=true", {"dataset": dataset, "network": network}, "#/dataset"),
        ("/predict", {"model": model, "inputs": [[1.0]]}, "#/model"),
        ("/predict", {"model": "best", "inputs": [[1.0]]}, "#/model"),
        ("/predict", {"model": model, "inputs": {"dataset": dataset}}, "#/model"),
        ("/predictions", {"model": model, "inputs": {"dataset": own}}, "#/model"),
        ("/evaluate", {"model": "best", "dataset": own}, "#/model"),
        ("/evaluations", {"model": model, "dataset": own}, "#/model"),
        ("/rank", {"model": model, "dataset": own, "by": "std", "top_k": 1}, "#/model"),
    ]
    for path, body, pointer in bodies:
        assert_problem(served.post(path, json=body), 404, pointer)
    assert_problem(served.put("/aliases/mine", json={"model": model}), 404, "#/model")


def test_a_model_of_ones_own_predicts_for_no_rows_of_anothers(
    served: Api, keys: dict[str, dict[str, str]], first: dict[str, str]
) -> None:
    served.headers.update(keys["second"])
    own = str(served.import_model().json()["id"])
    inputs = {"dataset": first["dataset_id"]}
    predict = {"model": own, "inputs": inputs}
    assert_problem(served.post("/predict", json=predict), 404, "#/inputs/dataset")
    events = {"Accept": "text/event-stream"}
    assert_problem(served.post("/predict", json=predict, headers=events), 404)
    assert_problem(served.post("/predictions", json=predict), 404, "#/inputs/dataset")
    body = {"model": own, "dataset": first["dataset_id"]}
    assert_problem(served.post("/evaluate", json=body), 404, "#/dataset")
    assert_problem(served.post("/evaluations", json=body), 404, "#/dataset")
    rank = {**body, "by": "std", "top_k": 1, "num_samples": 2, "hidden_dropout": 0.5}
    assert_problem(served.post("/rank", json=rank), 404, "#/dataset")


def test_what_was_predicted_lately_is_no_way_to_anothers_model(
    served: Api, keys: dict[str, dict[str, str]]
) -> None:
    """Small requests like an earlier one are answered on a way of their own."""
    model = str(served.import_model(**keys["first"]).json()["id"])
    body = {"model": model, "inputs": [[1.0, 2.0]]}
    for _ in range(3):
        assert served.post("/predict", json=body, headers=keys["first"]).status_code == 200
        assert_problem(served.post("/predict", json=body, headers=keys["second"]), 404)
        assert served.post("/predict", json=body, headers=keys["root"]).status_code == 200


@pytest.mark.usefixtures("first")
@pytest.mark.parametrize("kind", ["datasets", "jobs", "models", "aliases"])
def test_lists_show_ones_own_and_an_admin_everything(
    served: Api, keys: dict[str, dict[str, str]], kind: str
) -> None:
    def count(name: str) -> int:
        return len(served.get(f"/{kind}", headers=keys[name]).json()["data"])

    assert count("first") == count("root") >= 1
    assert count("second") == 0


def test_what_is_shared_is_seen_and_used_by_all_and_changed_by_its_own_key(
    served: Api, keys: dict[str, dict[str, str]], first: dict[str, str]
) -> None:
    served.work()
    dataset, job = first["dataset_id"], first["job_id"]
    model = str(served.get(f"/jobs/{job}", headers=keys["first"]).json()["model"])
    assert served.put("/aliases/best", json={"model": model}, headers=keys["first"]).is_success
    paths = [f"/datasets/{dataset}", f"/jobs/{job}", f"/models/{model}"]
    for path in paths:
        assert served.get(path, headers=keys["first"]).json()["shared"] is False
        answer = served.patch(path, json={"shared": True}, headers=keys["first"])
        assert answer.json()["shared"] is True
    served.headers.update(keys["second"])
    for path in paths:
        assert served.get(path).json()["shared"] is True
        assert path.endswith(served.get(path.rsplit("/", 1)[0]).json()["data"][0]["id"])
        for refused in (served.delete(path), served.patch(path, json={"shared": False})):
            assert "another key" in assert_problem(refused, 403)["detail"]
    assert_problem(served.post(f"/jobs/{job}/cancel"), 403)
    own = served.train(dataset, epochs=1)
    again = served.post(f"/jobs/{job}/resume", json={"epochs": 1})
    assert again.status_code == 202
    evaluation = {"model": model, "dataset": dataset}
    assert served.post("/evaluate", json=evaluation).status_code == 200
    predict = {"model": model, "inputs": {"dataset": dataset}}
    assert served.post("/predict", json=predict).status_code == 200
    assert served.put("/aliases/mine", json={"model": model}).status_code == 201
    served.headers.update(keys["first"])
    # Neither job ids nor names of another key are told.
    told = assert_problem(served.delete(paths[0]), 409)["detail"]
    assert own["id"] not in told
    assert "a job of another key" in told
    told = assert_problem(served.delete(paths[2]), 409)["detail"]
    assert "best" in told
    assert "mine" not in told
    for path in paths:
        assert served.patch(path, json={"shared": False}).json()["shared"] is False
    served.headers.update(keys["second"])
    for path in paths:
        assert_problem(served.get(path), 404)
    served.work()  # what was accepted goes on
    assert served.get(f"/jobs/{own['id']}").json()["status"] == "succeeded"


def test_what_a_shared_job_leaves_is_shared(
    served: Api, keys: dict[str, dict[str, str]], first: dict[str, str]
) -> None:
    path = f"/jobs/{first['job_id']}"
    assert served.patch(path, json={"shared": True}, headers=keys["first"]).status_code == 200
    served.work()
    job = served.get(path, headers=keys["second"]).json()
    assert served.get(f"/models/{job['model']}", headers=keys["second"]).status_code == 200


def test_a_name_is_one_keys(
    served: Api, keys: dict[str, dict[str, str]], first: dict[str, str]
) -> None:
    own = str(served.import_model(**keys["second"]).json()["id"])
    answer = served.put("/aliases/best", json={"model": own}, headers=keys["second"])
    assert "taken" in assert_problem(answer, 409)["detail"]
    assert_problem(served.delete("/aliases/best", headers=keys["second"]), 404)
    # A shared name of a model that is not shared would be a name of nothing.
    share = {"model": first["model_id"], "shared": True}
    assert_problem(served.put("/aliases/best", json=share, headers=keys["first"]), 422, "#/model")
    path = f"/models/{first['model_id']}"
    assert served.patch(path, json={"shared": True}, headers=keys["first"]).status_code == 200
    answer = served.put("/aliases/best", json=share, headers=keys["first"])
    assert (answer.status_code, answer.json()["version"]) == (200, 1)
    assert answer.json()["shared"] is True
    body = {"model": "best", "inputs": [[1.0, 2.0]]}
    assert served.post("/predict", json=body, headers=keys["second"]).status_code == 200
    answer = served.put("/aliases/best", json={"model": own}, headers=keys["second"])
    assert_problem(answer, 403)
    assert_problem(served.delete("/aliases/best", headers=keys["second"]), 403)
    unshared = served.patch(path, json={"shared": False}, headers=keys["first"])
    assert "best" in assert_problem(unshared, 409)["detail"]


def test_the_history_of_a_name_begins_with_its_key(
    served: Api, keys: dict[str, dict[str, str]], first: dict[str, str]
) -> None:
    assert served.delete("/aliases/best", headers=keys["first"]).status_code == 204
    own = str(served.import_model(**keys["second"]).json()["id"])
    served.put("/aliases/best", json={"model": own}, headers=keys["second"])
    history = served.get("/aliases/best", headers=keys["second"]).json()["history"]
    assert [move["model"] for move in history] == [own]
    told = served.get("/aliases/best", headers=keys["root"]).json()["history"]
    assert [move["model"] for move in told] == [own, None, first["model_id"]]


def test_one_keys_idempotency_is_not_anothers(served: Api, keys: dict[str, dict[str, str]]) -> None:
    once = {"Idempotency-Key": "once", "Content-Type": "text/csv"}
    content = b"x,y\n1,2\n2,3\n"
    ids = {
        name: served.post("/datasets", content=content, headers={**once, **keys[name]}).json()["id"]
        for name in KEYS
    }
    assert len(set(ids.values())) == 3


def test_what_was_made_without_keys_is_an_admins(serve: Serve) -> None:
    dataset = serve().upload()
    api = serve()
    headers = {}
    for scope in ("train", "admin"):
        _, secret = api.state["keys"].create(scope, scopes=[scope])
        headers[scope] = {"Authorization": f"Bearer {secret}"}
    path = f"/datasets/{dataset}"
    assert_problem(api.get(path, headers=headers["train"]), 404)
    assert api.patch(path, json={"shared": True}, headers=headers["admin"]).status_code == 200
    assert api.get(path, headers=headers["train"]).status_code == 200
