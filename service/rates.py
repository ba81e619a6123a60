"""Rates: how many predictions each key has asked for lately."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from service.errors import QuotaExceeded

__all__ = ["Rates"]

_MINUTE_S = 60.0


class Rates:
    """A bucket for each key, of as many predictions as it may ask for in a minute.

    It fills steadily: a key that has asked for none for a minute may ask for all of them at once.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, key: str, per_minute: int) -> None:
        """Count a prediction of a key; raises QuotaExceeded with the seconds until the next."""
        now = self._clock()
        left, at = self._buckets.get(key, (float(per_minute), now))
        left = min(per_minute, left + (now - at) * per_minute / _MINUTE_S)
        if left < 1:
            self._buckets[key] = (left, now)
            wait_s = (1 - left) * _MINUTE_S / per_minute if per_minute else _MINUTE_S
            raise QuotaExceeded(
                f"the quota `predictions_per_minute` of this key is {per_minute}, and it has asked "
                f"for as many",
                retry_after_s=math.ceil(wait_s),
            )
        self._buckets[key] = (left - 1, now)
