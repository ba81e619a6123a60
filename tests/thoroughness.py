"""How many examples Hypothesis tries of what takes long: few, or many when that is asked for."""

from __future__ import annotations

from hypothesis import settings

__all__ = ["examples"]

THOROUGH = "thorough"
"""The profile of `make test ARGS=--hypothesis-profile=thorough`."""

# Hypothesis has a profile for CI, and takes it there. No test fails because a machine is busy.
_usual = settings(settings.get_profile(settings.get_current_profile_name()), deadline=None)
settings.register_profile("usual", _usual)
settings.register_profile(THOROUGH, _usual, max_examples=1000)
settings.load_profile("usual")


def examples(few: int, many: int) -> int:
    """Return `many` in the thorough profile, and `few` in any other."""
    return many if settings.get_current_profile_name() == THOROUGH else few
