"""Figures: measured numbers as answers have them."""

from __future__ import annotations

import math
from typing import SupportsFloat

__all__ = ["figure"]


def figure(value: SupportsFloat | None) -> float | None:
    """Return a plain number; None for what is unknown, infinite or NaN."""
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None
