"""The `Accept` header, by RFC 9110."""

from __future__ import annotations

import pytest

from service.accept import preferred

OFFERED = ("application/json", "text/event-stream")


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", OFFERED[0]),
        ("*/*", OFFERED[0]),
        ("text/event-stream", OFFERED[1]),
        ("TEXT/EVENT-STREAM", OFFERED[1]),
        ("text/event-stream;q=0, application/json", OFFERED[0]),
        ("application/json, text/event-stream;q=0.1", OFFERED[0]),
        ("application/json;q=0.2, text/*", OFFERED[1]),
        ("text/html, */*;q=0.1", OFFERED[0]),
        ("image/png", None),
        ("application/json;q=x", None),
    ],
)
def test_the_best_liked_is_chosen(accept: str, expected: str | None) -> None:
    assert preferred(accept, OFFERED) == expected
