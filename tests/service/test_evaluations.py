"""`POST /evaluate`: scores of the very passes that `/predict` gives, and of the truths beside."""

from __future__ import annotations

import io
from typing import Any

import anyio
import numpy as np
import pytest
from fastapi import Request
from scipy import special, stats
from sklearn import metrics
from starlette.types import Message

from engine import cuts
from service import limits
from service.evaluations import EvaluateRequest
from service.routes.evaluation import evaluate
from tests.service.conftest import Api, assert_problem

LAYERS = {"layers": [None, 8, None]}
Values = Any


def table(rows: int = 60, seed: int = 5) -> bytes:
    """A table of two inputs, two targets, classes of two and of three kinds, and gaps in one."""
    rng = np.random.default_rng(seed)
    lines = ["a,b,y,z,kind,third,gap"]
    for row, (a, b, noise) in enumerate(rng.standard_normal((rows, 3))):
        kind = "up" if a + noise / 2 > 0 else "down"
        third = ("low", "mid", "top")[int(np.digitize(b + noise / 2, [-0.5, 0.5]))]
        gap = "" if row == 3 else f"{a:.6f}"
        lines.append(f"{a:.6f},{b:.6f},{a + b + noise / 4:.6f},{50 * a:.6f},{kind},{third},{gap}")
    return "\n".join(lines).encode()


def columns(content: bytes) -> dict[str, Values]:
    head, *lines = content.decode().split("\n")
    cells = np.array([line.split(",") for line in lines])
    return {name: cells[:, index] for index, name in enumerate(head.split(","))}


def npz(**arrays: Values) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def trained(api: Api, dataset: str, **spec: Any) -> str:
    job = api.train(
        dataset, **{"network": LAYERS, "epochs": 3, "hidden_dropout": 0.3, "seed": 1, **spec}
    )
    api.work()
    done = api.get(f"/jobs/{job['id']}").json()
    assert done["model"], done
    return str(done["model"])


def evaluated(api: Api, **body: Any) -> dict[str, Any]:
    answer = api.post("/evaluate", json=body)
    assert answer.status_code == 200, answer.text
    scores: dict[str, Any] = answer.json()
    return scores


def predicted(api: Api, model: str, dataset: str, **asked: Any) -> dict[str, Any]:
    body = {"model": model, "inputs": {"dataset": dataset}, **asked}
    answer = api.post("/predict", json=body)
    assert answer.status_code == 200, answer.text
    outputs: dict[str, Any] = answer.json()["outputs"]
    return outputs


CONTENT = table()
TRUTH = columns(CONTENT)
Y = TRUTH["y"].astype(float)


@pytest.fixture(scope="module")
def world(shared: Api) -> tuple[Api, str]:
    return shared, shared.upload(CONTENT)


@pytest.fixture(scope="module")
def regressor(world: tuple[Api, str]) -> str:
    return trained(*world, inputs=["a", "b"], targets=["y"])


@pytest.fixture(scope="module")
def classifier(world: tuple[Api, str]) -> str:
    return trained(*world, inputs=["a", "b"], targets=["third"], epochs=30)


# -- regressors ------------------------------------------------------------------------------------


def test_scores_of_a_regressor_are_of_the_passes_of_predict(
    world: tuple[Api, str], regressor: str
) -> None:
    api, dataset = world
    asked = {"num_samples": 40, "seed": 11}
    scores = evaluated(api, model=regressor, dataset=dataset, **asked)
    outputs = predicted(
        api, regressor, dataset, **asked, statistics=["samples", "predictive_quantiles", "std"]
    )
    samples = np.array(outputs["samples"])[..., 0]
    tau = api.get(f"/models/{regressor}").json()["noise_precision"]["y"]
    mean = samples.mean(axis=0)
    assert scores["rmse"] == pytest.approx(metrics.root_mean_squared_error(Y, mean))
    assert scores["mae"] == pytest.approx(metrics.mean_absolute_error(Y, mean))
    assert scores["r2"] == pytest.approx(metrics.r2_score(Y, mean))
    density = stats.norm.pdf(Y, samples, tau**-0.5).mean(axis=0)
    assert scores["log_likelihood"] == pytest.approx(np.log(density).mean())
    low, high = (np.array(outputs["predictive_quantiles"][q])[:, 0] for q in ("0.05", "0.95"))
    assert scores["coverage"] == ((low <= Y) & (high >= Y)).mean()
    assert scores["interval_width"] == pytest.approx((high - low).mean())
    std = np.array(outputs["std"])[:, 0]
    assert scores["uncertainty"]["std"]["mean"] == pytest.approx(std.mean())

    def absolute(distance: Values, variance: float) -> Values:
        z = distance / np.sqrt(variance)
        density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
        return 2 * np.sqrt(variance) * density + distance * (2 * special.ndtr(z) - 1)

    crps = absolute(samples - Y, 1 / tau).mean(axis=0)
    crps -= absolute(samples[:, None] - samples, 2 / tau).mean(axis=(0, 1)) / 2
    assert scores["crps"] == pytest.approx(crps.mean())
    assert (scores["rows"], scores["form"], scores["targets"]) == (60, "regressor", None)
    assert scores["warnings"] == []


def test_the_answer_says_what_it_takes_to_ask_again(world: tuple[Api, str], regressor: str) -> None:
    api, dataset = world
    body: dict[str, Any] = {"model": regressor, "dataset": dataset, "num_samples": 5}
    body |= {"hidden_dropout": 0.5, "masks": "shared", "row_offset": 7}
    first = evaluated(api, **body)
    assert first["dropout"][0]["matched"] == ["hid1:out"]
    assert (first["masks"], first["row_offset"], first["num_samples"]) == ("shared", 7, 5)
    assert isinstance(first["seed"], int)
    assert evaluated(api, **body, seed=first["seed"]) == first
    assert evaluated(api, **body, seed=first["seed"] + 1)["rmse"] != first["rmse"]


def test_one_deterministic_pass_scores_as_training_did(world: tuple[Api, str]) -> None:
    api, dataset = world
    valid = list(range(0, 60, 7))
    job = api.train(
        dataset,
        inputs=["a", "b"],
        targets=["y", "z"],
        validation={"rows": valid},
        epochs=2,
        noise_precision=0.5,
    )
    api.work()
    done = api.get(f"/jobs/{job['id']}").json()
    scores = evaluated(api, model=done["model"], dataset=dataset, rows=valid)
    for name in ("rmse", "mae", "r2", "log_likelihood"):
        assert scores[name] == pytest.approx(done["metrics"]["valid"][name], rel=1e-5)
    assert list(scores["targets"]) == ["y", "z"]
    for name in ("rmse", "log_likelihood", "crps", "coverage"):
        assert scores[name] == np.mean([own[name] for own in scores["targets"].values()])
    assert scores["seed"] is None
    assert scores["num_samples"] is None


def test_one_stochastic_pass_is_that_of_predict(world: tuple[Api, str], regressor: str) -> None:
    api, dataset = world
    asked = {"hidden_dropout": 0.5, "seed": 3}
    scores = evaluated(api, model=regressor, dataset=dataset, **asked)
    outputs = predicted(api, regressor, dataset, **asked)
    mean = np.array(outputs["prediction"])[:, 0]
    assert scores["rmse"] == pytest.approx(metrics.root_mean_squared_error(Y, mean))
    assert scores["uncertainty"]["total"]["mean"] > 0
    assert "std" not in scores["uncertainty"]


def test_rows_are_those_of_the_data_set(world: tuple[Api, str], regressor: str) -> None:
    api, dataset = world
    rows = [40, 2, 17]
    scores = evaluated(api, model=regressor, dataset=dataset, rows=rows, num_samples=3, seed=1)
    outputs = predicted(api, regressor, dataset, num_samples=3, seed=1, statistics=["mean"])
    mean = np.array(outputs["mean"])[rows, 0]
    assert scores["mae"] == pytest.approx(np.abs(mean - Y[rows]).mean())
    assert scores["rows"] == 3


def test_levels_are_those_asked_for(world: tuple[Api, str], regressor: str) -> None:
    api, dataset = world
    asked = {"num_samples": 10, "seed": 1, "level": 0.7, "levels": [0.3, 0.99]}
    scores = evaluated(api, model=regressor, dataset=dataset, **asked)
    assert [own["level"] for own in scores["intervals"]] == [0.3, 0.7, 0.99]
    assert scores["coverage"] == scores["intervals"][1]["coverage"]
    widths = [own["width"] for own in scores["intervals"]]
    assert widths == sorted(widths)


def test_without_a_noise_precision_the_likelihood_is_null_and_said_to_be(shared: Api) -> None:
    model = shared.import_model().json()["id"]
    dataset = shared.upload(
        npz(x=np.ones((4, 2), np.float32), y=np.arange(4.0)), "application/x-npz"
    )
    scores = evaluated(shared, model=model, dataset=dataset)
    assert scores["mae"] == pytest.approx(np.abs(2 - np.arange(4)).mean())
    assert scores["crps"] == scores["mae"]
    assert scores["log_likelihood"] is None
    assert scores["coverage"] is None
    assert any("noise precision" in warning for warning in scores["warnings"])
    scores = evaluated(
        shared, model=model, dataset=dataset, input_dropout=0.5, num_samples=50, seed=1
    )
    assert scores["log_likelihood"] is None
    assert 0 <= scores["coverage"] <= 1


def test_noise_that_was_learnt_counts_row_by_row(world: tuple[Api, str]) -> None:
    api, dataset = world
    layers = [
        None,
        {"name": "hid1", "size": 6},
        {"name": "covar", "size": 1, "activation": "softplus", "inputs": "hid1"},
        {"name": "out", "size": 1, "activation": "linear", "inputs": "hid1"},
    ]
    model = trained(
        api, dataset, inputs=["a", "b"], targets=["y"], network={"layers": layers, "loss": "gll"}
    )
    asked = {"num_samples": 20, "seed": 2}
    scores = evaluated(api, model=model, dataset=dataset, **asked)
    outputs = predicted(
        api, model, dataset, **asked, statistics=["samples", "variance"], outputs=["covar:out"]
    )
    samples = np.array(outputs["samples"])[..., 0]
    covar = np.array(outputs["covar:out"]["samples"])[..., 0]
    scale = api.get(f"/models/{model}").json()["encoding"]["targets"][0]["scale"]
    deviation = np.sqrt(np.abs(covar) + 1e-3) * scale
    density = stats.norm.pdf(Y, samples, deviation).mean(axis=0)
    assert scores["log_likelihood"] == pytest.approx(np.log(density).mean())
    total = np.sqrt(np.array(outputs["variance"]["total"])[:, 0])
    assert scores["uncertainty"]["total"]["mean"] == pytest.approx(total.mean())
    one = evaluated(api, model=model, dataset=dataset)
    assert one["log_likelihood"] is not None
    assert one["risk_coverage"]["by"] == "total"


@pytest.mark.parametrize("samples", [None, 1, 6])
def test_members_of_an_ensemble_each_have_their_own_noise(
    samples: int | None, world: tuple[Api, str]
) -> None:
    api, dataset = world
    model = trained(
        api,
        dataset,
        inputs=["a", "b"],
        targets=["y"],
        hidden_dropout=0.2 if samples == 6 else 0,
        search={"grid": {"seed": [1, 2, 3]}, "refit": False, "keep": "ensemble"},
    )
    scores = evaluated(api, model=model, dataset=dataset, num_samples=samples, seed=4)
    drawn = predicted(api, model, dataset, num_samples=samples or 1, seed=4, statistics=["samples"])
    passes = np.array(drawn["samples"])[..., 0]
    members = api.get(f"/models/{model}").json()["members"]
    tau = np.array([member["noise_precision"]["y"] for member in members])
    assert len(set(tau)) == 3
    deviation = np.resize(tau, len(passes))[:, None] ** -0.5
    density = stats.norm.pdf(Y, passes, deviation).mean(axis=0)
    assert scores["log_likelihood"] == pytest.approx(np.log(density).mean(), rel=1e-5)
    assert scores["uncertainty"]["std"]["mean"] > 0


# -- classifiers -----------------------------------------------------------------------------------


def test_scores_of_a_classifier_are_of_the_passes_of_predict(
    world: tuple[Api, str], classifier: str
) -> None:
    api, dataset = world
    asked = {"num_samples": 40, "seed": 11}
    scores = evaluated(api, model=classifier, dataset=dataset, **asked)
    outputs = predicted(api, classifier, dataset, **asked)
    shares = np.array(outputs["probabilities"])
    shares /= shares.sum(axis=1, keepdims=True)  # scikit-learn takes no sums of float32
    truth = TRUTH["third"]
    assert scores["accuracy"] == metrics.accuracy_score(truth, outputs["label"])
    assert scores["log_loss"] == pytest.approx(metrics.log_loss(truth, shares))
    expected = metrics.roc_auc_score(truth, shares, multi_class="ovr")
    assert scores["auroc"] == pytest.approx(expected, abs=1e-6)
    one_hot = truth[:, None] == np.array(["low", "mid", "top"])
    assert scores["brier"] == pytest.approx(((shares - one_hot) ** 2).sum(axis=1).mean())
    assert sum(bin_["count"] for bin_ in scores["reliability"]) == 60
    wrong = np.array(outputs["label"]) != truth
    for name in ("entropy", "mutual_information", "variation_ratio", "expected_entropy"):
        own = scores["uncertainty"][name]
        assert own["mean"] == pytest.approx(np.mean(outputs[name]))
        assert own["auroc"] == pytest.approx(metrics.roc_auc_score(wrong, outputs[name]))
    assert scores["risk_coverage"]["risk"][-1] == pytest.approx(wrong.mean())
    assert "rmse" not in scores


def test_two_classes_have_the_area_of_the_second(world: tuple[Api, str]) -> None:
    api, dataset = world
    model = trained(api, dataset, inputs=["a", "b"], targets=["kind"])
    scores = evaluated(api, model=model, dataset=dataset)
    shares = np.array(predicted(api, model, dataset)["probabilities"])
    expected = metrics.roc_auc_score(TRUTH["kind"] == "up", shares[:, 1])
    assert scores["auroc"] == pytest.approx(expected, abs=1e-6)
    assert set(scores["uncertainty"]) == {"confidence", "entropy"}


def test_a_class_without_rows_leaves_no_area(world: tuple[Api, str], classifier: str) -> None:
    api, dataset = world
    rows = np.flatnonzero(TRUTH["third"] != "mid").tolist()
    scores = evaluated(api, model=classifier, dataset=dataset, rows=rows)
    assert scores["auroc"] is None
    assert any("'mid'" in warning for warning in scores["warnings"])


# -- calibrated models -----------------------------------------------------------------------------


def test_calibrated_intervals_are_measured_as_predict_gives_them(world: tuple[Api, str]) -> None:
    api, dataset = world
    calibrate = {"coverage": 0.8, "fraction": 0.3, "num_samples": 10, "score": "normalised"}
    model = trained(api, dataset, inputs=["a", "b"], targets=["y", "z"], calibrate=calibrate)
    asked = {"num_samples": 10, "seed": 3}
    told = evaluated(api, model=model, dataset=dataset, **asked)["interval"]
    given = predicted(api, model, dataset, **asked, statistics=["interval"])["interval"]
    truth = np.stack([Y, TRUTH["z"].astype(float)], axis=1)
    low, high = np.array(given["lower"]), np.array(given["upper"])
    assert told["coverage"] == pytest.approx(((low <= truth) & (truth <= high)).mean())
    assert told["width"] == pytest.approx((high - low).mean())
    assert (told["level"], told["calibrated"]) == (0.8, True)
    other = evaluated(api, model=model, dataset=dataset, num_samples=5, seed=3)
    assert other["interval"]["calibrated"] is False
    assert any("not calibrated" in warning for warning in other["warnings"])
    assert evaluated(api, model=model, dataset=dataset)["interval"] is None


def test_calibrated_sets_are_measured_as_predict_gives_them(world: tuple[Api, str]) -> None:
    api, dataset = world
    calibrate = {"coverage": 0.8, "fraction": 0.3, "num_samples": 10}
    model = trained(api, dataset, inputs=["a", "b"], targets=["third"], calibrate=calibrate)
    asked = {"num_samples": 10, "seed": 3}
    told = evaluated(api, model=model, dataset=dataset, **asked)["set"]
    sets = predicted(api, model, dataset, **asked, statistics=["set"])["set"]["labels"]
    within = [label in labels for label, labels in zip(TRUTH["third"], sets, strict=True)]
    assert told["coverage"] == np.mean(within)
    assert told["size"] == np.mean([len(labels) for labels in sets])
    assert (told["level"], told["calibrated"]) == (0.8, True)


# -- rows of another kind --------------------------------------------------------------------------


def test_rows_out_of_the_distribution_are_told_apart(
    world: tuple[Api, str], classifier: str, regressor: str
) -> None:
    api, dataset = world
    rng = np.random.default_rng(1)
    lines = [f"{a:.4f},{b:.4f}" for a, b in 10 * rng.standard_normal((30, 2))]
    other = api.upload("\n".join(["a,b", *lines]).encode())
    rows = list(range(5, 25))
    for model, names in (
        (classifier, ("entropy", "mutual_information", "variation_ratio")),
        (regressor, ("std",)),
    ):
        asked: dict[str, Any] = {"num_samples": 20, "seed": 3}
        ood = {"dataset": other, "rows": rows}
        scores = evaluated(api, model=model, dataset=dataset, **asked, ood=ood)
        own, theirs = (predicted(api, model, where, **asked) for where in (dataset, other))
        told = scores["ood"]
        assert (told["dataset"], told["rows"]) == (other, 20)
        for name in names:
            before = np.ravel(own[name])
            after = np.ravel(np.array(theirs[name])[rows])
            values = np.concatenate([before, after])
            is_other = np.arange(len(values)) >= 60
            expected = metrics.roc_auc_score(is_other, values)
            assert told["auroc"][name] == pytest.approx(expected)
            assert told["mean"][name] == pytest.approx(after.mean())
        alone = evaluated(api, model=model, dataset=dataset, **asked)
        assert {**scores, "ood": None} == alone


# -- sequences, images, autoencoders ---------------------------------------------------------------


def test_labels_of_steps_count_one_by_one(shared: Api) -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((20, 6, 2)).astype(np.float32)
    y = (x[..., 0] > 0).astype(np.int64)
    dataset = shared.upload(npz(x=x, y=y), "application/x-npz")
    layers = [None, {"size": 5, "form": "rnn"}, {"size": 2, "activation": "softmax"}]
    model = trained(
        shared, dataset, network={"layers": layers, "form": "classifier"}, hidden_dropout=0.2
    )
    asked = {"num_samples": 10, "seed": 1}
    ood = {"dataset": dataset, "rows": [0, 1]}
    scores = evaluated(shared, model=model, dataset=dataset, **asked, ood=ood)
    outputs = predicted(shared, model, dataset, **asked)
    assert scores["accuracy"] == (np.array(outputs["label"]) == y).mean()
    assert sum(bin_["count"] for bin_ in scores["reliability"]) == 120
    assert scores["rows"] == 20
    entropy = np.array(outputs["entropy"]).mean(axis=1)
    expected = metrics.roc_auc_score(np.arange(22) >= 20, np.r_[entropy, entropy[:2]])
    assert scores["ood"]["auroc"]["entropy"] == pytest.approx(expected)


def test_windows_of_a_table_have_the_targets_of_their_steps(shared: Api) -> None:
    rng = np.random.default_rng(3)
    values = np.cumsum(rng.standard_normal(50))
    dataset = shared.upload("\n".join(["v", *(f"{v:.5f}" for v in values)]).encode())
    model = trained(
        shared,
        dataset,
        network={"layers": [None, {"size": 4, "form": "rnn"}, 1]},
        inputs=["v"],
        targets=["v"],
        sequence={"window": 5},
    )
    scores = evaluated(shared, model=model, dataset=dataset)
    rows = list(range(4, 49))
    body = {"model": model, "inputs": {"dataset": dataset, "rows": rows}}
    said = np.array(shared.post("/predict", json=body).json()["outputs"]["prediction"])
    whole = said.reshape(len(rows), -1)
    truth = np.array([float(f"{v:.5f}") for v in values])
    if whole.shape[1] == 1:
        expected = np.abs(whole[:, 0] - truth[5:50]).mean()
    else:
        ahead = np.stack([truth[row - 3 : row + 2] for row in rows])
        expected = np.abs(whole - ahead).mean()
    assert scores["rows"] == len(rows)
    assert scores["mae"] == pytest.approx(expected, rel=1e-5)


def test_ensembles_of_sequences_have_noise_for_each_target(shared: Api) -> None:
    rng = np.random.default_rng(4)
    x = rng.standard_normal((24, 3, 2)).astype(np.float32)
    y = np.cumsum(x, axis=1) + 0.1 * rng.standard_normal(x.shape)
    dataset = shared.upload(npz(x=x, y=y), "application/x-npz")
    model = trained(
        shared,
        dataset,
        network={"layers": [None, {"size": 4, "form": "rnn"}, None]},
        search={"grid": {"seed": [1, 2]}, "refit": False, "keep": "ensemble"},
    )
    asked = {"num_samples": 3, "seed": 1}
    scores = evaluated(shared, model=model, dataset=dataset, **asked)
    outputs = predicted(
        shared, model, dataset, **asked, statistics=["samples", "predictive_quantiles"]
    )
    samples = np.array(outputs["samples"])  # (6, 24, 3, 2)
    members = shared.get(f"/models/{model}").json()["members"]
    logs = []
    for index, name in enumerate(("y[0]", "y[1]")):
        tau = np.array([m["noise_precision"][name] for m in members])
        deviation = np.resize(tau, 6)[:, None, None] ** -0.5
        own = samples[..., index]
        logs.append(np.log(stats.norm.pdf(y[..., index], own, deviation).mean(axis=0)).mean())
    assert scores["log_likelihood"] == pytest.approx(np.mean(logs))
    low, high = (np.array(outputs["predictive_quantiles"][q]) for q in ("0.05", "0.95"))
    assert scores["coverage"] == pytest.approx(((low <= y) & (y <= high)).mean())


def test_autoencoders_are_scored_by_what_they_give_back(shared: Api) -> None:
    rng = np.random.default_rng(5)
    flat = rng.standard_normal((30, 4)).astype(np.float32)
    dataset = shared.upload(npz(x=flat), "application/x-npz")
    other = shared.upload(npz(x=10 + flat), "application/x-npz")
    model = trained(shared, dataset, network={"layers": [None, 2, None], "form": "autoencoder"})
    asked = {"num_samples": 5, "seed": 1}
    ood = {"dataset": other}
    scores = evaluated(shared, model=model, dataset=dataset, **asked, ood=ood)
    outputs = predicted(shared, model, dataset, **asked)
    errors = np.array(outputs["mean"]) - flat
    assert scores["rmse"] == pytest.approx(np.sqrt((errors**2).mean(axis=0)).mean())
    assert set(scores["targets"]) == {f"x[{index}]" for index in range(4)}
    theirs = predicted(shared, model, other, **asked)["reconstruction_error"]
    both = np.concatenate([outputs["reconstruction_error"], theirs])
    expected = metrics.roc_auc_score(np.arange(60) >= 30, both)
    assert scores["ood"]["auroc"]["reconstruction_error"] == pytest.approx(expected)


def test_images_are_scored_by_channel(shared: Api) -> None:
    rng = np.random.default_rng(6)
    images = rng.standard_normal((12, 2, 5, 5)).astype(np.float32)
    images[:, 1] *= 7
    dataset = shared.upload(npz(x=images), "application/x-npz")
    layers = [
        None,
        {"form": "conv2", "size": 3, "filter_size": [3, 3], "border_mode": "same"},
        {
            "form": "conv2",
            "size": 2,
            "filter_size": [3, 3],
            "border_mode": "same",
            "activation": "linear",
        },
    ]
    network = {"layers": layers, "form": "autoencoder"}
    model = trained(shared, dataset, network=network, epochs=1, batch_size=8)
    asked = {"num_samples": 4, "seed": 1}
    scores = evaluated(shared, model=model, dataset=dataset, **asked)
    errors = np.array(predicted(shared, model, dataset, **asked)["mean"]) - images
    own = np.sqrt((errors**2).mean(axis=(0, 2, 3)))
    assert [target["rmse"] for target in scores["targets"].values()] == pytest.approx(own)


# -- what is refused -------------------------------------------------------------------------------


def test_a_data_set_without_what_it_takes_is_refused(
    world: tuple[Api, str], regressor: str, classifier: str
) -> None:
    api, dataset = world
    bare = api.upload(b"a,b\n1,2\n3,4\n")
    answer = api.post("/evaluate", json={"model": regressor, "dataset": bare})
    detail = assert_problem(answer, 422, "#/dataset")["detail"]
    assert "'y'" in detail
    assert "targets of all its rows" in detail
    unknown = api.upload(b"a,b,third\n1,2,low\n3,4,other\n")
    answer = api.post("/evaluate", json={"model": classifier, "dataset": unknown})
    assert "'other'" in assert_problem(answer, 422, "#/dataset")["detail"]
    evaluated(api, model=classifier, dataset=unknown, rows=[0])
    holes = api.upload(b"a,b,y\n1,2,1\n3,4,\n")
    answer = api.post("/evaluate", json={"model": regressor, "dataset": holes})
    assert "missing" in assert_problem(answer, 422, "#/dataset")["detail"]
    evaluated(api, model=regressor, dataset=holes, rows=[0])
    ood = {"dataset": api.upload(b"a,y\n1,1\n2,2\n")}
    answer = api.post("/evaluate", json={"model": regressor, "dataset": dataset, "ood": ood})
    assert "'b'" in assert_problem(answer, 422, "#/ood/dataset")["detail"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"rows": [0, 60]}, "#/rows/1"),
        ({"rows": []}, "#/rows"),
        ({"rows": [-1]}, "#/rows/0"),
        ({"level": 1.0}, "#/level"),
        ({"levels": [0.5, 0]}, "#/levels/1"),
        ({"levels": []}, "#/levels"),
        ({"dropout": {"nothing": 0.5}}, "#/dropout/nothing"),
        ({"statistics": ["mean"]}, "#/statistics"),
        ({"num_samples": 0}, "#/num_samples"),
        ({"num_samples": 70_000}, "#/num_samples"),
        ({"tolerance": 0.1}, "#/tolerance"),
        ({"regularizers": [{"form": "weight_l2", "weight": 1}]}, "#/regularizers/0"),
        ({"dataset": None}, "#/dataset"),
        ({"ood": {}}, "#/ood/dataset"),
        ({"ood": {"dataset": "ds_1", "inputs": []}}, "#/ood/inputs"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_at_its_place(
    body: dict[str, Any], pointer: str, world: tuple[Api, str], regressor: str
) -> None:
    api, dataset = world
    asked = {"model": regressor, "dataset": dataset, **body}
    for path in ("/evaluate", "/evaluations"):
        problem = assert_problem(api.post(path, json=asked), 422)
        assert pointer in [error["pointer"] for error in problem["errors"]]


def test_what_is_not_there_is_not_found(world: tuple[Api, str], regressor: str) -> None:
    api, dataset = world
    none = "ds_01k9t3v5rqk2m8xw4c7h1n6b0e"
    for path in ("/evaluate", "/evaluations"):
        answer = api.post(path, json={"model": regressor, "dataset": none})
        assert_problem(answer, 404, "#/dataset")
        answer = api.post(path, json={"model": "nobody", "dataset": dataset})
        assert_problem(answer, 404)
        asked = {"model": regressor, "dataset": dataset, "ood": {"dataset": none}}
        assert_problem(api.post(path, json=asked), 404, "#/ood/dataset")


def test_a_model_without_dropout_has_no_passes_to_score(shared: Api) -> None:
    dataset = shared.upload()
    model = trained(shared, dataset, hidden_dropout=0)
    answer = shared.post("/evaluate", json={"model": model, "dataset": dataset, "num_samples": 5})
    assert_problem(answer, 422, "#/num_samples")


def test_an_alias_stands_for_its_model(world: tuple[Api, str], regressor: str) -> None:
    api, dataset = world
    api.put("/aliases/measured", json={"model": regressor})
    assert evaluated(api, model="measured", dataset=dataset)["model"] == regressor


def test_what_is_too_large_names_the_limit_and_the_job(
    world: tuple[Api, str], regressor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    api, dataset = world
    monkeypatch.setattr(limits, "MAX_FLOPS", 1e6)
    asked = {"model": regressor, "dataset": dataset, "num_samples": 100}
    detail = assert_problem(api.post("/evaluate", json=asked), 413)["detail"]
    assert "1e+06" in detail
    assert "POST /evaluations" in detail
    answer = api.post("/evaluations", json=asked)
    assert answer.status_code == 202
    api.work()


def test_a_caller_that_disconnects_ends_its_evaluation(
    world: tuple[Api, str], regressor: str
) -> None:
    api, dataset = world
    turns = api.state["predictor"].turns
    # Some ten minutes of work.
    rows = [*range(60)] * 50
    body = EvaluateRequest(model=regressor, dataset=dataset, rows=rows, num_samples=20_000)

    async def hang_up() -> Message:
        while not turns.running:
            await anyio.sleep(0)
        return {"type": "http.disconnect"}

    async def leave() -> int:
        request = Request({"type": "http", "state": dict(api.state)}, hang_up)
        with anyio.fail_after(30):
            status = (await evaluate(request, body, api.state["examiner"])).status_code
            while turns.running:
                await anyio.sleep(0)
        return status

    assert anyio.run(leave) == 499


# -- jobs ------------------------------------------------------------------------------------------


def finished(api: Api, **body: Any) -> dict[str, Any]:
    answer = api.post("/evaluations", json=body)
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/jobs/{answer.json()['id']}"
    api.work()
    job: dict[str, Any] = api.get(f"/jobs/{answer.json()['id']}").json()
    assert job["status"] == "succeeded", job
    return job


def test_a_job_has_what_is_answered_online(
    world: tuple[Api, str], regressor: str, classifier: str
) -> None:
    api, dataset = world
    for model in (regressor, classifier):
        body = {"model": model, "dataset": dataset, "num_samples": 10, "seed": 3}
        body["ood"] = {"dataset": dataset, "rows": [1, 2, 3]}
        job = finished(api, **body, name="measured", tags={"of": "the table"})
        assert (job["kind"], job["name"], job["result"]) == ("evaluate", "measured", None)
        assert job["metrics"]["test"] == evaluated(api, **body)
        assert job["progress"]["completed"] == 63


def test_a_job_keeps_to_the_seed_that_it_drew(world: tuple[Api, str], regressor: str) -> None:
    api, dataset = world
    job = finished(api, model=regressor, dataset=dataset, num_samples=4)
    seed = job["spec"]["seed"]
    again = evaluated(api, model=regressor, dataset=dataset, num_samples=4, seed=seed)
    assert job["metrics"]["test"] == again


def test_the_data_sets_of_a_job_stay_until_it_has_ended(shared: Api) -> None:
    dataset, other = shared.upload(CONTENT), shared.upload(table(20, seed=9))
    model = trained(shared, dataset, inputs=["a", "b"], targets=["y"])
    body = {"model": model, "dataset": dataset, "ood": {"dataset": other}}
    job = shared.post("/evaluations", json=body).json()["id"]
    for path in (f"/datasets/{dataset}", f"/datasets/{other}", f"/models/{model}"):
        assert_problem(shared.delete(path), 409)
    shared.work()
    assert shared.get(f"/jobs/{job}").json()["status"] == "succeeded"
    for path in (f"/models/{model}", f"/datasets/{dataset}", f"/datasets/{other}"):
        assert shared.delete(path).status_code == 204


@pytest.mark.parametrize("target", ["y", "third"])
def test_a_job_that_is_stopped_anywhere_ends_with_the_same_numbers(
    target: str, shared: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuts, "PIECE_NUMBERS", 200)
    monkeypatch.setattr(cuts, "MOST_ROWS", 25)
    dataset = shared.upload(CONTENT)
    model = trained(shared, dataset, inputs=["a", "b"], targets=[target])
    body = {"model": model, "dataset": dataset, "num_samples": 10, "seed": 3}
    body["ood"] = {"dataset": dataset, "rows": list(range(30))}
    whole = finished(shared, **body)["metrics"]["test"]
    job = shared.post("/evaluations", json=body).json()["id"]
    for stops in (3, 5, 2, 4):
        steps = iter(range(1000))
        assert shared.worker(should_stop=lambda s=steps, n=stops: next(s) >= n).work_once()
    shared.work()
    done = shared.get(f"/jobs/{job}").json()
    assert done["status"] == "succeeded"
    assert done["metrics"]["test"] == whole
    events = shared.get(f"/jobs/{job}/events").json()["data"]
    rows = [event["data"]["from_row"] for event in events if event["type"] == "retried"]
    assert rows == sorted(rows)
    assert 0 < rows[-1] < 90


def test_the_same_key_asks_for_one_job(world: tuple[Api, str], regressor: str) -> None:
    api, dataset = world
    body = {"model": regressor, "dataset": dataset}
    headers = {"Idempotency-Key": "measure-once"}
    first, second = (api.post("/evaluations", json=body, headers=headers) for _ in range(2))
    assert first.json()["id"] == second.json()["id"]
    api.work()
