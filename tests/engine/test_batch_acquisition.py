"""BatchBALD: each next row adds most to what the labels of all tell of the passes."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest

from engine import batch_acquisition
from engine.batch_acquisition import choose

Shares = npt.NDArray[np.float32]


def random_shares(passes: int, rows: int, classes: int, seed: int = 0) -> Shares:
    rng = np.random.default_rng(seed)
    logits = 2 * rng.standard_normal((passes, rows, classes))
    shares = np.exp(logits)
    shares /= shares.sum(axis=2, keepdims=True)
    return shares.astype(np.float32)


def information(shares: Shares, rows: tuple[int, ...]) -> float:
    """I(labels; pass) by summing over all labels of the rows."""
    given = shares.astype(np.float64)
    total = 0.0
    for labels in itertools.product(range(shares.shape[2]), repeat=len(rows)):
        of_pass = np.prod(
            [given[:, row, label] for row, label in zip(rows, labels, strict=True)], axis=0
        )
        joint = of_pass.mean()
        total -= joint * np.log(joint)
        total += (of_pass * np.log(of_pass)).mean()
    return total


@pytest.mark.parametrize(("passes", "rows", "classes"), [(3, 5, 2), (7, 4, 3), (2, 6, 4)])
def test_gains_add_up_to_the_information_of_all_labels(
    passes: int, rows: int, classes: int
) -> None:
    shares = random_shares(passes, rows, classes)
    chosen = list(choose(shares, 4, seed=0))
    assert all(each.is_exact for each in chosen)
    for count in range(1, 5):
        batch = tuple(each.index for each in chosen[:count])
        gained = sum(each.gain for each in chosen[:count])
        assert gained == pytest.approx(information(shares, batch), abs=1e-6)
        before = batch[:-1]
        others = [information(shares, (*before, row)) for row in set(range(rows)) - set(before)]
        assert information(shares, batch) == pytest.approx(max(others), abs=1e-6)


def test_a_row_like_one_that_was_chosen_tells_less_the_second_time() -> None:
    one = random_shares(20, 1, 2, seed=1)
    other = random_shares(20, 1, 2, seed=2)
    shares = np.concatenate([one, one, one, other], axis=1)
    first, second, *_ = choose(shares, 4, seed=0)
    alone = [information(shares, (row,)) for row in range(4)]
    if first.index < 3:
        assert second.index == 3
    else:
        assert second.index == 0
    assert first.gain == pytest.approx(max(alone), abs=1e-6)
    gains = [each.gain for each in choose(shares, 4, seed=0)]
    assert gains == sorted(gains, reverse=True)


def test_passes_that_agree_tell_nothing() -> None:
    shares = np.repeat(random_shares(1, 3, 3), 5, axis=0)
    assert [each.gain for each in choose(shares, 3, seed=0)] == pytest.approx([0, 0, 0], abs=1e-7)


def test_labels_that_are_drawn_come_to_what_all_labels_do(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = random_shares(9, 8, 3)
    exact = list(choose(shares, 5, seed=0))
    monkeypatch.setattr(batch_acquisition, "CONFIGURATIONS", 80)
    runs = [list(choose(shares[:, [each.index for each in exact]], 5, seed=s)) for s in range(60)]
    assert [each.is_exact for each in runs[0]] == [True, True, True, True, False]
    own = [sum(each.gain for each in run) for run in runs]
    error = np.std(own, ddof=1) / np.sqrt(len(own))
    # The best of noisy gains is a little too good, so that the first batch alone is compared.
    whole = sum(each.gain for each in exact)
    assert abs(np.mean(own) - whole) < 5 * error + 1e-3
    again = list(choose(shares, 5, seed=3))
    assert again == list(choose(shares, 5, seed=3))


def test_the_work_can_be_stopped() -> None:
    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        list(choose(random_shares(3, 4, 2), 2, seed=0, go_on=stop))
