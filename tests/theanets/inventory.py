"""The rows of rows.yaml, read and checked; both the page and the tests go by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.theanets.datasets import BASES

__all__ = ["PUBLIC", "ROWS", "SECTIONS", "Ask", "Row"]

HERE = Path(__file__).parent

#: Public names of theanets 0.7.3, of what came after it, and of the optimizers that it used.
PUBLIC = tuple((HERE / "public.txt").read_text().splitlines())


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A request about a model, and what its answer must have."""

    method: str
    path: str
    body: Mapping[str, Any]
    status: int = 200
    answers: tuple[str, ...] = ()
    """Paths into the answer's body, with `/` between keys."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What theanets had, and what serves it here."""

    names: tuple[str, ...]
    data: str | None = None
    layer: Any = None
    layers: tuple[Any, ...] | None = None
    train: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    ask: Ask | None = None
    note: str | None = None
    left_out: str | None = None

    @property
    def key(self) -> str:
        """The first name, by which the tests know the row."""
        return self.names[0]

    @property
    def is_trained(self) -> bool:
        """Whether the row trains a network of its own."""
        return any((self.data and not self.ask, self.layer, self.layers, self.train))

    def spec(self) -> dict[str, Any]:
        """Return the request that trains the row, but for the data set's id."""
        spec = BASES[self.data or "vectors"].spec()
        for key, value in self.train.items():
            spec[key] = {**spec[key], **value} if key == "network" else value
        if self.layer is not None:
            spec["network"]["layers"] = [None, self.layer, None]
        if self.layers is not None:
            spec["network"]["layers"] = list(self.layers)
        return spec


def _ask(row: Mapping[str, Any]) -> Ask | None:
    request = dict(row.get("request", {}))
    if not request:
        return None
    (method,) = {"get", "post"} & request.keys()
    return Ask(
        method=method.upper(),
        path=request[method],
        body=request.get("body", {}),
        status=request.get("status", 200),
        answers=tuple(row.get("answers", ())),
    )


def _row(row: Mapping[str, Any]) -> Row:
    tuples = {"names", "layers", "outputs", "parameters"} & row.keys()
    fields = {key: value for key, value in row.items() if key not in ("request", "answers")}
    return Row(**{**fields, **{key: tuple(row[key]) for key in tuples}}, ask=_ask(row))


#: Rows by the name of their section.
SECTIONS: dict[str, tuple[Row, ...]] = {
    section["section"]: tuple(_row(row) for row in section["rows"])
    for section in yaml.safe_load((HERE / "rows.yaml").read_text())
}
ROWS = tuple(row for rows in SECTIONS.values() for row in rows)
