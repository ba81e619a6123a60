"""CSV files with decimal commas and other delimiters are read where the caller says so."""

from __future__ import annotations

from typing import Any

import pytest

from tests.service.conftest import Api, assert_problem


def upload(api: Api, content: str, kind: str = "text/csv", **query: str) -> Any:
    headers = {"Content-Type": kind}
    return api.post("/datasets", params=query, content=content.encode("utf-8"), headers=headers)


@pytest.mark.parametrize(
    ("content", "query"),
    [
        ("a;b\n1,5;x\n2,25;y\n", {"decimal": ","}),
        ('\ufeffa;b\r\n"1,5";"x"\r\n2,25;y\r\n', {"decimal": ","}),
        ("a\tb\n1,5\tx\n2,25\ty\n", {"decimal": ",", "delimiter": "tab"}),
        ("a|b\n1.5|x\n2.25|y\n", {}),
        ("a|b\n1,5|x\n2,25|y\n", {"delimiter": "|", "decimal": ","}),
    ],
)
def test_numbers_are_read_as_they_are_written(
    api: Api, content: str, query: dict[str, str]
) -> None:
    made = upload(api, content, **query)
    assert made.status_code == 201, made.text
    number, text = made.json()["columns"]
    assert (number["name"], number["type"], number["min"], number["max"]) == (
        "a", "number", 1.5, 2.25,
    )  # fmt: skip
    assert text["categories"] == ["x", "y"]


def test_the_header_does_not_outvote_the_caller(api: Api) -> None:
    made = upload(api, "a;b,c,d;e\n1;2;3\n", delimiter=";")
    assert [column["name"] for column in made.json()["columns"]] == ["a", "b,c,d", "e"]


def test_a_dialect_that_cannot_be_is_refused(api: Api) -> None:
    commas = upload(api, "a,b\n1,2\n", decimal=",")
    assert "decimal commas" in assert_problem(commas, 422)["detail"]
    other = upload(api, '[{"a": 1}]', "application/json", decimal=",")
    assert "CSV" in assert_problem(other, 422)["detail"]
    assert upload(api, "a,b\n1,2\n", delimiter="x").status_code == 422


def test_the_same_bytes_read_otherwise_are_another_request(api: Api) -> None:
    body = "a;b\n1,5;2,5\n"
    headers = {"Content-Type": "text/csv", "Idempotency-Key": "one"}
    first = api.post("/datasets", content=body, headers=headers)
    assert first.status_code == 201
    again = api.post("/datasets", params={"decimal": ","}, content=body, headers=headers)
    assert again.status_code == 422
