"""Random streams: laws of the masks that everything else rests on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from engine.kernels.builds import BUILDS, find_kernels, runnable_builds
from engine.kernels.draws import drop_factors, normal_numbers
from engine.streams import (
    drop_mask,
    generator,
    normal_noise,
    row_states,
    stream_key,
    threshold,
)

MASK = 2**64 - 1


def _mix(z: int) -> int:
    """SplitMix64's finaliser in plain integers, as published."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def _reference(key: int, number: int, row: int, column: int, rate: float) -> bool:
    """Whether one element is dropped, worked out one at a time without NumPy."""
    gamma = 0x9E3779B97F4A7C15
    by_pass = _mix(((number + 1) * gamma + key) & MASK)
    by_row = _mix(((row + 1) * 0xD1B54A32D192ED03) & MASK)
    state = _mix((by_pass + by_row) & MASK)
    word = _mix((state + (column // 4 + 1) * gamma) & MASK)
    high = (word >> (16 * (column % 4))) & 0xFFFF
    low = _mix(((state ^ 0x5851F42D4C957F2D) + (column + 1) * gamma) & MASK) >> 48
    return high * 65536 + low < threshold(rate)


def _states(key: int, passes: int, rows: int) -> np.ndarray:
    which_pass, which_row = np.divmod(np.arange(passes * rows), rows)
    return row_states(key, which_pass, which_row)


@given(
    key=st.integers(0, MASK),
    number=st.integers(0, 10**7),
    row=st.integers(0, 2**53),
    width=st.integers(1, 40),
    rate=st.floats(0, 1, exclude_max=True),
)
def test_masks_are_what_the_definition_says(
    key: int, number: int, row: int, width: int, rate: float
) -> None:
    mask = drop_mask(row_states(key, np.array([number]), np.array([row])), width, rate)
    expected = [_reference(key, number, row, column, rate) for column in range(width)]
    assert mask[0].tolist() == expected


def test_ties_of_the_leading_bits_are_decided_by_further_ones() -> None:
    # A rate whose leading 16 bits are 0: only ties can drop, about one element in 2^16 * 2.
    rate = 0.5 / 2**16
    mask = drop_mask(_states(7, 1000, 100), 64, rate)
    expected = mask.size * rate
    assert abs(int(mask.sum()) - expected) < 4 * np.sqrt(expected)


@pytest.mark.parametrize("rate", [0.005, 0.1, 0.5, 0.9, 0.999])
def test_the_share_of_dropped_elements_is_the_rate(rate: float) -> None:
    mask = drop_mask(_states(stream_key(1, "law"), 1000, 50), 40, rate)
    standard_error = np.sqrt(rate * (1 - rate) / mask.size)
    assert abs(mask.mean() - rate) < 4 * standard_error


def test_rate_zero_drops_nothing() -> None:
    assert not drop_mask(_states(3, 100, 100), 30, 0.0).any()


def test_elements_are_uncorrelated_between_neighbours() -> None:
    """Between columns, rows, passes and sites, over a million pairs each."""
    passes, rows, width = 100, 100, 101
    rate = 0.3

    def of(site: str) -> np.ndarray:
        mask = drop_mask(_states(stream_key(13, site), passes, rows), width, rate)
        return (mask - rate).reshape(passes, rows, width)

    one, other = of("hid1:out"), of("hid2:out")
    pairs = [
        (one[:, :, 1:], one[:, :, :-1]),
        (one[:, :, 4:], one[:, :, :-4]),
        (one[:, 1:], one[:, :-1]),
        (one[1:], one[:-1]),
        (one[1:, :-1], one[:-1, 1:]),
        (one, other),
    ]
    for left, right in pairs:
        bound = 4 * rate * (1 - rate) / np.sqrt(left.size)
        assert abs(float((left * right).mean())) < bound


def test_counts_per_row_are_binomial() -> None:
    mask = drop_mask(_states(11, 200, 100), 20, 0.25)
    counts = np.bincount(mask.sum(axis=1), minlength=21)
    expected = stats.binom.pmf(np.arange(21), 20, 0.25) * len(mask)
    keep = expected > 5
    observed = np.append(counts[keep], counts[~keep].sum())
    wanted = np.append(expected[keep], expected[~keep].sum())
    assert stats.chisquare(observed, wanted).pvalue > 1e-4


@settings(max_examples=30)
@given(passes=st.integers(1, 6), rows=st.integers(1, 6), width=st.integers(1, 70))
def test_an_element_does_not_depend_on_how_many_others_are_drawn(
    passes: int, rows: int, width: int
) -> None:
    whole = drop_mask(_states(5, 6, 6), 70, 0.4).reshape(6, 6, 70)
    which_pass, which_row = np.divmod(np.arange(passes * rows), rows)
    part = drop_mask(row_states(5, which_pass, which_row), width, 0.4)
    assert np.array_equal(part.reshape(passes, rows, width), whole[:passes, :rows, :width])


def test_addresses_with_the_same_text_are_different_streams() -> None:
    keys = {stream_key("ab", "c"), stream_key("a", "bc"), stream_key(1), stream_key("1")}
    assert len(keys) == 4


def test_generators_are_functions_of_their_address() -> None:
    assert generator(3, "shuffle", 1).random() == generator(3, "shuffle", 1).random()
    assert generator(3, "shuffle", 1).random() != generator(3, "shuffle", 2).random()


def test_the_version_of_the_streams_is_pinned_by_known_numbers() -> None:
    """Changing a stream changes what callers asked us to repeat: then raise STREAM_VERSION."""
    assert stream_key(13, "train", 0, "hid1:out", "*:out") == 4364590454957598483
    assert drop_mask(_states(2024, 2, 2), 8, 0.5).astype(int).tolist() == [
        [1, 1, 0, 1, 1, 0, 0, 0],
        [0, 1, 0, 0, 0, 1, 1, 1],
        [0, 0, 0, 1, 0, 0, 1, 0],
        [1, 1, 0, 1, 0, 0, 0, 1],
    ]


@pytest.mark.parametrize("build", [name for name in BUILDS if name in runnable_builds()])
@pytest.mark.parametrize("rate", [0.0, 1e-9, 0.005, 0.5, 2**-16, 1 - 2**-16, 1 - 2**-33])
def test_kernels_drop_what_the_definition_drops(rate: float, build: str) -> None:
    found = find_kernels(build)
    assert found is not None
    states = row_states(stream_key(3, "a"), np.arange(40), np.arange(40) * 7)
    for width in (1, 2, 31, 33, 1023, 1025, 2500):
        dropped = drop_mask(states, width, rate)
        factors = drop_factors(found, states, width, limit=threshold(rate), scale=1.5)
        np.testing.assert_array_equal(factors, np.where(dropped, np.float32(0), np.float32(1.5)))


@pytest.mark.parametrize("build", [name for name in BUILDS if name in runnable_builds()])
def test_kernels_draw_the_normal_numbers_of_the_definition(build: str) -> None:
    found = find_kernels(build)
    assert found is not None
    states = row_states(stream_key(3, "b"), np.arange(300), np.arange(300))
    ours = normal_numbers(found, states, 333, scale=1.0)
    np.testing.assert_allclose(ours, normal_noise(states, 333), rtol=2e-7, atol=0)
