"""The `inputs` of a request that are sequences of records: laid out as records, row after row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from engine.data.given_columns import listed
from engine.data.records import kind_of, pointer_token
from engine.errors import DataError

__all__ = ["FlatRecords", "flatten", "steps_of_first"]


@dataclass(frozen=True, kw_only=True)
class FlatRecords:
    """Sequences of equal length, end to end."""

    inputs: Any
    """As `inputs` of a request that has a row for each step."""
    rows: int
    steps: int
    columns: bool
    """Whether they are an object of columns, not a list."""
    bare: bool
    """Whether a step was given as its one value, and not as a record."""

    def pointer(self, flat: str) -> str:
        """Return where a value of the flat inputs stands in the request."""
        parts = flat.removeprefix("#/inputs/").split("/")
        at = 1 if self.columns else 0
        if len(parts) <= at or not parts[at].isdecimal():
            return flat
        parts[at : at + 1] = map(str, divmod(int(parts[at]), self.steps))
        if self.bare:
            parts = parts[:2]
        return "/".join(["#/inputs", *parts])


def steps_of_first(inputs: Any, names: Sequence[str]) -> int | None:
    """Return how many steps the first sequence has; None where there is none."""
    rows = inputs
    if isinstance(inputs, dict):
        rows = next((inputs[name] for name in names if name in inputs), None)
        rows = listed(rows[:1]) if isinstance(rows, np.ndarray) else rows
    first = rows[0] if isinstance(rows, list | tuple) and rows else None
    return len(first) or None if isinstance(first, list | tuple | str) else None


def flatten(inputs: Any, names: Sequence[str], *, steps: int, characters: bool) -> FlatRecords:
    """Lay out a list of sequences, or an object of columns of sequences; all have `steps` steps.

    A model that reads one column, of `names`, takes a step as its value, and with `characters` a
    sequence as a text.
    """
    if isinstance(inputs, dict):
        return _flat_columns(inputs, names, steps, characters)
    flat = _flat(inputs, "#/inputs", steps, characters)
    bare = len(names) == 1 and not any(isinstance(step, list | tuple | dict) for step in flat)
    return FlatRecords(
        inputs=[[step] for step in flat] if bare else flat,
        rows=len(inputs),
        steps=steps,
        columns=False,
        bare=bare,
    )


def _flat_columns(
    columns: dict[str, Any], names: Sequence[str], steps: int, characters: bool
) -> FlatRecords:
    flat = dict(columns)
    given = [name for name in names if name in columns]
    for name in given:
        where = f"#/inputs/{pointer_token(name)}"
        flat[name] = _flat(listed(columns[name]), where, steps, characters)
        if len(flat[name]) != len(flat[given[0]]):
            raise DataError(
                f"{name!r} has {len(columns[name])} sequences, {given[0]!r} has "
                f"{len(columns[given[0]])}; all columns have the same number",
                pointer=where,
            )
    rows = len(columns[given[0]]) if given else 0
    return FlatRecords(inputs=flat, rows=rows, steps=steps, columns=True, bare=False)


def _flat(rows: Any, where: str, steps: int, characters: bool) -> list[Any]:
    if not isinstance(rows, list | tuple):
        raise DataError(
            "inputs are a list of sequences, each a list of steps, or an object of columns of "
            f"such; got {kind_of(rows)}",
            pointer=where,
        )
    if not rows:
        raise DataError("there are no sequences; give at least one", pointer=where)
    for index, row in enumerate(rows):
        is_text = isinstance(row, str) and characters
        if not is_text and not isinstance(row, list | tuple):
            raise DataError(
                f"a sequence is a list of {steps} steps"
                + (" or a text" if characters else "")
                + f", got {kind_of(row)}",
                pointer=f"{where}/{index}",
            )
        if len(row) != steps:
            raise DataError(
                f"the sequences of a request have one length, as the first {steps} steps; this has "
                f"{len(row)}",
                pointer=f"{where}/{index}",
            )
    return list(chain.from_iterable(rows))
