"""The tables of docs/theanets.md, from the rows: `python -m tests.theanets.page` writes them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.theanets.inventory import SECTIONS, Ask, Row

__all__ = ["PAGE", "with_tables"]

PAGE = Path(__file__).parents[2] / "docs" / "theanets.md"
START, END = "<!-- rows -->\n", "<!-- end of rows -->\n"
_TABLES = re.compile(f"{re.escape(START)}.*?{re.escape(END)}", re.DOTALL)


def with_tables(page: str) -> str:
    """Return the page with the tables between its two marks written anew."""
    tables = "\n".join(_table(name, rows) for name, rows in SECTIONS.items())
    return _TABLES.sub(lambda _: f"{START}\n{tables}\n{END}", page, count=1)


def _table(name: str, rows: tuple[Row, ...]) -> str:
    lines = [f"### {name}", "", "| theanets | here | checked |", "|---|---|---|"]
    lines += [f"| {_names(row)} | {_here(row)} | {_status(row)} |" for row in rows]
    return "\n".join([*lines, ""])


def _names(row: Row) -> str:
    return ", ".join(f"`{name}`" for name in row.names)


def _status(row: Row) -> str:
    if row.left_out is not None:
        return "left out"
    if row.is_trained:
        return "trained"
    return "asked" if row.ask is not None else ""


def _here(row: Row) -> str:
    """Say how a row is asked for, in the JSON that its test sends."""
    if row.left_out is not None:
        return _sentence(row.left_out)
    said = [*_trained(row)]
    if row.ask is not None:
        said.append(_request(row.ask))
    parts = [", ".join(said), _sentence(row.note or "")]
    parts += [
        f"{kind} {', '.join(f'`{name}`' for name in names)}"
        for kind, names in (("outputs", row.outputs), ("parameters", row.parameters))
        if names
    ]
    return "; ".join(part for part in parts if part)


def _trained(row: Row) -> Iterator[str]:
    if row.layer is not None:
        yield f"`{_json(row.layer)}`"
    if row.layers is not None:
        yield f"`{_json('layers')}: {_json(list(row.layers))}`"
    for key, value in {**row.train.get("network", {}), **row.train}.items():
        if key != "network":
            yield f"`{_json(key)}: {_json(value)}`"


def _request(ask: Ask) -> str:
    path = ask.path.format(model="{model_id}", job="{job_id}")
    body = [f"`{_json(k)}: {_json(v)}`" for k, v in ask.body.items() if k != "inputs"]
    with_body = f" with {', '.join(body)}" if body else ""
    answers = ", ".join(f"`{answer}`" for answer in ask.answers)
    return f"`{ask.method} {path}`{with_body}" + (f" → {answers}" if answers else "")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _sentence(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text()))
