"""What pydantic found wrong, as JSON pointers into what the caller sent and plain sentences."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

__all__ = ["located"]

MAX_EXAMINED = 1000
MAX_LISTED = 50

# Errors which only say that a value is of another kind: in a union, those of the other branches.
_OTHER_KIND = frozenset(
    {"bool_type", "dict_type", "float_type", "int_type", "list_type", "literal_error"}
    | {"model_attributes_type", "model_type", "none_required", "string_type", "tuple_type"}
)
_SENTENCES = {
    "bool_type": "must be true or false",
    "dict_type": "must be an object",
    "extra_forbidden": "unknown field; leave it out",
    "float_type": "must be a number",
    "int_from_float": "must be an integer",
    "int_type": "must be an integer",
    "list_type": "must be a list",
    "missing": "this field is required",
    "model_attributes_type": "must be an object",
    "model_type": "must be an object",
    "none_required": "must be null, or be left out",
    "string_type": "must be text",
    "tuple_type": "must be a list",
    "union_tag_not_found": "this field is required",
}
_WORDS = (
    ("Input should", "must"),
    ("String should", "must"),
    ("Tuple should", "the list must"),
    ("List should", "the list must"),
    ("Dictionary should", "the object must"),
    (" after validation", ""),
)
_NOTHING_TO_SHOW = frozenset(
    {"extra_forbidden", "missing", "repeated_parameter", "unknown_parameter", "value_error"}
    | {"union_tag_not_found"}
)


def located(found: Iterable[Mapping[str, Any]], body: Any) -> list[dict[str, str]]:
    """Say where and what is wrong, each place once; `body` is what the caller sent, parsed.

    What is wrong inside a value says more than that it is none of its alternatives, so the latter
    is left out where the former is known.
    """
    by_place: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for error in islice(found, MAX_EXAMINED):
        by_place.setdefault(_place(error, body), []).append(error)
    outer = {place[:length] for place in by_place for length in range(len(place))}
    listed = [
        {"pointer": _pointer(place), "detail": _sentence(errors)}
        for place, errors in by_place.items()
        if place not in outer
    ]
    return listed[:MAX_LISTED]


def _place(error: Mapping[str, Any], body: Any) -> tuple[str, ...]:
    """Return the way to the value at fault, by keys and positions that the request really has.

    Pydantic's own way also names the branches of unions and the steps of validation.
    """
    root, *rest = error["loc"] or ("body",)
    if root != "body":
        return tuple(str(part) for part in (root, *rest))
    place: list[str] = []
    value = body
    for position, part in enumerate(rest):
        is_missing = error["type"] == "missing" and position == len(rest) - 1
        if isinstance(value, dict) and (part in value or is_missing):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            continue
        place.append(str(part))
    if error["type"].startswith("union_tag") and isinstance(value, dict):
        place.append(error["ctx"]["discriminator"].strip("'"))
    return tuple(place)


def _pointer(place: Sequence[str]) -> str:
    return "#" + "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in place)


def _sentence(errors: Sequence[Mapping[str, Any]]) -> str:
    """Join what is wrong with one value, and show the value where it is short."""
    told = [error for error in errors if error["type"] not in _OTHER_KIND] or errors
    clauses = list(dict.fromkeys(_clause(error) for error in told))
    sentence = ", or ".join(clauses)[:1000]
    return sentence if told[0]["type"] in _NOTHING_TO_SHOW else sentence + _shown(told[0])


def _clause(error: Mapping[str, Any]) -> str:
    if error["type"] == "union_tag_invalid":
        return f"must be one of {error['ctx']['expected_tags']}"
    if error["type"] in _SENTENCES:
        return _SENTENCES[error["type"]]
    clause = str(error["msg"]).removeprefix("Value error, ")
    for theirs, ours in _WORDS:
        clause = clause.replace(theirs, ours)
    return clause[:1].lower() + clause[1:]


def _shown(error: Mapping[str, Any]) -> str:
    if error["type"] == "union_tag_invalid":
        return f", got {error['ctx']['tag']!r:.80}"
    value = error.get("input")
    if not isinstance(value, str | int | float | None):
        return ""
    return f", got {json.dumps(value, ensure_ascii=False):.80}"
