"""Names of outputs and parameters, and the globs that aim at them.

A layer's outputs are ``LAYER:out``, ``LAYER:pre``, …; its parameters ``LAYER.w``, ``LAYER.b``, ….
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from engine.errors import PatternError

__all__ = [
    "PREDROP",
    "PRENOISE",
    "array_of",
    "match",
    "output_name",
    "parameter_name",
    "plain_name",
]

PREDROP = "-predrop"
"""Suffix under which a dropped output's value before its first mask is readable."""
PRENOISE = "-prenoise"
"""Suffix under which a noisy output's value before its first noise is readable."""


def output_name(layer: str, output: str) -> str:
    return f"{layer}:{output}"


def parameter_name(layer: str, parameter: str) -> str:
    return f"{layer}.{parameter}"


def plain_name(name: str) -> str:
    """Return the output's own name, without a suffix for its value before dropout or noise."""
    return name.removesuffix(PREDROP).removesuffix(PRENOISE)


def match(pattern: str, names: Iterable[str], *, kind: str, pointer: str) -> tuple[str, ...]:
    """Return the names that `pattern` matches, in their own order.

    Raises PatternError, listing what exists, where it matches none.
    """
    names = tuple(names)
    matched = tuple(name for name in names if fnmatchcase(name, pattern))
    if not matched:
        raise PatternError(pattern, kind=kind, exist=names, pointer=pointer)
    return matched


def array_of(target: str) -> str:
    """Return the name of the array that a target such as `y[0]` is a column of."""
    return target.rpartition("[")[0] or target
