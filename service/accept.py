"""What a caller would rather have: the `Accept` header."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["preferred"]


def preferred(accept: str, offered: Sequence[str]) -> str | None:
    """Return the offered media type that the header likes best, the first of equals.

    Without a header the first; None where it takes none of them.
    """
    weights = dict(_entries(accept))
    if not weights:
        return offered[0]

    def quality_of(media_type: str) -> float:
        for name in (media_type, f"{media_type.partition('/')[0]}/*", "*/*"):
            if name in weights:
                return weights[name]
        return 0.0

    best = max(offered, key=quality_of)
    return best if quality_of(best) > 0 else None


def _entries(accept: str) -> list[tuple[str, float]]:
    entries = []
    for entry in accept.split(","):
        name, *parameters = (part.strip() for part in entry.split(";"))
        quality = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip().lower() == "q":
                quality = _number(value)
        if name:
            entries.append((name.lower(), quality))
    return entries


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
