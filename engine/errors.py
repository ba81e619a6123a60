"""One family of errors, each with a pointer into the document that caused it.

EngineError
├── SpecError        the spec contradicts itself or the data set
│   └── PatternError     a pattern matches nothing; the message lists what exists
├── DataError        the data cannot be used as they are
├── ArtifactError    stored weights do not fit their description
├── DivergedError    the loss left the numbers that a float can hold
└── StoppedError     work ended because nobody wants it any more
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "ArtifactError",
    "DataError",
    "DivergedError",
    "EngineError",
    "PatternError",
    "SpecError",
    "StoppedError",
]


class EngineError(Exception):
    """Base of every error the engine raises on purpose; the message is safe to show to a caller."""

    def __init__(self, detail: str, *, pointer: str = "#") -> None:
        super().__init__(detail)
        self.detail = detail
        #: JSON pointer, as a URI fragment, to the offending value: ``#/network/layers/1/size``.
        self.pointer = pointer


class SpecError(EngineError):
    """A spec that is well formed but contradicts itself, the network or the data set."""


class PatternError(SpecError):
    """A glob pattern that matches no output or parameter."""

    def __init__(self, pattern: str, *, kind: str, exist: Iterable[str], pointer: str) -> None:
        self.exist = tuple(exist)
        super().__init__(
            f"pattern {pattern!r} matches no {kind}; these exist: {', '.join(self.exist)}",
            pointer=pointer,
        )


class DataError(EngineError):
    """Data that cannot be parsed, or that the network cannot take."""


class ArtifactError(EngineError):
    """Weights that do not fit the network they are said to belong to."""


class DivergedError(EngineError):
    """Training whose loss became NaN or infinite."""


class StoppedError(EngineError):
    """Work that was asked to stop before its end."""
