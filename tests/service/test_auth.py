"""Keys: who comes in, and to what."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from service.auth import KeyMiddleware
from service.settings import Settings
from tests.service.conftest import Api, Serve, assert_problem

OPEN = ["/", "/docs", "/docs/assets/swagger-ui.css", "/static/docs.js", "/openapi.json"]
OPEN += ["/health/live", "/health/ready"]
CLOSED = ["/jobs", "/datasets", "/models", "/aliases", "/metrics", "/capabilities", "/nothing"]


def bearing(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def locked(serve: Serve) -> Api:
    return serve(keys="first, second")


@pytest.mark.parametrize("path", OPEN)
def test_health_and_pages_are_open(locked: Api, path: str) -> None:
    assert locked.get(path).status_code == 200


@pytest.mark.parametrize("path", CLOSED)
def test_everything_else_needs_a_key(locked: Api, path: str) -> None:
    answer = locked.get(path)
    assert_problem(answer, 401)
    assert answer.headers["www-authenticate"] == "Bearer"
    assert locked.get(path, headers=bearing("second")).status_code in (200, 404)


@pytest.mark.parametrize(
    "value",
    ["first", "Bearer", "Bearer ", "Bearer third", "Basic first", "Bearer first,second", b"\xff"],
)
def test_no_other_header_opens(locked: Api, value: Any) -> None:
    assert_problem(locked.get("/jobs", headers={"Authorization": value}), 401)


def test_nothing_of_the_body_is_read_without_a_key(locked: Api) -> None:
    assert_problem(locked.post("/train", content=b"{"), 401)


def test_keys_come_from_a_file_too(serve: Serve, tmp_path: Any) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\n\nfrom-a-file\n")
    api = serve(keys_file=file)
    assert api.get("/jobs", headers=bearing("from-a-file")).status_code == 200
    assert_problem(api.get("/jobs", headers=bearing("# ours")), 401)


def test_a_key_made_by_the_command_line_opens_until_it_is_revoked(serve: Serve) -> None:
    api = serve(keys="first")
    key, secret = api.state["keys"].create("made")
    assert api.get("/jobs", headers=bearing(secret)).status_code == 200
    api.state["keys"].revoke(key.id)
    assert_problem(api.get("/jobs", headers=bearing(secret)), 401)


def test_without_keys_everybody_of_this_machine_comes_in(serve: Serve) -> None:
    assert serve().get("/jobs").status_code == 200


def test_without_keys_nobody_comes_in_from_elsewhere(serve: Serve) -> None:
    """A server that others can reach stays closed when its last key is revoked."""
    assert_problem(serve(host="0.0.0.0").get("/jobs"), 401)


def test_auth_off_opens_to_all(serve: Serve) -> None:
    assert serve(host="0.0.0.0", auth="off", keys="first").get("/jobs").status_code == 200


def test_what_is_made_belongs_to_the_key(locked: Api) -> None:
    locked.headers.update(bearing("first"))
    dataset = locked.upload()
    job = locked.train(dataset)
    again = locked.train(dataset)
    locked.headers.update(bearing("second"))
    other = locked.train(dataset)
    owners = [locked.state["jobs"].get(made["id"]).owner for made in (job, again, other)]
    assert owners[0] == owners[1] != owners[2]
    assert locked.state["datasets"].get(dataset).owner == owners[0]
    assert not any("first" in str(owner) for owner in owners)


def test_those_who_come_together_look_for_keys_once() -> None:
    looked: list[int] = []

    class Stored:
        def list(self) -> list[Any]:
            looked.append(1)
            return []

    async def answer(scope: Any, *_: Any) -> None:
        scope["let in"] = True

    middleware = KeyMiddleware(answer, Settings())
    request = {
        "type": "http",
        "method": "GET",
        "path": "/jobs",
        "headers": [(b"host", b"localhost")],
    }
    scopes = [{**request, "state": {"keys": Stored()}} for _ in range(50)]

    async def all_at_once() -> None:
        await asyncio.gather(*(middleware(scope, _nothing, _nothing) for scope in scopes))

    asyncio.run(all_at_once())
    assert len(looked) == 1
    assert all(scope.get("let in") for scope in scopes)


async def _nothing(*_: Any) -> Any:
    return None
