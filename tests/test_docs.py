"""The documents: routes, events and every number worked by hand are what the code gives."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from engine.binomial_bounds import conformal_p_value
from engine.calibration import mixture_log_likelihood
from engine.class_scores import MOST_HELD
from engine.conformal import Calibration as KeptCalibration
from engine.conformal import Way
from engine.crps import passes_crps
from engine.errors import PatternError
from engine.names import match
from engine.quantiles import mixture_quantiles
from engine.ranking import EXACT_VALUES, Ranking
from engine.regularizers import resolve, sites_of
from engine.sampling import Sampler
from engine.spec import RegularizationSpec
from engine.spec.prediction import Statistic
from engine.statistics import entropy, mean_and_variance, pass_mean
from service.app import create_app
from service.settings import Settings
from service.store.job_records import OWN_EVENTS
from tests.engine.networks import graph_of, identity_network, rows_of

DOCS = Path(__file__).parent.parent / "docs"
API = (DOCS / "api.md").read_text()
DROPOUT = (DOCS / "dropout.md").read_text()
UNCERTAINTY = (DOCS / "uncertainty.md").read_text()
NETWORK = [4, 10, 10, 10, 1]


@cache
def openapi() -> dict[str, Any]:
    """Return what the service says of its interface."""
    return create_app(Settings()).openapi()


def says(page: str, *numbers: str) -> None:
    """Fail unless the page has the numbers, so that it and this file change together."""
    for number in numbers:
        assert re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", page), number


# -- the API ---------------------------------------------------------------------------------------


def test_the_guide_lists_every_route() -> None:
    paths: dict[str, dict[str, Any]] = openapi()["paths"]
    routes = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    listed = re.findall(r"^\| `([A-Z]+ /[^`]*)` \|", API, re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == routes


def test_the_guide_lists_every_event() -> None:
    section = API.split("## Events")[1].split("##")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == OWN_EVENTS | {
        "log",
        "epoch",
        "learning_rate",
        "pretrain",
        "selected",
        "variant",
    }


def test_statistics_of_a_regressor_worked_by_hand() -> None:
    says(API, "1, 2, 3, 6", "4.667", "2.160", "1.080", "8.667")
    samples = np.array([1, 2, 3, 6], dtype=np.float32)[:, None]
    mean, variance = mean_and_variance(samples)
    assert variance is not None
    assert mean == 3
    assert variance == pytest.approx(4.667, abs=5e-4)
    assert np.sqrt(variance) == pytest.approx(2.160, abs=5e-4)
    assert np.sqrt(variance) / np.sqrt(4) == pytest.approx(1.080, abs=5e-4)
    assert variance + 1 / 0.25 == pytest.approx(8.667, abs=5e-4)


def test_statistics_of_a_classifier_worked_by_hand() -> None:
    says(API, "0.6109", "0.3251", "0.6931", "0.5091", "0.1017")
    passes = np.array([[0.9, 0.1], [0.5, 0.5]])
    whole, expected = entropy(passes.mean(axis=0)), pass_mean(entropy(passes))
    assert entropy(passes) == pytest.approx([0.3251, 0.6931], abs=5e-5)
    assert whole == pytest.approx(0.6109, abs=5e-5)
    assert expected == pytest.approx(0.5091, abs=5e-5)
    assert whole - expected == pytest.approx(0.1017, abs=5e-5)
    opposed = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert entropy(opposed.mean(axis=0)) - pass_mean(entropy(opposed)) == pytest.approx(np.log(2))


def test_scores_of_an_evaluation_worked_by_hand() -> None:
    says(UNCERTAINTY, "1, 2, 3, 6", "0.5", "0.1967", "2 097 152", "33 554 432")
    crps = passes_crps(np.array([[1.0], [2.0], [3.0], [6.0]]), np.array([2.5]))
    assert crps == pytest.approx([0.5])
    ranking = Ranking()
    ranking.add(np.arange(5.0), np.array([0, 0, 1, 0, 1]))
    assert ranking.area() == pytest.approx(0.1967, abs=5e-5)
    assert (EXACT_VALUES, MOST_HELD) == (2_097_152, 33_554_432)


def test_the_law_of_a_kept_promise_worked_by_hand() -> None:
    says(UNCERTAINTY, "0.8182", "0.0182", "0.0364")
    assert pytest.approx(0.8182, abs=5e-5) == 9 / 10 * 10 / 11
    assert conformal_p_value(0, 2, rank=9, rows=9) == pytest.approx(0.0364, abs=5e-5)


def test_every_picture_is_there_and_small_and_every_one_there_is_shown() -> None:
    pages = [path.read_text() for path in DOCS.glob("*.md")]
    shown = {name for page in pages for name in re.findall(r"!\[[^]]+\]\((pictures/.+?)\)", page)}
    there = {f"pictures/{path.name}": path for path in (DOCS / "pictures").iterdir()}
    assert shown == set(there)
    assert not [name for name, path in there.items() if path.stat().st_size > 150_000]


@pytest.mark.parametrize(
    "answer",
    [
        "PredictionView",
        "ExplanationView",
        "ExplanationSite",
        "OutsideView",
        "RankingView",
        "RankedRow",
        "EvaluationView",
        "IntervalScore",
        "CalibratedScore",
        "Calibration",
        "ReliabilityBin",
        "UncertaintyScore",
        "RiskCoverage",
        "OtherRowsScore",
    ],
)
def test_every_field_of_an_answer_is_explained(answer: str) -> None:
    schemas = openapi()["components"]["schemas"]
    missing = [name for name in schemas[answer]["properties"] if f"`{name}`" not in UNCERTAINTY]
    assert not missing


def test_every_statistic_and_part_of_a_calibration_is_explained() -> None:
    names = {*get_args(Statistic), *KeptCalibration.model_fields, *Way.model_fields}
    assert not [name for name in names if f"`{name}`" not in UNCERTAINTY]


def test_the_log_likelihood_is_the_formula() -> None:
    samples, truth, tau = np.array([1.0, 2.0, 3.0, 6.0]), 2.5, 0.25
    densities = np.sqrt(tau / (2 * np.pi)) * np.exp(-tau * (truth - samples) ** 2 / 2)
    value = mixture_log_likelihood(samples[:, None], np.array([truth]), tau)
    assert value == pytest.approx(np.log(densities.mean()))


def test_predictive_quantiles_are_those_of_the_mixture() -> None:
    rng = np.random.default_rng(5)
    passes = np.array([1.0, 2.0, 3.0, 6.0])
    draws = rng.choice(passes, 400_000) + rng.normal(size=400_000) / np.sqrt(0.25)
    found = mixture_quantiles(passes[:, None, None], np.array([0.25]), (0.05, 0.95))
    for quantile, value in zip((0.05, 0.95), found, strict=True):
        below = float((draws < value).mean())
        assert abs(below - quantile) < 4 * np.sqrt(0.05 * 0.95 / len(draws))


# -- dropout ---------------------------------------------------------------------------------------


def test_the_outputs_listed_are_those_of_the_network() -> None:
    graph = graph_of(NETWORK)
    assert "    " + "  ".join(graph.outputs) + "\n" in DROPOUT


def test_patterns_match_what_the_table_says() -> None:
    outputs = graph_of(NETWORK).outputs
    hidden = ("hid1", "hid2", "hid3")
    expected = {
        "hid[23]:out": ("hid2:out", "hid3:out"),
        "in:out": ("in:out",),
        "*:out": ("in:out", *(f"{name}:out" for name in hidden), "out:out"),
        "hid?:*": tuple(f"{name}:{kind}" for name in hidden for kind in ("pre", "out")),
    }
    for pattern, names in expected.items():
        says(DROPOUT, f"`{pattern}`")
        assert match(pattern, outputs, kind="output", pointer="#") == names
    says(DROPOUT, "`hid4:out`")
    with pytest.raises(PatternError, match="hid3:out"):
        match("hid4:out", outputs, kind="output", pointer="#")


@pytest.mark.parametrize(("rate", "survivor", "variance"), [(0.2, 5.0, 4.0), (0.5, 8.0, 16.0)])
def test_masks_scale_and_spread_as_worked_by_hand(
    rate: float, survivor: float, variance: float
) -> None:
    says(DROPOUT, "4² · 0.2 / 0.8 = 4", "16 for p = 0.5", "becomes 5 in four passes of five")
    passes = 40_000
    regularizers = resolve(RegularizationSpec(hidden_dropout=rate), identity_network(1).graph)
    sampler = Sampler(identity_network(1), regularizers[:1], wanted=("hid1:out",), seed=3)
    x, row = np.full((1, 1), 4.0, dtype=np.float32), np.zeros(1, dtype=np.int64)
    values = sampler.samples(rows_of(x), row, np.arange(passes))["hid1:out"].ravel()
    assert set(np.unique(values)) == {0.0, np.float32(survivor)}
    assert abs(values.mean() - 4) < 4 * np.sqrt(variance / passes)
    assert (values == 0).mean() * (1 - (values == 0).mean()) * survivor**2 == pytest.approx(
        variance, rel=0.05
    )


def test_overlapping_patterns_compound_as_worked_by_hand() -> None:
    says(DROPOUT, "0.9 · 0.5 = 0.45", "1/0.9 · 1/0.5 = 2.22", "1.11")
    spec = RegularizationSpec(dropout={"hid*:out": 0.1, "hid2:out": 0.5})
    sites = sites_of(resolve(spec, graph_of(NETWORK)))
    assert [site.level for site in sites["hid2:out"]] == [0.1, 0.5]
    assert np.prod([1 - site.level for site in sites["hid2:out"]]) == pytest.approx(0.45)
    assert np.prod([1 / (1 - site.level) for site in sites["hid2:out"]]) == pytest.approx(
        2.22, abs=5e-3
    )
    assert [1 / (1 - site.level) for site in sites["hid1:out"]] == [pytest.approx(1.11, abs=5e-3)]


def test_what_is_asked_for_acts_in_the_order_that_is_written() -> None:
    spec = RegularizationSpec.model_validate(
        {
            "regularizers": [{"form": "bernoulli_dropout", "pattern": "*:out", "weight": 0.5}],
            "dropout": {"hid2:out": 0.4, "hid*:out": 0.3},
            "output_dropout": 0.2,
            "hidden_dropout": 0.1,
            "input_dropout": 0.05,
        }
    )
    sites = sites_of(resolve(spec, graph_of(NETWORK)))
    assert [site.level for site in sites["in:out"]] == [0.05, 0.5]
    assert [site.level for site in sites["hid2:out"]] == [0.1, 0.4, 0.3, 0.5]
    assert [site.level for site in sites["out:out"]] == [0.2, 0.5]
