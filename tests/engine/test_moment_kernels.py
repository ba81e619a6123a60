"""The compiled reduction of passes, bit for bit against NumPy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from engine import statistics
from engine.kernels.builds import find_kernels, runnable_builds
from engine.kernels.moments import MomentKernels, moment_kernels
from engine.statistics import BLOCK, Moments, reduce_blocks

BUILDS = [
    found
    for build in runnable_builds()
    if (loaded := find_kernels(build)) is not None and (found := moment_kernels(loaded)) is not None
]

samples_of = hnp.arrays(
    np.float32,
    st.tuples(st.one_of(st.integers(1, 200), st.integers(500, 1200)), st.integers(1, 40)),
    elements=st.floats(width=32),
    fill=st.floats(-10, 10, width=32),
)


@pytest.mark.parametrize("kernels", BUILDS)
@settings(max_examples=60, deadline=None)
@given(samples=samples_of, cut=st.integers(0, 20), spread=st.booleans())
def test_compiled_moments_have_numpys_bits(
    kernels: MomentKernels, samples: np.ndarray, cut: int, spread: bool
) -> None:
    pieces = [piece for piece in (samples[: cut * BLOCK], samples[cut * BLOCK :]) if len(piece)]
    found = []
    for compiled in (None, kernels):
        with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
            patch.setattr(statistics, "moment_kernels", lambda compiled=compiled: compiled)
            moments = Moments()
            for piece in pieces:
                moments.add(reduce_blocks(piece, spread=spread))
            found.append((moments.mean, moments.variance))
    (mean, variance), (ours, our_variance) = found
    np.testing.assert_array_equal(ours, mean)
    if variance is None:
        assert our_variance is None
    else:
        np.testing.assert_array_equal(our_variance, variance)


@pytest.mark.skipif(not BUILDS, reason="no kernels are installed")
def test_passes_that_may_not_be_written_are_reduced() -> None:
    samples = np.arange(130, dtype=np.float32).reshape(65, 2)
    samples.flags.writeable = False
    moments = Moments()
    moments.add(reduce_blocks(samples))
    np.testing.assert_allclose(moments.mean, samples.mean(axis=0))
    assert moments.variance is not None
    np.testing.assert_allclose(moments.variance, samples.var(axis=0, ddof=1))
