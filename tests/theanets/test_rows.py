"""Every row of docs/theanets.md: trained over HTTP, asked for, or left out with a reason."""

from __future__ import annotations

from collections import Counter
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pytest

from tests.theanets.conftest import Lab
from tests.theanets.inventory import PUBLIC, ROWS, Ask, Row
from tests.theanets.page import PAGE, with_tables


def cases(rows: list[Row]) -> list[Any]:
    return [pytest.param(row, id=row.key) for row in rows]


def check(ask: Ask, body: Any) -> None:
    """Fail unless an answer has all that it must have."""
    assert body
    for path in ask.answers:
        found = body
        for key in path.split("/"):
            found = found[int(key)] if isinstance(found, list) else found[key]
        assert found is not None, path


def assert_finite(value: Any) -> None:
    numbers = value.values() if isinstance(value, dict) else value
    if isinstance(numbers, str):
        return
    array = np.asarray(list(numbers))
    assert array.size
    if array.dtype != object and array.dtype.kind == "f":
        assert np.isfinite(array).all()


@pytest.mark.parametrize("row", cases([row for row in ROWS if row.is_trained]))
def test_a_row_trains_and_predicts(lab: Lab, row: Row) -> None:
    base = row.data or "vectors"
    job = lab.train(base, row.spec())
    assert np.isfinite(job["metrics"]["train"]["loss"])
    model = lab.model(job)
    assert set(row.outputs) <= set(model["outputs"])
    assert set(row.parameters) <= set(model["parameters"])
    outputs = lab.predict(base, job)
    assert_finite(outputs["prediction" if "prediction" in outputs else "probabilities"])
    if row.ask is not None:
        check(row.ask, lab.ask(base, job, row.ask))


@pytest.mark.parametrize("row", cases([r for r in ROWS if r.ask and not r.is_trained]))
def test_a_row_is_answered(lab: Lab, row: Row) -> None:
    assert row.ask is not None
    base = row.data or "vectors"
    check(row.ask, lab.ask(base, lab.once(base), row.ask))


def test_every_public_name_of_theanets_has_a_row() -> None:
    names = [name for row in ROWS for name in row.names]
    assert [n for n in PUBLIC if not any(fnmatchcase(n, name) for name in names)] == []
    assert [n for n in names if not any(fnmatchcase(known, n) for known in PUBLIC)] == []
    assert [name for name, count in Counter(names).items() if count > 1] == []


def test_every_row_says_what_serves_it_or_why_nothing_does() -> None:
    for row in ROWS:
        ways = (row.is_trained or row.ask or row.note, row.left_out)
        assert sum(map(bool, ways)) == 1, row.key


def test_the_page_says_what_the_rows_say() -> None:
    text = PAGE.read_text()
    assert with_tables(text) == text, "run `make docs`"
