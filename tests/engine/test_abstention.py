"""Abstention: rows are marked where what is said of them is beyond a threshold, and only there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engine.artifact import Model
from engine.batching import run_together
from engine.data.encoding import Encoding
from engine.ensembles import plan_model
from engine.errors import SpecError
from engine.spec import PredictSpec
from tests.engine.networks import random_network, rows_of
from tests.engine.test_prediction import IDS, ROWS, answer, classifier, planned, regressor

MEASURED = ("entropy", "expected_entropy", "mutual_information", "variation_ratio")


def autoencoder() -> Model:
    network = random_network([4, 6, 4], form="autoencoder", seed=3)
    encoding = Encoding.identity({"in": (4,)}, (4,), "autoencoder")
    return Model(network=network, encoding=encoding, trained=(), noise_precision=None)


def recurrent(form: str) -> Model:
    layers = [{"size": 3, "shape": [5, 3], "form": "input"}, [6, "rnn"], 2]
    network = random_network(layers, form=form, seed=4)
    encoding = Encoding.identity({"in": (5, 3)}, network.graph.last.shape, network.graph.form)
    return Model(network=network, encoding=encoding, trained=(), noise_precision=None)


SEQUENCES = np.random.default_rng(2).standard_normal((7, 5, 3)).astype(np.float32)


def of_sequences(form: str, **request: Any) -> dict[str, Any]:
    request = {"hidden_dropout": 0.5, "num_samples": 20} | request
    return planned(recurrent(form), **request).run(rows_of(SEQUENCES), np.arange(7))


@pytest.mark.parametrize("name", MEASURED)
def test_a_row_is_marked_where_its_statistic_is_above_the_threshold(name: str) -> None:
    found = answer(classifier(), num_samples=40, statistics=[name])[name]
    threshold = float(np.sort(found)[len(found) // 2])
    marked = answer(classifier(), num_samples=40, abstain={name: threshold})["abstain"]
    assert marked.dtype == np.bool_
    assert marked.tolist() == (found > threshold).tolist()
    assert not marked.all()


def test_a_row_is_marked_where_no_class_is_probable_enough() -> None:
    likeliest = answer(classifier(), num_samples=40)["probabilities"].max(axis=1)
    threshold = float(np.median(likeliest))
    marked = answer(classifier(), num_samples=40, abstain={"probability": threshold})["abstain"]
    assert marked.tolist() == (likeliest < threshold).tolist()


def test_a_row_is_marked_beyond_any_threshold() -> None:
    found = answer(classifier(), num_samples=40)
    limits = {name: float(np.quantile(found[name], 0.8)) for name in ("entropy", "variation_ratio")}
    marked = answer(classifier(), num_samples=40, abstain=limits)["abstain"]
    either = np.any([found[name] > limit for name, limit in limits.items()], axis=0)
    assert marked.tolist() == either.tolist()
    assert 0 < marked.sum() < len(marked)


def test_what_marks_need_not_be_reported_and_changes_no_other_number() -> None:
    asked: dict[str, Any] = {"num_samples": 40, "statistics": ["label", "std"]}
    plain = answer(classifier(), **asked)
    marked = answer(classifier(), **asked, abstain={"mutual_information": 0.1})
    assert list(marked) == ["label", "std", "abstain"]
    assert all(np.array_equal(plain[name], marked[name]) for name in plain)


def test_the_deviations_of_all_targets_count_in_their_own_units() -> None:
    model = regressor({"hidden_dropout": 0.5})
    std = answer(model, num_samples=30, statistics=["std"])["std"]
    limit = float(np.median(std[:, 1]))
    either = answer(model, num_samples=30, abstain={"std": limit})["abstain"]
    assert either.tolist() == (std > limit).any(axis=1).tolist()
    one = answer(model, num_samples=30, abstain={"std": {"size": limit}})["abstain"]
    assert one.tolist() == (std[:, 1] > limit).tolist()


def test_the_noise_counts_in_the_predictive_deviation() -> None:
    model = regressor({"hidden_dropout": 0.5}, tau=4.0)
    total = np.sqrt(answer(model, num_samples=30)["variance"]["total"])
    limit = float(np.median(total[:, 0]))
    asked: dict[str, Any] = {
        "abstain": {"predictive_std": {"price": limit}},
        "statistics": ["mean"],
    }
    marked = answer(model, num_samples=30, **asked)["abstain"]
    assert marked.tolist() == (total[:, 0] > limit).tolist()


def test_one_pass_is_marked_by_what_it_has() -> None:
    shares = answer(classifier())["probabilities"].astype(np.float64)
    entropy = -(shares * np.log(shares)).sum(axis=1)
    limit = float(np.median(entropy))
    marked = answer(classifier(), abstain={"entropy": limit})
    assert list(marked) == ["prediction", "label", "probabilities", "abstain"]
    assert marked["abstain"].sum() == (entropy > limit * (1 + 1e-6)).sum()
    model = autoencoder()
    errors = ((answer(model)["prediction"] - ROWS) ** 2).mean(axis=1)
    limit = float(np.median(errors))
    marks = answer(model, abstain={"reconstruction_error": limit})["abstain"]
    assert marks.tolist() == (errors > limit).tolist()


def test_sequences_are_marked_step_by_step() -> None:
    entropy = of_sequences("classifier")["entropy"]
    marked = of_sequences("classifier", abstain={"entropy": 0.6})["abstain"]
    assert marked.shape == (7, 5)
    assert marked.tolist() == (entropy > 0.6).tolist()
    std = of_sequences("regressor")["std"]
    limit = float(np.median(std))
    marked = of_sequences("regressor", abstain={"std": limit})["abstain"]
    assert marked.tolist() == (std > limit).any(axis=2).tolist()


def test_a_row_of_which_nothing_is_known_is_marked() -> None:
    rows = ROWS.copy()
    rows[2] = 3e38  # whose passes are infinite, and their deviation is no number
    plan = planned(regressor(), hidden_dropout=0.5, num_samples=40, abstain={"std": 1e9})
    with np.errstate(all="ignore"):
        found = plan.run(rows_of(rows), IDS)
    assert np.isnan(found["std"][2]).any()
    assert np.flatnonzero(found["abstain"]).tolist() == [2]


def test_images_are_marked_as_wholes() -> None:
    network = random_network(
        [{"size": 1, "shape": [1, 4, 4]}, {"form": "conv2", "size": 2, "filter_size": 3}]
    )
    shape = network.graph.last.shape
    encoding = Encoding.identity({"in": (1, 4, 4)}, shape, "regressor")
    model = Model(network=network, encoding=encoding, trained=(), noise_precision=None)
    images = rows_of(np.random.default_rng(0).standard_normal((6, 1, 4, 4)).astype(np.float32))
    asked: dict[str, Any] = {"input_dropout": 0.5, "num_samples": 10}
    std = planned(model, **asked).run(images, np.arange(6))["std"]
    limit = float(np.median(std.reshape(6, -1).max(axis=1)))
    marked = planned(model, **asked, abstain={"std": limit}).run(images, np.arange(6))["abstain"]
    assert marked.tolist() == (std.reshape(6, -1) > limit).any(axis=1).tolist()


def test_marks_are_the_same_however_rows_are_put_together() -> None:
    model = classifier()
    asked: dict[str, Any] = {"num_samples": 70, "abstain": {"mutual_information": 0.1}}
    alone = [planned(model, seed, **asked).run(rows_of(ROWS), IDS) for seed in (1, 2)]
    plans = [planned(model, seed, **asked) for seed in (1, 2)]
    together = run_together(plans, [rows_of(ROWS)] * 2, [IDS] * 2)
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one["abstain"], other["abstain"])
    differs = planned(model, 1, num_samples=70, abstain={"mutual_information": 0.2})
    assert differs.batch_key != plans[0].batch_key != planned(model, 1, num_samples=70).batch_key


def test_marks_follow_the_estimate_as_it_sharpens() -> None:
    plan = planned(classifier(), num_samples=200, abstain={"mutual_information": 0.1})
    for estimate in plan.estimates(rows_of(ROWS), IDS):
        above = estimate.outputs["mutual_information"] > 0.1
        assert estimate.outputs["abstain"].tolist() == above.tolist()


def test_the_marks_of_an_ensemble_are_those_of_all_passes() -> None:
    one, other = classifier(), classifier()
    members = (one, replace(other, network=random_network([4, 9, 3], form="classifier", seed=2)))
    model = replace(one, members=members)

    def ran(**request: Any) -> dict[str, Any]:
        spec = PredictSpec.model_validate({"hidden_dropout": 0.5, **request})
        return plan_model(model, spec, seed=3).run(rows_of(ROWS), IDS)

    found = ran(num_samples=2)["mutual_information"]
    # Log 3 is what four passes can reach; two, one of each member, reach log 2 at the most.
    marked = ran(num_samples=2, abstain={"mutual_information": 0.2})["abstain"]
    assert marked.tolist() == (found > 0.2).tolist()
    assert ran(num_samples=2, abstain={"mutual_information": 1.0})["abstain"].shape == (11,)
    assert not ran(abstain={"entropy": 1.09})["abstain"].all()
    with pytest.raises(SpecError, match=r"2 passes `mutual_information` is 0\.693147"):
        ran(num_samples=1, abstain={"mutual_information": 0.7})


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"num_samples": 9, "abstain": {"std": 1.0}}, "#/abstain/std", "a classifier has no 'std'"),
    (
        {"abstain": {"mutual_information": 0.1}},
        "#/abstain/mutual_information",
        "give `num_samples`",
    ),
    ({"abstain": {"entropy": 1.1}}, "#/abstain/entropy", "1.09861 at the most"),
    (
        {"num_samples": 2, "abstain": {"mutual_information": 0.7}},
        "#/abstain/mutual_information",
        "0.693147 at the most",
    ),
    (
        {"num_samples": 4, "abstain": {"variation_ratio": 0.5}},
        "#/abstain/variation_ratio",
        "0.5 at the most",
    ),
    ({"abstain": {"probability": 0.3}}, "#/abstain/probability", "0.333333 at the least"),
]


@pytest.mark.parametrize(("request_", "pointer", "said"), REFUSED)
def test_thresholds_that_nothing_can_be_beyond_are_refused(
    request_: dict[str, Any], pointer: str, said: str
) -> None:
    with pytest.raises(SpecError, match=said) as refused:
        planned(classifier(), **request_)
    assert refused.value.pointer == pointer


@pytest.mark.parametrize(
    ("request_", "pointer"),
    [
        ({"num_samples": 5, "abstain": {"entropy": 0.5}}, "#/abstain/entropy"),
        (
            {"num_samples": 5, "abstain": {"reconstruction_error": 1}},
            "#/abstain/reconstruction_error",
        ),
        ({"num_samples": 5, "abstain": {"predictive_std": 1}}, "#/abstain/predictive_std"),
        ({"num_samples": 5, "abstain": {"std": {"cost": 1}}}, "#/abstain/std/cost"),
        ({"num_samples": 1, "abstain": {"std": 1}}, "#/abstain/std"),
        ({"abstain": {"std": 1}}, "#/abstain/std"),
    ],
)
def test_thresholds_of_what_a_regressor_has_not_are_refused(
    request_: dict[str, Any], pointer: str
) -> None:
    with pytest.raises(SpecError) as refused:
        planned(regressor({"hidden_dropout": 0.5}, tau=None), **request_)
    assert refused.value.pointer == pointer


def test_a_code_has_no_reconstruction_to_abstain_by() -> None:
    asked: dict[str, Any] = {"start": "hid1", "abstain": {"reconstruction_error": 1.0}}
    with pytest.raises(SpecError, match="behind the inputs"):
        planned(autoencoder(), **asked)
