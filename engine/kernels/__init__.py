"""Compiled kernels of Monte-Carlo passes; where there are none, PyTorch computes all of it."""

from __future__ import annotations

import ctypes

from engine.kernels.builds import BUILDS, kernels

__all__ = ["BUILDS", "library", "library_name"]


def library() -> ctypes.CDLL | None:
    """Give the compiled kernels for this processor, or None where none were built for it."""
    found = kernels()
    return None if found is None else found.library


def library_name() -> str | None:
    """Name the build that `library` gives, one of `BUILDS`; None where it gives None."""
    found = kernels()
    return None if found is None else found.build
