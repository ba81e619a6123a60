"""Losses over HTTP: several at once, targets of their own, noise that is learnt, and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from tests.engine.data.conftest import npz
from tests.service.conftest import Api, assert_problem
from tests.service.test_sequences import predict, trained

RNG = np.random.default_rng(8)
ROWS = 120
A, B = RNG.standard_normal((2, ROWS))
KIND = np.array(["low", "mid", "high"])[np.digitize(A + B, [-0.7, 0.7])]
TABLE = "a,b,also,kind,w,y\n" + "\n".join(
    f"{a:.4f},{b:.4f},{30 * (a - b):.4f},{kind},{int(i % 3 > 0)},{2 * a + b + 5:.4f}"
    for i, (a, b, kind) in enumerate(zip(A, B, KIND, strict=True))
)
HEADS: list[Any] = [
    None,
    {"name": "h", "size": 12, "activation": "tanh"},
    {"name": "aux", "size": 1, "activation": "linear", "inputs": "h"},
    {"name": "which", "size": 3, "form": "softmax", "inputs": "h"},
    {"name": "back", "size": 2, "activation": "linear", "inputs": "h"},
    {"name": "out", "inputs": "h"},
]
LOSSES: list[dict[str, Any]] = [
    {"form": "mse"},
    {"form": "mae", "weight": 0.5, "output_name": "aux", "targets": ["also"]},
    {"form": "xe", "weight": 0.2, "output_name": "which", "targets": ["kind"]},
    {"form": "mse", "weight": 0.1, "output_name": "back", "targets": ["a", "b"]},
]


def several(**more: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {"network": {"losses": LOSSES}, "inputs": ["a", "b"], "epochs": 40}
    spec["optimizer"] = {"form": "adam", "learning_rate": 0.02}
    return {**spec, **more}


@pytest.fixture(scope="module")
def table(shared: Api) -> str:
    return shared.upload(TABLE.encode())


def test_several_losses_train_heads_that_answer_by_name(shared: Api, table: str) -> None:
    job = trained(shared, table, HEADS, **several(sample_weight="w"))
    labels = ["mse(out:out)", "mae(aux:out)", "xe(which:out)", "mse(back:out)"]
    for measured in job["metrics"]["train"], job["metrics"]["valid"]:
        assert measured["loss"] == pytest.approx(sum(measured[name] for name in labels), rel=1e-5)
    assert job["metrics"]["valid"]["rmse"] < 0.5
    model = shared.get(f"/models/{job['model']}").json()
    number, kind, back = model["encoding"]["auxiliary"]
    assert number["targets"][0]["name"] == "also"
    assert (kind["target"], kind["classes"]) == ("kind", ["high", "low", "mid"])
    assert [field["name"] for field in back["targets"]] == ["a", "b"]
    answer = predict(
        shared, job["model"], [[1.0, 1.0], [-1.0, -1.0]], outputs=["which:out", "aux*"]
    )
    assert np.argmax(answer["which:out"], axis=1).tolist() == [0, 1]
    np.testing.assert_allclose(np.sum(answer["which:out"], axis=1), 1, rtol=1e-5)
    scaled = np.array(answer["aux:out"]) * number["targets"][0]["scale"]
    assert np.abs(scaled + number["targets"][0]["mean"]).max() < 20


def test_what_losses_are_about_may_stand_in_a_request_and_is_passed_over(
    shared: Api, table: str
) -> None:
    job = trained(shared, table, HEADS, **several(epochs=1))
    plain = predict(shared, job["model"], [{"a": 1.0, "b": 2.0}])
    row = {"a": 1.0, "b": 2.0, "also": None, "kind": "mid", "y": 3.0}
    assert predict(shared, job["model"], [row]) == plain


@pytest.mark.parametrize("inputs", [None, ["*"]], ids=str)
def test_targets_of_losses_are_no_inputs_unless_they_are_named(
    shared: Api, table: str, inputs: list[str] | None
) -> None:
    body = {"dataset": table, "network": {"layers": HEADS[:4] + HEADS[5:], "losses": LOSSES[:3]}}
    answer = shared.post("/train", params={"validate_only": True}, json={**body, "inputs": inputs})
    assert answer.status_code == 200, answer.text
    assert answer.json()["inputs"] == ["a", "b", "w"]
    body["inputs"] = ["*", "also"]
    answer = shared.post("/train", params={"validate_only": True}, json=body)
    assert answer.json()["inputs"] == ["a", "b", "w", "also"]
    told = answer.json()["losses"]
    assert [loss["output"] for loss in told] == ["out:out", "aux:out", "which:out"]
    assert [loss["targets"] for loss in told] == [["y"], ["also"], ["kind"]]
    assert told[2]["classes"] == ["high", "low", "mid"]


def test_learnt_noise_is_told_of_each_row_in_the_targets_units(shared: Api) -> None:
    """Noise that grows with x is found again, and no constant is fitted beside it."""
    x = RNG.uniform(0, 1, 1500)
    y = 100 * (3 * x + (0.1 + x) * RNG.standard_normal(1500))
    text = "x,y\n" + "\n".join(f"{a:.5f},{b:.5f}" for a, b in zip(x, y, strict=True))
    dataset = shared.upload(text.encode())
    layers: list[Any] = [
        None,
        [20, "tanh"],
        {"name": "covar", "size": 1, "inputs": "hid1", "activation": "softplus"},
        {"name": "out", "inputs": "hid1"},
    ]
    spec: dict[str, Any] = {"optimizer": {"form": "adam", "learning_rate": 0.01}}
    spec |= {"epochs": 60, "network": {"loss": "gll"}, "dropout": {"hid1:out": 0.02}}
    job = trained(shared, dataset, layers, **spec)
    model = shared.get(f"/models/{job['model']}").json()
    assert model["noise_precision"] is None
    oracle = np.mean(stats.norm.logpdf(y, 300 * x, 100 * (0.1 + x)))
    assert job["metrics"]["valid"]["log_likelihood"] == pytest.approx(oracle, abs=0.5)
    points = np.array([0.1, 0.5, 0.9])
    asked = {"num_samples": 50, "seed": 1, "quantiles": [0.05, 0.95], "outputs": ["covar:out"]}
    asked["statistics"] = ["mean", "std", "variance", "predictive_quantiles"]
    body = {"model": job["model"], "inputs": points[:, None].tolist(), **asked}
    answer = shared.post("/predict", json=body).json()
    assert answer["warnings"] == []
    outputs = answer["outputs"]
    noise = np.array(outputs["variance"]["aleatoric"])[:, 0]
    np.testing.assert_allclose(np.sqrt(noise), 100 * (0.1 + points), rtol=0.35)
    scale = model["encoding"]["targets"][0]["scale"]
    own = np.array(outputs["covar:out"]["mean"])[:, 0]
    np.testing.assert_allclose(noise, (own + 1e-3) * scale**2, rtol=1e-5)
    total = np.array(outputs["std"])[:, 0] ** 2 + noise
    np.testing.assert_allclose(np.array(outputs["variance"]["total"])[:, 0], total, rtol=1e-9)
    low, high = (np.array(outputs["predictive_quantiles"][q])[:, 0] for q in ("0.05", "0.95"))
    np.testing.assert_allclose(high - low, 2 * 1.645 * np.sqrt(total), rtol=0.1)
    # One row alone has the same bits.
    alone = predict(shared, job["model"], [[0.5]], row_offset=1, **asked)
    assert alone["variance"]["aleatoric"][0] == outputs["variance"]["aleatoric"][1]
    hidden = predict(shared, job["model"], points[:, None].tolist(), outputs=["hid1:out"])
    started = {**body, "inputs": hidden["hid1:out"], "start": "hid1", "dropout": {"out:out": 0.0}}
    again = shared.post("/predict", json=started).json()["outputs"]
    scaled = np.array(again["covar:out"]["mean"]) + 1e-3
    np.testing.assert_allclose(again["variance"]["aleatoric"], scaled * scale**2, rtol=1e-5)


def test_noise_that_cannot_be_computed_is_not_told(shared: Api, table: str) -> None:
    """From behind the layer that the variances read, only what does not need them."""
    layers: list[Any] = [
        None,
        [5, "tanh"],
        {"name": "covar", "size": 1, "inputs": "hid1", "activation": "softplus"},
        {"name": "deep", "size": 4, "inputs": "hid1"},
        {"name": "out", "inputs": "deep"},
    ]
    spec: dict[str, Any] = {"network": {"loss": "gll"}, "inputs": ["a", "b"], "targets": ["y"]}
    model = trained(shared, table, layers, **spec)["model"]
    body: dict[str, Any] = {"model": model, "inputs": [[0.0] * 4], "start": "deep"}
    body |= {"num_samples": 3, "dropout": {"deep:out": 0.5}}
    answer = shared.post("/predict", json=body)
    assert "the noise" in assert_problem(answer, 422, "#/start")["detail"]
    answer = shared.post("/predict", json={**body, "statistics": ["mean", "std"]})
    assert answer.status_code == 200, answer.text


def test_weights_of_steps_weigh_every_term(shared: Api) -> None:
    x = RNG.standard_normal((40, 5, 2))
    y = x.sum(axis=2, keepdims=True)
    weights = (RNG.random((40, 5)) < 0.7).astype(np.float64)
    weights[:9] = 0
    layers: list[Any] = [None, [4, "tanh"], {"name": "aux", "size": 1, "inputs": "hid1"}]
    layers += [{"name": "out", "inputs": "hid1"}]
    losses = [
        {"form": form, "output_name": name}
        for form in ("mse", "mae", "mmd")
        for name in ("out", "aux")
    ]
    losses.append({"form": "gll", "covar_name": "aux"})
    dataset = shared.upload(npz(x=x, y=y, w=weights, few=weights[:, :3]), "application/x-npz")
    spec = {"network": {"losses": losses}, "sample_weight": "w", "batch_size": 4}
    metrics = trained(shared, dataset, layers, **spec)["metrics"]
    for measured in metrics["train"], metrics["valid"]:
        parts = [value for name, value in measured.items() if "(" in name]
        assert len(parts) == len(losses)
        assert measured["loss"] == pytest.approx(sum(parts), rel=1e-5)
    network = {"layers": layers, "losses": losses}
    body = {"dataset": dataset, "network": network, "sample_weight": "few"}
    assert_problem(shared.post("/train", json=body), 422, "#/sample_weight")


@pytest.mark.parametrize(
    ("change", "pointer", "words"),
    [
        ({"targets": ["a*", "nothing"]}, "targets/1", "these exist"),
        ({"output_name": "hid7"}, "output_name", "which:out"),
        ({"targets": ["a", "b"]}, "output_name", "2 values"),
        ({"targets": ["kind"]}, "targets", "hold text"),
        ({"targets": ["w"]}, "targets", "sample weight"),
        ({"targets": ["gaps"]}, "targets", "missing"),
        ({"form": "xe", "targets": ["kind"]}, "output_name", "softmax"),
        ({"form": "xe", "targets": ["kind", "also"]}, "targets", "exactly one"),
        ({"form": "hinge", "output_name": "which", "targets": ["a"]}, "targets", "not whole"),
        ({"form": "xe", "output_name": "which", "targets": ["rare"]}, "targets", "not one of"),
        (
            {"form": "kl", "output_name": "which", "targets": ["a", "b", "also"]},
            "targets",
            "add up",
        ),
        ({"form": "gll", "covar_name": "which"}, "covar_name", "which:out"),
        ({"kernel": 2.0}, "", "mmd"),
    ],
    ids=str,
)
def test_losses_that_do_not_fit_are_refused_where_they_stand(
    shared: Api, change: dict[str, Any], pointer: str, words: str
) -> None:
    head, *rows = TABLE.split("\n")
    more = [f"{head},gaps,rare"]
    more += [f"{row},{'' if i == 7 else i},{5 if i == 7 else i % 3}" for i, row in enumerate(rows)]
    dataset = shared.upload("\n".join(more).encode())
    loss = {"form": "mse", "output_name": "aux", "targets": ["also"], **change}
    body = {
        "dataset": dataset,
        "network": {"layers": HEADS, "losses": [{"form": "mse"}, loss]},
        "targets": ["y"],
        "inputs": ["a", "b"],
        "sample_weight": "w",
        "validation": {"rows": [7, 8]},
    }
    answer = shared.post("/train", json=body)
    at = f"#/network/losses/1/{pointer}".rstrip("/")
    assert words in assert_problem(answer, 422, at)["errors"][0]["detail"]


@pytest.mark.parametrize(
    ("network", "pointer"),
    [
        ({"loss": "hinge"}, "#/network/loss"),
        ({"loss": "gll"}, "#/network/loss"),
        ({"loss": "kl"}, "#/network/loss"),
        ({"form": "classifier", "loss": "mse"}, "#/network/loss"),
        ({"loss": "mse", "losses": [{"form": "mse"}]}, "#/network"),
        ({"losses": []}, "#/network/losses"),
        ({"losses": [{"form": "mse", "targets": ["a"], "output_name": "out"}]}, "#/network/losses"),
    ],
    ids=str,
)
def test_a_loss_of_another_form_of_network_is_refused(
    shared: Api, table: str, network: dict[str, Any], pointer: str
) -> None:
    target = "kind" if network.get("form") else "y"
    body = {
        "dataset": table,
        "targets": [target],
        "network": {"layers": [None, 3, None], **network},
    }
    assert_problem(shared.post("/train", json=body), 422, pointer)


def test_windows_of_a_table_have_targets_of_each_step_or_of_the_last(shared: Api) -> None:
    text = "t,x,also,y\n" + "\n".join(
        f"{i},{np.sin(i):.4f},{i % 7},{np.cos(i):.4f}" for i in range(80)
    )
    dataset = shared.upload(text.encode())
    losses = [{"form": "mse"}, {"form": "mse", "output_name": "aux", "targets": ["also"]}]
    for tail in ([], [{"form": "last", "name": "one"}]):
        reads = "one" if tail else "hid1"
        layers: list[Any] = [None, {"name": "hid1", "size": 4, "form": "rnn"}, *tail]
        layers += [{"name": "aux", "size": 1, "inputs": reads}, {"name": "out", "inputs": reads}]
        sequence = {"order": "t", "window": 6}
        job = trained(shared, dataset, layers, network={"losses": losses}, sequence=sequence)
        assert job["metrics"]["valid"]["mse(aux:out)"] > 0
