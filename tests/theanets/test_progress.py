"""The scenarios of theanets' tests of losses, regularizers, trainers and monitors."""

from __future__ import annotations

from typing import Any

import pytest

from tests.service.conftest import assert_problem
from tests.theanets.conftest import Lab
from tests.theanets.datasets import BASES


@pytest.mark.parametrize(
    ("base", "layers", "network"),
    [
        ("labels", [None, 8, None], {"loss": "xe"}),
        ("labels", [None, 8, None], {"loss": "hinge"}),
        ("vectors", [None, 8, None], {"loss": "mse"}),
        ("vectors", [None, 8, None], {"loss": "mae"}),
        ("vectors", [None, 8, None], {"loss": "mmd"}),
        ("distributions", [None, 8, {"activation": "softmax"}], {"loss": "kl"}),
        (
            "vectors",
            [
                None,
                {"name": "hid", "size": 8},
                {"name": "covar", "activation": "relu", "inputs": "hid", "size": 5},
                {"name": "mean", "activation": "linear", "inputs": "hid", "size": 5},
            ],
            {"losses": [{"form": "gll", "mean_name": "mean", "covar_name": "covar"}]},
        ),
    ],
    ids=["xe", "hinge", "mse", "mae", "mmd", "kl", "gll"],
)
def test_every_loss_goes_down(
    lab: Lab, base: str, layers: list[Any], network: dict[str, Any]
) -> None:
    spec = BASES[base].spec(layers=layers)
    if network.get("loss") == "mmd":  # of which three rows say next to nothing
        spec |= {"batch_size": 32}
    lab.assert_progress(base, {**spec, "network": {**spec["network"], **network}})


def form(name: str, weight: float, **more: Any) -> dict[str, Any]:
    return {"regularizers": [{"form": name, "weight": weight, **more}]}


@pytest.mark.parametrize(
    "keywords",
    [
        {"input_noise": 0.1},
        {"input_dropout": 0.2},
        {"hidden_noise": 0.1},
        {"hidden_dropout": 0.2},
        {"noise": {"*:out": 0.1}},
        {"dropout": {"hid?:out": 0.2}},
        form("hidden_l1", 0.1),
        form("weight_l1", 0.1),
        form("weight_l2", 0.01),
        form("contractive", 0.01),
    ],
    ids=str,
)
def test_every_regularizer_lets_training_go_on(lab: Lab, keywords: dict[str, Any]) -> None:
    lab.assert_progress("vectors", {**BASES["vectors"].spec(layers=[None, 20, None]), **keywords})


@pytest.mark.parametrize("name", ["recurrent_norm", "recurrent_state"])
def test_a_recurrent_regularizer_lets_training_go_on(lab: Lab, name: str) -> None:
    spec = BASES["sequences"].spec(layers=[None, [8, "rnn"], 12, None])
    lab.assert_progress("sequences", {**spec, **form(name, 0.1, pattern="hid1:out")})


@pytest.mark.parametrize("name", ["recurrent_norm", "recurrent_state"])
def test_a_recurrent_regularizer_needs_a_pattern(lab: Lab, name: str) -> None:
    body = {"dataset": lab.dataset("sequences"), **BASES["sequences"].spec(), **form(name, 0.1)}
    assert_problem(lab.api.post("/train", json=body), 422, "#/regularizers/0/pattern")


@pytest.mark.parametrize(
    ("base", "layers", "training"),
    [
        ("alone", [None, 8, 12, None], {"form": "layerwise"}),
        ("alone", [None, 8, 12, "tied", "tied"], {"form": "layerwise"}),
        ("labels", [None, 8, 12, None], {"form": "layerwise"}),
        ("labels", [None, 8, 12, None], {"form": "pretrain"}),
    ],
    ids=["layerwise", "layerwise tied", "layerwise classifier", "pretrain"],
)
def test_training_in_stages_makes_progress(
    lab: Lab, base: str, layers: list[Any], training: dict[str, Any]
) -> None:
    spec = BASES[base].spec(layers=layers)
    lab.assert_progress(base, {**spec, "training": training})


def test_weights_may_be_sampled_from_the_rows(lab: Lab) -> None:
    spec = BASES["alone"].spec(layers=[None, 8, 12, None])
    job = lab.train("alone", {**spec, "training": {"form": "sample"}})
    assert lab.predict("alone", job)["prediction"]


@pytest.mark.parametrize("optimizer", ["sgd", "nag", "rprop", "rmsprop", "adagrad", "esgd", "adam"])
def test_every_optimizer_makes_progress(lab: Lab, optimizer: str) -> None:
    spec = BASES["alone"].spec(layers=[None, 8, 12, None])
    lab.assert_progress("alone", {**spec, "optimizer": {"form": optimizer}})


@pytest.mark.parametrize(
    ("monitors", "expected"),
    [
        ({"hid1:out": 1}, ["hid1:out<1"]),
        ({"hid1:out": [2, 1]}, ["hid1:out<2", "hid1:out<1"]),
        ({"hid1.w": 1}, ["hid1.w<1"]),
        ({"*.w": 1}, ["hid1.w<1", "hid2.w<1", "out.w<1"]),
        ({"hid?.w": 1}, ["hid1.w<1", "hid2.w<1"]),
    ],
    ids=str,
)
def test_monitors_are_told_with_every_epoch(
    lab: Lab, monitors: dict[str, Any], expected: list[str]
) -> None:
    spec = {**BASES["vectors"].spec(layers=[None, 15, 14, None]), "monitors": monitors}
    for epoch in lab.epochs(lab.train("vectors", spec)):
        assert [name for name in epoch["train"] if "<" in name] == expected


def test_a_monitor_of_nothing_is_refused(lab: Lab) -> None:
    """There it was silent."""
    spec = {**BASES["vectors"].spec(), "monitors": {"hid10:out": 1}}
    answer = lab.api.post("/train", json={"dataset": lab.dataset("vectors"), **spec})
    assert_problem(answer, 422, "#/monitors/hid10:out")


def test_a_running_job_is_kept_as_often_as_it_asks(lab: Lab) -> None:
    spec = {**BASES["alone"].spec(layers=[None, [3, "prelu"], None]), "epochs": 9}
    job = lab.train("alone", {**spec, "checkpoint_every": {"epochs": 2}})
    events = lab.api.get(f"/jobs/{job['id']}/events", params={"limit": 1000}).json()["data"]
    kept = [event["data"]["epoch"] for event in events if event["type"] == "checkpoint"]
    assert kept == [2, 4, 6, 8]
