"""Which build of the compiled kernels this processor runs."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Final, NamedTuple

import torch

from engine.kernels.structures import descent_layout, layout

__all__ = ["BUILDS", "Kernels", "find_kernels", "kernels", "runnable_builds"]

BUILDS: Final = ("avx512", "avx2", "portable")
"""The builds of kernels.c, fastest first; pyproject.toml has the instructions of each."""

_RUNNABLE: Final = {"AVX512": BUILDS, "AVX2": BUILDS[1:]}


class Kernels(NamedTuple):
    """A loaded build and its name, one of `BUILDS`."""

    build: str
    library: ctypes.CDLL


def runnable_builds() -> tuple[str, ...]:
    """Name the builds whose instructions this processor has, fastest first.

    PyTorch asks the processor for exactly the instructions with which the builds of these names
    are compiled, so that the kernels and PyTorch's own products agree in what they use. On other
    than little-endian machines there are none: the draws read words as bytes of that order.
    """
    if sys.byteorder != "little":
        return ()
    return _RUNNABLE.get(torch.backends.cpu.get_cpu_capability(), BUILDS[-1:])


def find_kernels(build: str, folder: Path | None = None) -> Kernels | None:
    """Load a build from where it is installed, or from `folder`; None where it cannot be loaded."""
    folder = folder or Path(__file__).parent
    for suffix in EXTENSION_SUFFIXES:
        path = folder / f"_{build}{suffix}"
        if not path.is_file():
            continue
        try:
            library = ctypes.CDLL(str(path))
            library.bernoulli_descent_layout.restype = ctypes.c_int64
            layouts = library.bernoulli_layout(), library.bernoulli_descent_layout()
            if layouts == (layout(), descent_layout()):
                return Kernels(build, library)
        except (OSError, AttributeError):
            continue  # made for another system, or of an older source; something else will do
    return None


@cache
def kernels() -> Kernels | None:
    """Give the fastest build that is installed and that this processor runs, or None."""
    for build in runnable_builds():
        found = find_kernels(build)
        if found is not None:
            return found
    return None
