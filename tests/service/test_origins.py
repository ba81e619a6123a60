"""Hosts and origins: without keys, no page of another site reads or changes anything."""

from __future__ import annotations

import pytest

from tests.service.conftest import Api, Serve, assert_problem

OWN = ["localhost", "localhost:8000", "127.0.0.1", "127.0.0.1:1", "127.8.9.1", "[::1]", "[::1]:80"]
FOREIGN = [
    "evil.example",
    "evil.example:8000",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "evil.example#localhost",
    "10.0.0.1",
    "[fe80::1]",
    "0.0.0.0",
    "169.254.169.254",
    "",
    "localhost@evil.example",
]


@pytest.mark.parametrize("host", OWN)
def test_names_of_this_machine_are_served(shared: Api, host: str) -> None:
    assert shared.get("/jobs", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", FOREIGN)
@pytest.mark.parametrize("path", ["/jobs", "/metrics", "/capabilities", "/nothing"])
def test_other_names_are_refused(shared: Api, host: str, path: str) -> None:
    problem = assert_problem(shared.get(path, headers={"Host": host}), 403)
    assert "BERNOULLI_ALLOWED_HOSTS" in problem["detail"]


def test_health_is_told_by_any_name(shared: Api) -> None:
    assert shared.get("/health/live", headers={"Host": "evil.example"}).status_code == 200


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "https://localhost:8000",
        "http://localhost:8000",
        "http://127.0.0.1",
        "null",
        "",
        "file://",
        "chrome-extension://abc",
        "http://localhost.evil.example",
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/datasets"),
        ("POST", "/predict"),
        ("DELETE", "/models/mdl_1"),
        ("PUT", "/aliases/best"),
        ("PATCH", "/jobs/job_1"),
        ("POST", "/jobs/job_1/cancel"),
    ],
)
def test_pages_of_other_sites_change_nothing(
    shared: Api, origin: str, method: str, path: str
) -> None:
    headers = {"Host": "localhost", "Origin": origin, "Content-Type": "text/plain"}
    problem = assert_problem(shared.request(method, path, headers=headers), 403)
    assert "Origin" in problem["detail"]


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost", "http://localhost"),
        ("localhost:80", "http://localhost"),
        ("localhost", "https://localhost"),  # by a proxy that speaks TLS
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("[::1]", "http://[::1]"),
    ],
)
def test_its_own_pages_may(shared: Api, host: str, origin: str) -> None:
    headers = {"Host": host, "Origin": origin}
    assert_problem(shared.post("/train", json={}, headers=headers), 422)
    assert shared.get("/jobs", headers=headers).status_code == 200


def test_names_may_be_added(serve: Serve) -> None:
    api = serve(allowed_hosts="models.example, Other.example")
    headers = {"Host": "models.example:8000", "Origin": "https://models.example"}
    assert_problem(api.post("/train", json={}, headers=headers), 422)
    assert api.get("/jobs", headers={"Host": "other.example"}).status_code == 200
    assert_problem(api.get("/jobs", headers={"Host": "evil.example"}), 403)
    # A proxy may call the server by a name of its own.
    headers = {"Host": "localhost:8000", "Origin": "https://models.example"}
    assert_problem(api.post("/train", json={}, headers=headers), 422)


def test_with_keys_any_name_does(serve: Serve) -> None:
    api = serve(keys="secret")
    foreign = {"Host": "evil.example", "Origin": "http://evil.example"}
    assert_problem(api.get("/jobs", headers=foreign), 401)
    headers = {**foreign, "Authorization": "Bearer secret"}
    assert api.get("/jobs", headers=headers).status_code == 200


def test_auth_off_asks_for_a_name_of_its_own_where_it_knows_them(serve: Serve) -> None:
    foreign = {"Host": "evil.example"}
    assert_problem(serve(auth="off").get("/jobs", headers=foreign), 403)
    beyond = serve(auth="off", host="0.0.0.0")
    assert beyond.get("/jobs", headers=foreign).status_code == 200
    told = serve(auth="off", host="0.0.0.0", allowed_hosts="models.example")
    assert_problem(told.get("/jobs", headers=foreign), 403)


def test_no_page_of_another_site_is_given_an_answer(shared: Api) -> None:
    headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    for answer in (
        shared.options("/predict", headers=headers),
        shared.get("/jobs", headers=headers),
        shared.get("/health/live", headers=headers),
    ):
        assert not any(name.startswith("access-control-") for name in answer.headers)
