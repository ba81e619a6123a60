"""Requests near valid ones: a JSON document with a few of its places changed, by hypothesis."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

__all__ = ["ODD", "encoded", "mutated"]

_TEXTS = [
    "", " ", "*", "**", "[", "[!]", "hid[", "hid[1", "hid[!1]:out", "?", "*:out", "hid*:out",
    "in:out",
    "hid1:pre", "hid1:out-predrop", "hid1:out-predrop-predrop", "hid1.w", "*.w", ":out", "out:",
    "\\",
    "{}", "%s", "../../etc/passwd", "\x00", "é", "\u202e", "\ud800", "a" * 300, "a" * 70_000, "NaN",
    "1e400", "true", "null", "1", "-1", "auto", "fit", "trained", "mean", "samples", "interval",
    "set",
    "quantiles", "shared", "cuda", "bfloat16", "adam", "sgd", "relu", "relu+tanh", "softmax",
    "lstm",
    "y", "age", "size", "city", "since", "flag", "x", "k", "position", "character", "mdl_",
    "ds_" + "0" * 26,
    "mdl_" + "0" * 26, "job_" + "0" * 26, "mse", "xe", "kl", "layerwise", "__class__",
    "constructor",
]  # fmt: skip
_NUMBERS: list[Any] = [
    0, 1, -1, 2, 7, 100, 1000, 10**6, 10**9, 2**31 - 1, 2**31, 2**53 - 1, 2**53, 2**63 - 1, 2**63,
    2**64,
    -(2**63), 10**30, 10**400, 0.0, -0.0, 0.5, 1.0, 0.999999999, 1e-320, 1e-45, 1e-7, 1e30, 3.5e38,
    1e308,
    float("nan"), float("inf"), float("-inf"), 1.5, -0.1, 0.1,
]  # fmt: skip
_EMPTY: list[Any] = [None, True, False, [], {}, [[]], [{}], {"": None}, [None], {"form": None}]


def _deep(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


_LARGE: list[Callable[[], Any]] = [
    lambda: _deep(240),
    lambda: _deep(300),
    lambda: [0] * 3000,
    lambda: list(range(2000)),
    lambda: {f"k{i}": i for i in range(2000)},
]

ODD: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(_TEXTS),
    st.sampled_from(_NUMBERS),
    st.sampled_from(_EMPTY).map(copy.deepcopy),
    st.text(max_size=6),
    st.integers(),
    st.floats(),
    st.recursive(
        st.sampled_from([*_TEXTS[:20], *_NUMBERS[:20], *_EMPTY[:3]]),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from(_TEXTS[:40]), inner, max_size=3)
        ),
        max_leaves=8,
    ),
    st.sampled_from(_LARGE).map(lambda make: make()),
)
"""What no field wants, and what some other field would take."""


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all that is in a document, a few of each long list."""
    found = [path] if path else []
    if isinstance(value, dict):
        for key, inner in value.items():
            found += _places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value[:4]):
            found += _places(inner, (*path, index))
    return found


def _at(value: Any, path: Sequence[Any]) -> Any:
    for key in path:
        value = value[key]
    return value


def _swapped(value: Any) -> Any:
    """Return a value of another type that looks like it."""
    match value:
        case bool():
            return "true" if value else 0
        case int() | float():
            return str(value)
        case str():
            return [value]
        case list():
            return {str(index): inner for index, inner in enumerate(value)}
        case dict():
            return list(value.items())
    return "null"


@st.composite
def mutated(
    draw: st.DrawFn, bases: Sequence[dict[str, Any]], keys: Sequence[str], fixed: Sequence[str] = ()
) -> dict[str, Any]:
    """Draw one of the documents with up to four changes; `keys` are fields that it may have.

    Fields that are `fixed` are changed seldom: most cases should get past them.
    """
    document: dict[str, Any] = copy.deepcopy(draw(st.sampled_from(bases)))
    for _ in range(draw(st.integers(0, 4))):
        places = _places(document)
        path = draw(st.sampled_from(places)) if places else ()
        if not path or (path[0] in fixed and draw(st.integers(0, 9))):
            continue
        holder, last = _at(document, path[:-1]), path[-1]
        match draw(st.integers(0, 8)):
            case 0:
                del holder[last]
            case 1:
                holder[last] = _swapped(holder[last])
            case 2:
                holder[last] = copy.deepcopy(_at(document, draw(st.sampled_from(places))))
            case 3:
                holder[last] = [holder[last]]
            case 4 if isinstance(holder, list):
                holder.insert(last, copy.deepcopy(holder[last]))
            case 5 if isinstance(holder, dict):
                holder[draw(st.sampled_from(_TEXTS[:40]))] = holder.pop(last)
            case 6 if keys:
                document[draw(st.sampled_from(keys))] = draw(ODD)
            case _:
                holder[last] = draw(ODD)
    return document


def encoded(document: Any) -> bytes:
    """Write a document as JSON, with what JSON does not have: NaN, infinities, lone surrogates."""
    return json.dumps(document).encode()
