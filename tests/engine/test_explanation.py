"""Explanations: what each site does to the variance alone, by the masks that it has in company."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engine.artifact import Model
from engine.data.encoding import Encoding, Scaled
from engine.ensembles import plan_model
from engine.errors import SpecError
from engine.explanation import Explanation, plan_explanation
from engine.network import Network
from engine.regularizers import resolve
from engine.spec import PredictSpec, RegularizationSpec
from engine.statistics import entropy
from tests.engine.networks import graph_of, random_network, rows_of
from tests.engine.test_prediction import IDS, ROWS, classifier, planned, regressor

SCALE = 3.0
PASSES = 4000
X = np.array([[1.0, -2.0, 0.5], [0.3, 0.0, 2.0]], dtype=np.float32)
A = np.array([2.0, 1.0, -1.0])
B = np.array([0.5, -1.5, 1.0])


def sum_of_branches() -> Model:
    """y = SCALE (a . u + b . v), where u and v are two linear layers that pass the inputs on."""
    linear = {"size": 3, "activation": "linear", "inputs": "in"}
    layers: list[Any] = [3, {**linear, "name": "u"}, {**linear, "name": "v"}]
    layers += [{"size": 1, "activation": "linear", "inputs": ["u", "v"]}]
    graph = graph_of(layers)
    values: dict[str, Any] = {}
    for name, shape in graph.parameters.items():
        layer, _, parameter = name.partition(".")
        if layer in ("u", "v"):
            values[name] = np.eye(3) if len(shape) == 2 else np.zeros(3)
        elif len(shape) == 2:
            values[name] = (A if parameter.startswith("w_u") else B).reshape(3, 1)
        else:
            values[name] = np.zeros(1)
    network = Network(graph, {name: value.astype(np.float32) for name, value in values.items()})
    encoding = Encoding(
        kind="table",
        form="regressor",
        inputs=tuple(Scaled(name=f"x{i}") for i in range(3)),
        targets=(Scaled(name="y", mean=7.0, scale=SCALE),),
    )
    return Model(network=network, encoding=encoding, trained=(), noise_precision=None)


def explained(model: Model, x: Any = X, **request: Any) -> dict[str, Any]:
    plan = planned(model, **request)
    rows = rows_of(x)
    ids = np.arange(len(x))
    found = plan.run(rows, ids)
    passes = plan.passes
    return plan_explanation(plan).run(rows, ids, found, passes=passes)


def test_sites_on_terms_of_a_sum_account_for_the_variance_of_each() -> None:
    model = sum_of_branches()
    request: dict[str, Any] = {"dropout": {"u:out": 0.5, "v:out": 0.2}, "noise": {"out:out": 0.7}}
    found = explained(model, num_samples=PASSES, **request)
    branch_u, branch_v, noise = found["sites"]
    expected = [
        SCALE**2 * (A * X) ** 2 @ np.ones(3) * (0.5 / 0.5),
        SCALE**2 * (B * X) ** 2 @ np.ones(3) * (0.2 / 0.8),
        np.full(2, (SCALE * 0.7) ** 2),
    ]
    for site, variance in zip((branch_u, branch_v, noise), expected, strict=True):
        # The relative error of a sample variance is about sqrt((kurtosis - 1) / T), at most.
        assert site["variance"][:, 0] == pytest.approx(variance, rel=6 * np.sqrt(2 / PASSES))
    total = np.add.reduce(expected)
    assert found["variance"][:, 0] == pytest.approx(total, rel=6 * np.sqrt(2 / PASSES))
    # Independent terms have no covariance; that of T passes is within its standard error of 0.
    pairs = [(0, 1), (0, 2), (1, 2)]
    error = 2 * np.sqrt(sum(expected[i] * expected[j] for i, j in pairs) / PASSES)
    assert (np.abs(found["interaction"]["variance"][:, 0]) < 5 * error).all()
    assert [site["site"] for site in found["sites"]] == ["u:out", "v:out", "out:out"]
    assert [site["kind"] for site in found["sites"]] == ["dropout", "dropout", "noise"]
    assert [site["level"] for site in found["sites"]] == [0.5, 0.2, 0.7]


def test_shares_and_the_interaction_add_up_to_one() -> None:
    model = regressor()
    found = explained(model, ROWS, input_dropout=0.3, hidden_dropout=0.5, num_samples=50)
    shares = sum(site["share"] for site in found["sites"]) + found["interaction"]["share"]
    assert shares == pytest.approx(np.ones((11, 2)))
    assert np.abs(found["interaction"]["share"]).max() > 1e-3


def test_one_site_accounts_for_all_with_the_masks_of_the_prediction() -> None:
    for masks in ("independent", "shared"):
        request: dict[str, Any] = {"hidden_dropout": 0.5, "num_samples": 20, "masks": masks}
        found = explained(regressor(), ROWS, **request)
        (site,) = found["sites"]
        assert np.array_equal(site["variance"], found["variance"])
        assert not found["interaction"]["variance"].any()


def test_sites_of_one_address_keep_their_own_masks() -> None:
    twice = [{"form": "bernoulli_dropout", "pattern": "hid1:out", "weight": 0.5}] * 2
    model, rows = regressor(), rows_of(ROWS)
    plan = planned(model, regularizers=twice, num_samples=20)
    first, second = plan_explanation(plan).run(rows, IDS, {}, passes=20)["sites"]
    alone = planned(model, regularizers=twice[:1], num_samples=20).run(rows, IDS)["std"] ** 2
    assert np.array_equal(first["variance"], alone)
    assert not np.array_equal(second["variance"], alone)


def test_a_site_that_nothing_reads_accounts_for_nothing() -> None:
    asked: dict[str, Any] = {"dropout": {"hid1:out": 0.5, "hid1:pre": 0.5}, "num_samples": 20}
    read, unread = explained(regressor(), ROWS, **asked)["sites"]
    assert not unread["variance"].any()
    assert (read["share"] == 1).all()


def test_the_variance_of_a_classifier_is_that_of_its_probabilities() -> None:
    plan = planned(classifier(), hidden_dropout=0.5, input_dropout=0.1, num_samples=30)
    explanation: Explanation = plan_explanation(plan)
    rows = rows_of(ROWS)
    found = explanation.run(rows, IDS, {"label": IDS}, passes=30)
    assert np.array_equal(found["variance"], plan.run(rows, IDS)["std"] ** 2)
    assert found["variance"].shape == (11, 3)
    assert explanation.cost(11) >= 3 * plan.cost(11)[0]


def test_weights_that_are_dropped_are_sites_too() -> None:
    dropped = [{"form": "drop_connect", "pattern": "hid1.w", "weight": 0.3}]
    found = explained(regressor(), ROWS, regularizers=dropped, hidden_dropout=0.2, num_samples=20)
    assert [site["site"] for site in found["sites"]] == ["hid1:out", "hid1.w"]
    assert [site["kind"] for site in found["sites"]] == ["dropout", "drop_connect"]


def together(model: Model, *others: Network) -> Model:
    """An ensemble of networks of the same shape."""
    members = tuple(replace(model, network=own) for own in (model.network, *others))
    return replace(model, members=members)


def drawn(model: Model, **request: Any) -> Any:
    """The passes of each member, (members, passes, rows, *outputs), by one request alone."""
    asked = PredictSpec.model_validate({**request, "statistics": ["samples"]})
    samples = plan_model(model, asked, seed=5).run(rows_of(ROWS), IDS)["samples"]
    count = len(model.members)
    return np.stack([samples[member::count] for member in range(count)]).astype(np.float64)


OTHERS = [random_network([4, 30, 2], seed=seed) for seed in (9, 10)]
BOTH: dict[str, Any] = {"input_dropout": 0.3, "hidden_dropout": 0.5}


def test_members_and_the_sites_within_them_share_an_ensembles_variance() -> None:
    model, passes = together(regressor(), *OTHERS), 40
    plan = plan_model(model, PredictSpec.model_validate({**BOTH, "num_samples": passes}), seed=5)
    found = plan_explanation(plan).run(rows_of(ROWS), IDS, {}, passes=passes)
    freedom = 3 * passes - 1
    samples = drawn(model, **BOTH, num_samples=passes)
    whole = samples.reshape(-1, *samples.shape[2:]).var(axis=0, ddof=1)
    assert found["variance"] == pytest.approx(whole, rel=1e-5)
    for site, (name, rate) in zip(found["sites"], BOTH.items(), strict=True):
        alone = drawn(model, **{name: rate}, num_samples=passes)
        within = (alone - alone.mean(axis=1, keepdims=True)) ** 2
        expected = within.sum(axis=(0, 1)) / freedom
        assert site["variance"] == pytest.approx(expected, rel=1e-4)
        assert site["level"] == rate
    plain = drawn(model, input_dropout=0.0, num_samples=1)[:, 0]
    apart = passes * ((plain - plain.mean(axis=0)) ** 2).sum(axis=0) / freedom
    assert found["members"]["variance"] == pytest.approx(apart, rel=1e-4)
    parts = (*found["sites"], found["members"], found["interaction"])
    assert sum(part["share"] for part in parts) == pytest.approx(np.ones((11, 2)))


def test_members_that_drop_nothing_account_for_all() -> None:
    model = together(regressor(), *OTHERS)
    plan = plan_model(model, PredictSpec(input_dropout=0.0, num_samples=5), seed=5)
    found = plan_explanation(plan).run(rows_of(ROWS), IDS, {}, passes=5)
    assert found["sites"] == []
    assert (found["members"]["share"] == 1).all()
    assert not found["interaction"]["variance"].any()


def test_a_site_that_some_members_have_acts_in_these() -> None:
    network = random_network([4, {"size": 30, "name": "other"}, 2], seed=9)
    model = together(regressor({"hidden_dropout": 0.5}))
    trained = resolve(RegularizationSpec(hidden_dropout=0.2), network.graph)
    second = replace(model.members[0], network=network, trained=trained)
    model = replace(model, members=(model.members[0], second))
    plan = plan_model(model, PredictSpec(num_samples=30), seed=5)
    first, other = plan_explanation(plan).run(rows_of(ROWS), IDS, {}, passes=30)["sites"]
    assert (first["site"], first["level"]) == ("hid1:out", 0.5)
    assert (other["site"], other["level"]) == ("other:out", 0.2)
    samples = drawn(model, num_samples=30)
    expected = samples.var(axis=1, ddof=0) * 30 / 59
    assert first["variance"] == pytest.approx(expected[0], rel=1e-4)
    assert other["variance"] == pytest.approx(expected[1], rel=1e-4)


def information(samples: Any) -> Any:
    """H(mean) - mean H over the first axis, (passes, rows, classes) -> (rows,)."""
    return entropy(samples.mean(axis=0)) - entropy(samples).mean(axis=0)


def test_the_mutual_information_of_a_classifier_is_shared_out_too() -> None:
    asked: dict[str, Any] = {**BOTH, "num_samples": 50}
    plan = planned(classifier(), **asked)
    found = plan_explanation(plan).run(rows_of(ROWS), IDS, {}, passes=50)
    whole = plan.run(rows_of(ROWS), IDS)["mutual_information"]
    assert np.array_equal(found["mutual_information"], whole)
    for site, (name, rate) in zip(found["sites"], BOTH.items(), strict=True):
        request = {name: rate, "num_samples": 50, "statistics": ["samples"]}
        samples = planned(classifier(), **request).run(rows_of(ROWS), IDS)["samples"]
        expected = information(np.asarray(samples, dtype=np.float64))
        assert site["mutual_information"] == pytest.approx(expected, abs=1e-6)
    parts = (*found["sites"], found["interaction"])
    shares = sum(part["mutual_information_share"] for part in parts)
    assert shares == pytest.approx(np.ones(11))
    assert found["members"] is None


def test_the_mutual_information_of_an_ensemble_is_that_between_and_within_members() -> None:
    others = [random_network([4, 30, 3], form="classifier", seed=seed) for seed in (9, 10)]
    model = together(classifier(), *others)
    plan = plan_model(model, PredictSpec(hidden_dropout=0.5, num_samples=30), seed=5)
    found = plan_explanation(plan).run(rows_of(ROWS), IDS, {}, passes=30)
    samples = drawn(model, hidden_dropout=0.5, num_samples=30)
    flat = samples.reshape(-1, *samples.shape[2:])
    assert found["mutual_information"] == pytest.approx(information(flat), abs=1e-6)
    within = np.mean([information(own) for own in samples], axis=0)
    (site,) = found["sites"]
    assert site["mutual_information"] == pytest.approx(within, abs=1e-6)
    plain = drawn(model, input_dropout=0.0, num_samples=1)[:, 0]
    assert found["members"]["mutual_information"] == pytest.approx(information(plain), abs=1e-6)


@pytest.mark.parametrize(
    ("request_", "pointer"),
    [
        ({"hidden_dropout": 0.5}, "#/explain"),
        ({"hidden_dropout": 0.5, "num_samples": 1}, "#/explain"),
        ({"dropout": {"hid1:out": 0.0}, "num_samples": 5}, "#/explain"),
        ({"hidden_dropout": 0.5, "num_samples": 5, "budget_ms": 5}, "#/budget_ms"),
    ],
)
def test_what_has_no_variance_to_explain_is_refused(request_: dict[str, Any], pointer: str) -> None:
    with pytest.raises(SpecError) as refused:
        plan_explanation(planned(regressor(), **request_))
    assert refused.value.pointer == pointer
