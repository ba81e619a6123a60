"""Sketches: quantiles near enough to the exact ones, whatever the order of what is added."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from engine.sketches import RELATIVE_ERROR, Sketch
from tests.thoroughness import examples

QUANTILES = (0.0, 0.001, 0.05, 0.5, 0.9, 0.999, 1.0)
samples_of = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 200), st.integers(1, 3)),
    elements=st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False)
    | st.floats(-1, 1, width=32, allow_subnormal=False),
)


def sketch_of(samples: np.ndarray, reference: np.ndarray) -> Sketch:
    sketch = Sketch(reference)
    sketch.add(samples)
    return sketch


def assert_near(samples: np.ndarray, reference: np.ndarray, sketch: Sketch) -> None:
    """Fail where a quantile is further off than the error times its distance from the reference."""
    away = samples.astype(np.float64) - reference.astype(np.float32)
    for quantile, ours in zip(QUANTILES, sketch.quantiles(QUANTILES), strict=True):
        ends = [np.quantile(away, quantile, axis=0, method=m) for m in ("lower", "higher")]
        furthest = np.maximum(*np.abs(ends))
        exact = np.quantile(away, quantile, axis=0)
        off = np.abs(ours - reference.astype(np.float32) - exact)
        # Differences are float32, and those below its normal numbers count as none.
        assert (off <= RELATIVE_ERROR * furthest + 2.0**-117).all()


@settings(max_examples=examples(50, 400), deadline=None)
@given(samples_of, st.data())
def test_quantiles_are_numpys_within_the_documented_error(
    samples: np.ndarray, data: st.DataObject
) -> None:
    chosen = data.draw(st.integers(0, len(samples) - 1))
    for reference in (samples[chosen], np.zeros(samples.shape[1]), samples.mean(axis=0)):
        assert_near(samples, reference, sketch_of(samples, reference))


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_a_hundred_thousand_normal_passes_keep_their_quantiles(offset: float) -> None:
    rng = np.random.default_rng(2)
    samples = (offset + rng.standard_normal((100_000, 3)) * [1.0, 10.0, 0.5]).astype(np.float32)
    reference = samples[:64].mean(axis=0)
    assert_near(samples, reference, sketch_of(samples, reference))


@settings(max_examples=60, deadline=None)
@given(samples_of, st.data())
def test_neither_order_nor_division_matters(samples: np.ndarray, data: st.DataObject) -> None:
    reference = samples[0]
    whole = sketch_of(samples, reference).quantiles(QUANTILES)
    order = np.array(data.draw(st.permutations(range(len(samples)))))
    cut = data.draw(st.integers(0, len(samples)))
    merged = sketch_of(samples[order[:cut]], reference)
    merged.merge(sketch_of(samples[order[cut:]], reference))
    assert np.array_equal(merged.quantiles(QUANTILES), whole)


def test_a_number_has_the_same_bits_in_any_company() -> None:
    samples = np.random.default_rng(3).standard_normal((5000, 4)).astype(np.float32) * [1, 2, 0, 9]
    whole = sketch_of(samples.astype(np.float32), samples[0]).quantiles(QUANTILES)
    for column in range(4):
        alone = samples[:, column : column + 1].astype(np.float32)
        ours = sketch_of(alone, alone[0]).quantiles(QUANTILES)
        assert np.array_equal([values[column] for values in whole], np.ravel(ours))


def test_infinite_passes_are_infinite_quantiles() -> None:
    samples = np.array([[-np.inf], [1.0], [2.0], [np.inf]], dtype=np.float32)
    low, high = sketch_of(samples, np.ones(1)).quantiles((0.0, 1.0))
    assert (low[0], high[0]) == (-np.inf, np.inf)


def test_sketches_of_other_references_do_not_add_up() -> None:
    with pytest.raises(ValueError, match="references"):
        Sketch(np.zeros(2)).merge(Sketch(np.ones(2)))
