"""Track records: sums that no cut changes, windows that forget, and departures from a promise."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from scipy import stats

from engine.conformal import rank_of
from engine.track_record import STRETCH_ROWS, WINDOW, Promise, Scores, TrackRecord

START = datetime(2026, 1, 1, tzinfo=UTC)
PROMISE = Promise(level=0.9, rows=500, is_of_rows=True)


def scores(rows: int, targets: int = 1, seed: int = 1, covered: float = 0.9) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    shape = (rows, targets)
    return {
        "squares": rng.random(shape),
        "absolute": rng.random(shape),
        "logs": rng.standard_normal(shape),
        "covered": (rng.random(shape) < covered).astype(float),
        "size": rng.random(shape),
    }


def record(targets: int = 1, promise: Promise | None = PROMISE) -> TrackRecord:
    names = tuple(f"t{index}" for index in range(targets))
    return TrackRecord(targets=names, is_of_classes=False, promise=promise)


def part(given: Scores, first: int, last: int) -> Scores:
    return {name: values[first:last] for name, values in given.items()}


def after(given: Scores, *cuts: int, own: TrackRecord | None = None) -> TrackRecord:
    """Add rows as by so many requests, an hour apart."""
    own = own or record()
    count = len(given["squares"])
    bounds = (0, *cuts, count)
    for hour, (first, last) in enumerate(pairwise(bounds)):
        own = own.added(part(given, first, last), START + timedelta(hours=hour))
    return own


def test_totals_are_the_means_over_all_rows() -> None:
    given = scores(257)
    told = after(given, 3, 130).described()["totals"]
    assert (told["rows"], told["unscored"]) == (257, 0)
    assert told["rmse"] == pytest.approx(given["squares"].mean() ** 0.5)
    assert told["mae"] == pytest.approx(given["absolute"].mean())
    assert told["log_likelihood"] == pytest.approx(given["logs"].mean())
    interval = told["interval"]
    assert interval["coverage"] == pytest.approx(given["covered"].mean())
    assert interval["width"] == pytest.approx(given["size"].mean())
    assert interval["level"] == 0.9
    assert told["targets"] is None
    assert (told["since"], told["until"]) == (START, START + timedelta(hours=2))


@pytest.mark.parametrize("cuts", [(), (1,), (100,), (99, 101, 300), tuple(range(7, 2500, 7))])
def test_requests_do_not_change_how_rows_are_divided(cuts: tuple[int, ...]) -> None:
    given = scores(2550)
    history = after(given, *cuts).described()["history"]
    assert [own["rows"] for own in history] == [STRETCH_ROWS] * 25 + [50]
    for index, own in enumerate(history):
        rows = slice(index * STRETCH_ROWS, (index + 1) * STRETCH_ROWS)
        assert own["coverage"] == pytest.approx(given["covered"][rows].mean())
        assert own["rmse"] == pytest.approx(given["squares"][rows].mean() ** 0.5)


def test_the_latest_rows_forget_the_others() -> None:
    given = scores(5050)
    told = after(given, 900).described()["recent"]
    assert told["rows"] == (WINDOW - 1) * STRETCH_ROWS + 50
    assert told["mae"] == pytest.approx(given["absolute"][-told["rows"] :].mean())


def test_a_record_is_bounded_and_loses_no_row() -> None:
    own = record()
    for seed in range(5):
        own = own.added(scores(30_000, seed=seed), START)
        sizes = [stretch.rows for stretch in own.stretches]
        assert own.whole is not None
        assert sum(sizes) == own.whole.rows == 30_000 * (seed + 1)
        assert len(sizes) <= 400
        assert sizes[-WINDOW:] == [STRETCH_ROWS] * WINDOW
    wide = record(1000).added(scores(4000, 1000), START)
    assert len(wide.stretches) <= 2 * WINDOW
    assert TrackRecord.model_validate_json(wide.model_dump_json()) == wide


def test_it_goes_on_from_what_was_stored() -> None:
    given = scores(330)
    first = after(part(given, 0, 170))
    stored = TrackRecord.model_validate(first.model_dump(mode="json"))
    assert after(part(given, 170, 330), own=stored) == after(part(given, 170, 330), own=first)


def test_departures_are_by_the_exact_laws() -> None:
    given = scores(400, covered=0.8)
    told = after(given).described()
    interval, count = told["totals"]["interval"], int(given["covered"].sum())
    bounds = stats.binomtest(count, 400).proportion_ci(0.99)
    assert (interval["lower"], interval["upper"]) == pytest.approx((bounds.low, bounds.high))
    assert interval["differs"] is True
    rank = rank_of(500, 0.9)
    law = stats.betabinom(400, rank, 501 - rank)
    assert interval["p_value"] == pytest.approx(2 * law.cdf(count), rel=1e-6)
    assert interval["drifted"] is True
    assert any("fewer than the 90.0% that is promised" in text for text in told["warnings"])


def test_few_calibration_rows_account_for_a_difference_that_is_no_drift() -> None:
    few = record(promise=Promise(level=0.9, rows=19, is_of_rows=True))
    told = after(scores(2000, covered=0.8), own=few).described()
    interval = told["totals"]["interval"]
    assert (interval["differs"], interval["drifted"]) == (True, False)
    assert any("may account for" in text for text in told["warnings"])


def test_what_keeps_its_promise_is_not_warned_of() -> None:
    told = after(scores(400)).described()
    assert (told["totals"]["interval"]["differs"], told["warnings"]) == (False, [])


def test_each_of_several_targets_has_its_own_share_of_the_chance() -> None:
    given = scores(400, 2)
    given["covered"][:, 1] = (np.random.default_rng(2).random(400) < 0.7).astype(float)
    told = after(given, own=record(2)).described()["totals"]
    assert told["rmse"] == pytest.approx(np.sqrt(given["squares"].mean(axis=0)).mean())
    whole, (first, second) = told["interval"], told["targets"].values()
    assert (whole["lower"], whole["p_value"]) == (None, None)
    assert (first["differs"], second["differs"], whole["differs"]) == (False, True, True)
    count = int(given["covered"][:, 0].sum())
    bounds = stats.binomtest(count, 400).proportion_ci(0.995)
    assert (first["lower"], first["upper"]) == pytest.approx((bounds.low, bounds.high))


def test_steps_that_hang_together_have_no_bounds() -> None:
    own = record(promise=Promise(level=0.9, rows=500, is_of_rows=False))
    told = after(scores(50, covered=0.2), own=own).described()
    interval = told["totals"]["interval"]
    assert [interval[name] for name in ("lower", "upper", "differs", "drifted")] == [None] * 4
    assert any("no bounds" in text for text in told["warnings"])


def test_without_a_calibration_nothing_is_promised() -> None:
    given = scores(10)
    del given["covered"], given["size"]
    told = after(given, own=record(promise=None)).described()
    assert told["totals"]["interval"] is None
    assert told["history"][0]["coverage"] is None
    assert any("not calibrated" in text for text in told["warnings"])


def test_rows_whose_scores_are_not_finite_count_for_nothing() -> None:
    given = scores(6)
    given["squares"][2] = np.inf
    given["logs"][4] = np.nan
    told = after(given).described()
    assert (told["totals"]["rows"], told["totals"]["unscored"]) == (4, 2)
    assert told["totals"]["mae"] == pytest.approx(given["absolute"][[0, 1, 3, 5]].mean())
    none = after({name: np.full((2, 1), np.nan) for name in given}).described()["totals"]
    assert (none["rows"], none["rmse"], none["interval"]) == (0, None, None)


def test_a_classifier_has_its_own_scores() -> None:
    rng = np.random.default_rng(3)
    given = {name: rng.random((50, 1)) for name in ("right", "brier", "covered", "size")}
    given["logs"] = -rng.random((50, 1))
    given["covered"] = np.ones((50, 1))
    own = TrackRecord(targets=("kind",), is_of_classes=True, promise=PROMISE)
    told = own.added(given, START).described()["totals"]
    assert told["accuracy"] == pytest.approx(given["right"].mean())
    assert told["log_loss"] == pytest.approx(-given["logs"].mean()) == -told["log_likelihood"]
    assert told["brier"] == pytest.approx(given["brier"].mean())
    assert told["set"]["size"] == pytest.approx(given["size"].mean())
    assert told["set"]["upper"] == 1.0
    assert "interval" not in told
