"""The builds of the compiled kernels: there, loadable, and the one for this processor chosen."""

from __future__ import annotations

import ctypes
import platform
import sys
from pathlib import Path

import numpy as np
import pytest

from engine.kernels import BUILDS, library, library_name
from engine.kernels.builds import find_kernels, runnable_builds

LANES = {"avx512": 16, "avx2": 8, "portable": 4}
"""How many numbers of 32 bits a build computes side by side."""

on_linux_x86_64 = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64",
    reason="all builds are promised on 64-bit x86 processors under Linux",
)


def built(name: str) -> ctypes.CDLL:
    found = find_kernels(name)
    assert found is not None, f"the build {name!r} is missing: run `make setup`"
    assert found.build == name
    return found.library


@on_linux_x86_64
@pytest.mark.parametrize("name", BUILDS)
def test_each_build_is_there(name: str) -> None:
    built(name)


@on_linux_x86_64
def test_the_fastest_build_that_runs_here_is_chosen() -> None:
    assert library_name() == runnable_builds()[0]
    kernels = library()
    assert kernels is not None
    assert kernels is library()
    assert kernels.bernoulli_lanes() == LANES[runnable_builds()[0]]


@on_linux_x86_64
@pytest.mark.parametrize("name", runnable_builds())
def test_a_build_uses_the_registers_it_is_named_for(name: str) -> None:
    assert built(name).bernoulli_lanes() == LANES[name]


@on_linux_x86_64
def test_all_builds_draw_the_same_masks() -> None:
    states = np.random.default_rng(1).integers(0, 2**64, 50, dtype=np.uint64)
    drawn = []
    for name in runnable_builds():
        masks = np.full((50, 333), np.nan, np.float32)
        built(name).bernoulli_masks(
            states.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_int64(50),
            ctypes.c_int64(333),
            ctypes.c_uint32(int(0.3 * 2**32)),
            ctypes.c_float(1.25),
            masks.ctypes.data_as(ctypes.c_void_p),
        )
        drawn.append(masks)
    for masks in drawn:
        np.testing.assert_array_equal(masks, drawn[0])
    assert set(np.unique(drawn[0])) == {np.float32(0), np.float32(1.25)}


def test_any_processor_runs_the_portable_build_if_it_runs_one() -> None:
    assert runnable_builds() == (BUILDS[-len(runnable_builds()) :] if runnable_builds() else ())
    assert bool(runnable_builds()) == (sys.byteorder == "little")


def test_what_is_missing_or_made_for_another_system_is_not_chosen(tmp_path: Path) -> None:
    assert find_kernels("portable", tmp_path) is None
    (tmp_path / "_portable.so").write_bytes(b"\x7fELF of another system")
    assert find_kernels("portable", tmp_path) is None
