"""The app as a whole: what holds for every request."""

from __future__ import annotations

import errno
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from engine.kernels import library_name
from service.observe.logs import configure_logs
from service.problems import problems
from tests.service.conftest import Api, Serve, assert_problem


def test_every_answer_carries_an_id_of_its_own(shared: Api) -> None:
    ids = [shared.get("/jobs").headers["x-request-id"] for _ in range(3)]
    assert len(set(ids)) == 3


def test_what_is_not_there_is_a_problem(shared: Api) -> None:
    assert_problem(shared.get("/nothing"), 404)
    assert_problem(shared.get("/static/nothing"), 404)
    assert_problem(shared.get("/jobs/"), 404)  # and no redirection to a host that the caller named


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/datasets", "GET, POST"),
        ("/datasets/ds_1", "DELETE, GET, PATCH"),
        ("/aliases/a", "DELETE, GET, PUT"),
        ("/docs", "GET, HEAD"),
        ("/static/docs.js", "GET, HEAD"),
    ],
)
def test_a_method_that_is_not_taken_is_answered_with_those_that_are(
    shared: Api, path: str, methods: str
) -> None:
    answer = shared.request("PURGE", path)
    assert_problem(answer, 405)
    assert answer.headers["allow"] == methods


@pytest.mark.parametrize(
    "path", ["/jobs", "/datasets", "/models", "/aliases", "/capabilities", "/health/live"]
)
def test_an_unknown_query_parameter_is_refused(shared: Api, path: str) -> None:
    assert_problem(shared.get(path, params={"nonsense": 1}), 422, "#/query/nonsense")


@pytest.mark.parametrize("path", ["/jobs", "/datasets", "/models", "/aliases"])
@pytest.mark.parametrize("limit", ["0", "1001", "x", "1.5", "-1"])
def test_a_limit_out_of_bounds_is_refused(shared: Api, path: str, limit: str) -> None:
    body = assert_problem(shared.get(path, params={"limit": limit}), 422, "#/query/limit")
    assert limit in body["errors"][0]["detail"]


@pytest.mark.parametrize(
    "path", ["/jobs/{}", "/jobs/{}/events", "/jobs/{}/regularizers", "/datasets/{}", "/models/{}"]
)
@pytest.mark.parametrize("name", ["nothing", "x%00y", "%ff", "%F0%9F%98%80", "job_" + "0" * 26])
def test_an_id_that_nothing_has_is_a_404(shared: Api, path: str, name: str) -> None:
    assert_problem(shared.get(path.format(name)), 404)


def test_an_error_from_inside_tells_nothing_of_the_inside(serve: Serve) -> None:
    api = serve()

    def broken() -> dict[str, Any]:
        raise RuntimeError("secret")

    api.app.add_api_route("/broken", broken)
    with capture_logs():  # where nothing is configured, a traceback is drawn, which takes seconds
        answer = api.get("/broken")
    assert_problem(answer, 500)
    assert "secret" not in answer.text


def test_the_log_of_an_error_tells_where_but_no_key(
    serve: Serve, capfd: pytest.CaptureFixture[str]
) -> None:
    api = serve(keys="sesame")

    def broken() -> dict[str, Any]:
        raise RuntimeError("a caller's row")

    api.app.add_api_route("/broken", broken)
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    configure_logs("error", process="test")
    try:
        answer = api.get("/broken", headers={"Authorization": "Bearer sesame"})
    finally:
        root.handlers = handlers
        root.setLevel(level)
        structlog.reset_defaults()
    logged = capfd.readouterr().err
    assert answer.json()["instance"].rpartition(":")[2] in logged
    assert "builtins.RuntimeError" in logged
    assert "tests/service/test_app.py" in logged
    assert "broken" in logged
    assert "a caller's row" not in logged
    assert "sesame" not in logged


def test_log_lines_name_the_request_or_the_job_that_they_are_about(
    serve: Serve, capfd: pytest.CaptureFixture[str]
) -> None:
    api = serve()
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    configure_logs("debug", process="test")
    try:
        missing = api.get("/jobs/nothing")
        job = api.train(api.upload())["id"]
        api.work()
    finally:
        root.handlers = handlers
        root.setLevel(level)
        structlog.reset_defaults()
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line[0] == "{"]
    (told,) = [line for line in lines if line.get("request") == missing.headers["x-request-id"]]
    assert (told["method"], told["route"], told["status"]) == ("GET", "/jobs/{job_id}", 404)
    of_job = [(line["event"], line.get("status")) for line in lines if line.get("job") == job]
    assert of_job == [("job started", None), ("job ended", "succeeded")]


def test_a_full_disk_is_told_as_such(serve: Serve) -> None:
    api = serve()

    def full() -> dict[str, Any]:
        raise OSError(errno.ENOSPC, "No space left on device", "/secret/path")

    api.app.add_api_route("/full", full, responses=problems(507))
    answer = api.get("/full")
    assert_problem(answer, 507)
    assert "secret" not in answer.text


def test_ready_says_why_it_is_not(serve: Serve, tmp_path: Path) -> None:
    api = serve(workers=1)
    assert api.get("/health/live").json() == {"status": "live"}
    answer = api.get("/health/ready")
    assert "worker" in assert_problem(answer, 503)["detail"]
    assert int(answer.headers["retry-after"]) > 0

    (tmp_path / "other").mkdir()
    unready = serve(data=tmp_path / "other")
    assert unready.get("/health/ready").json() == {"status": "ready"}
    unready.state["blobs"]._temporary.rmdir()
    assert "written" in assert_problem(unready.get("/health/ready"), 503)["detail"]


def test_ready_ends_with_the_shutdown(api: Api) -> None:
    api.state["shutdown"].begin()
    assert "stopping" in assert_problem(api.get("/health/ready"), 503)["detail"]
    assert api.get("/health/live").status_code == 200


def test_metrics_tell_of_the_queue_of_failures_and_of_the_disk(api: Api) -> None:
    dataset = api.upload()
    api.train(dataset, epochs=9, optimizer={"form": "sgd", "learning_rate": 1e30})
    api.work()
    api.train(dataset)
    lines = dict(
        line.rsplit(" ", 1)
        for line in api.get("/metrics").text.splitlines()
        if not line.startswith("#")
    )
    assert float(lines["bernoulli_queue_age_seconds"]) > 0
    assert float(lines['bernoulli_jobs_failed{kind="user"}']) == 1
    assert float(lines['bernoulli_jobs_failed{kind="infrastructure"}']) == 0
    assert float(lines["bernoulli_training_rows_per_second"]) == 0
    assert float(lines["bernoulli_disk_free_bytes"]) > 0


def test_metrics_count_requests_by_template_and_jobs_by_status(api: Api) -> None:
    api.train(api.upload())
    api.get("/jobs/job_a")
    api.get("/jobs/job_b")
    api.get("/no/such/path")
    lines = api.get("/metrics").text.splitlines()
    assert 'bernoulli_jobs{status="queued"} 1.0' in lines
    prefix = "bernoulli_requests_total"
    assert f'{prefix}{{method="GET",route="/jobs/{{job_id}}",status="404"}} 2.0' in lines
    assert not any("/no/such/path" in line for line in lines)
    assert any(line.startswith("bernoulli_request_seconds_bucket") for line in lines)


def test_capabilities_name_what_is_served(shared: Api) -> None:
    body = shared.get("/capabilities").json()
    assert body["version"] == shared.app.version
    assert "text/csv" in body["formats"]["datasets"]
    assert "regressor" in body["statistics"]
    assert "cpu" in body["devices"]
    assert body["kernels"] == library_name()
    assert body["limits"]["max_body_bytes"] > 0
