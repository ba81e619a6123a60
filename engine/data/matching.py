"""Names of a data set's columns and arrays, the globs over them, and what they hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from engine.data.schema import Array, Column, Schema
from engine.errors import PatternError, SpecError

__all__ = [
    "check_nulls",
    "content_of",
    "items_of",
    "listed",
    "match_names",
    "noun_of",
    "some",
    "union",
]

_MAX_GLOBS = 256
_LISTED = 50
_SHOWN = 10


def match_names(
    schema: Schema, patterns: Sequence[str], role: str
) -> list[tuple[str, tuple[str, ...]]]:
    """Return each pattern with the names that it matches, in the order of the data set.

    A name always matches itself. `role` is where the patterns stand in the request.
    """
    names = schema.names
    known = set(names)
    globs = 0
    matched: list[tuple[str, tuple[str, ...]]] = []
    for index, pattern in enumerate(patterns):
        found: tuple[str, ...] = (pattern,) if pattern in known else ()
        if any(character in "*?[" for character in pattern):
            globs += 1
            if globs > _MAX_GLOBS:
                raise SpecError(
                    f"more than {_MAX_GLOBS} globs; give names, or fewer globs",
                    pointer=f"#/{role}/{index}",
                )
            found = tuple(n for n in names if n == pattern or fnmatchcase(n, pattern))
        if not found:
            raise PatternError(
                pattern, kind=noun_of(schema), exist=listed(names), pointer=f"#/{role}/{index}"
            )
        matched.append((pattern, found))
    return matched


def union(groups: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """Return all names of several groups once, in the order in which they come first."""
    return tuple(dict.fromkeys(name for names in groups for name in names))


def check_nulls(items: Sequence[Column | Array], role: str, what: str) -> None:
    """Refuse columns with missing values; `what` may have none."""
    bad = [item for item in items if isinstance(item, Column) and item.nulls]
    if bad:
        counts = ", ".join(f"{item.name!r} ({item.nulls})" for item in bad[:_SHOWN])
        more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise SpecError(
            f"{what} have no missing values, but these columns have: {counts}{more}; choose others "
            f"by `{role.rpartition('/')[2]}`, leave those rows out by `rows`, or fill them before "
            "you send the data",
            pointer=f"#/{role}",
        )


def items_of(schema: Schema, names: Sequence[str]) -> list[Column | Array]:
    """Return the columns (arrays) of these names, in their order."""
    known: dict[str, Column | Array] = {column.name: column for column in schema.columns}
    known.update({array.name: array for array in schema.arrays})
    return [known[name] for name in names]


def content_of(item: Column | Array) -> str:
    """Return what a column or array holds: number, integer, boolean, text or datetime."""
    if isinstance(item, Column):
        return item.type
    return {"text": "text", "bool": "boolean"}.get(item.dtype, "number")


def noun_of(schema: Schema) -> str:
    """Return what a message calls the parts of a data set."""
    return "column" if schema.kind == "table" else "array"


def listed(names: Sequence[str]) -> list[str]:
    """Return names for a message: all, or the first of very many."""
    if len(names) <= _LISTED:
        return list(names)
    return [*names[:_LISTED], f"… ({len(names) - _LISTED} more)"]


def some(names: Sequence[str]) -> str:
    """Return names in quotes for a message, at most ten."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(repr(name) for name in names[:_SHOWN]) + more
