"""Losses are what their formulas say, alone and added, and refused where they make no sense."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import special, stats

from engine.calibration import mixture_log_likelihood
from engine.data.dataset import Data
from engine.errors import DataError, EngineError, SpecError
from engine.graph import Graph, build_graph, resolved_network
from engine.losses import LossTerms
from engine.network import Network
from engine.plan import TrainingPlan, plan_training
from engine.quantiles import mixture_quantiles
from engine.sampling import Sampler
from engine.spec import NetworkSpec, TrainSpec
from engine.summary import noise_variance
from engine.training import EpochEnd, Training, TrainingData
from tests.engine.networks import graph_of, rows_of

Doubles = npt.NDArray[np.float64]
RNG = np.random.default_rng(6)
ROWS, SIZE = 7, 3


def probabilities(*shape: int) -> Doubles:
    values: Doubles = special.softmax(RNG.standard_normal(shape), axis=-1)
    return values


def graph_with(loss: dict[str, Any], form: str = "regressor", *, steps: int | None = None) -> Graph:
    classes = form == "classifier" or loss["form"] == "kl"
    layers = [
        4 if steps is None else {"shape": [steps, 4]},
        {"name": "covar", "size": SIZE, "activation": "linear"},
        {"size": SIZE, "inputs": ["in"], "activation": "softmax" if classes else "linear"},
    ]
    spec = {"form": form, "layers": layers, "losses": [loss]}
    parsed = NetworkSpec.model_validate(spec)
    return build_graph(parsed, form=form, input_shapes=None, output_shape=None)  # type: ignore[arg-type]


def value(
    graph: Graph, outputs: dict[str, Doubles], target: npt.NDArray[Any], weights: Any = None
) -> float:
    terms = LossTerms(graph, {})
    tensors = {name: torch.from_numpy(np.asarray(v)) for name, v in outputs.items()}
    given = None if weights is None else torch.from_numpy(weights)
    (term,) = terms.values(tensors, [torch.from_numpy(target)], given)
    return float(term)


X, T = RNG.standard_normal((2, ROWS, SIZE))
P, Q = probabilities(ROWS, SIZE), probabilities(ROWS, SIZE)
V = RNG.standard_normal((ROWS, SIZE))
LABELS = RNG.integers(0, SIZE, ROWS)
W = RNG.random(ROWS)


def kernel(x: Doubles, y: Doubles, width: float) -> float:
    return float(np.mean([[np.exp(-((a - b) ** 2).sum() / width) for b in y] for a in x]))


ROWWISE: list[tuple[dict[str, Any], dict[str, Doubles], npt.NDArray[Any], Doubles]] = [
    ({"form": "mse"}, {"out:out": X}, T, ((X - T) ** 2).mean(axis=1)),
    ({"form": "mae"}, {"out:out": X}, T, np.abs(X - T).mean(axis=1)),
    (
        {"form": "kl"},
        {"out:pre": X},
        Q,
        special.rel_entr(Q, special.softmax(X, axis=1)).mean(axis=1),
    ),
    (
        {"form": "gll", "covar_eps": 0.1},
        {"out:out": X, "covar:out": V},
        T,
        -stats.norm.logpdf(T, X, np.sqrt(np.abs(V) + 0.1)).sum(axis=1),
    ),
    (
        {"form": "xe"},
        {"out:pre": X},
        LABELS,
        -np.log(special.softmax(X, axis=1)[np.arange(ROWS), LABELS]),
    ),
    (
        {"form": "hinge"},
        {"out:out": P},
        LABELS,
        np.array([max(0, (p - p[label]).max()) for p, label in zip(P, LABELS, strict=True)]),
    ),
]


@pytest.mark.parametrize(
    ("loss", "outputs", "target", "expected"), ROWWISE, ids=[case[0]["form"] for case in ROWWISE]
)
def test_a_loss_is_what_its_formula_says(
    loss: dict[str, Any], outputs: dict[str, Doubles], target: npt.NDArray[Any], expected: Doubles
) -> None:
    form = "classifier" if loss["form"] in ("xe", "hinge") else "regressor"
    graph = graph_with({**loss, "weight": 2.5}, form)
    assert value(graph, outputs, target) == pytest.approx(2.5 * expected.mean(), rel=1e-6)
    weighted = (expected * W).sum() / W.sum()
    assert value(graph, outputs, target, W) == pytest.approx(2.5 * weighted, rel=1e-6)


@pytest.mark.parametrize("width", [1.0, 3.0])
def test_a_discrepancy_compares_the_rows_of_a_batch(width: float) -> None:
    graph = graph_with({"form": "mmd", "kernel": width})
    expected = kernel(T, T, width) - 2 * kernel(T, X, width) + kernel(X, X, width)
    assert value(graph, {"out:out": X}, T) == pytest.approx(expected, rel=1e-9)
    assert value(graph, {"out:out": X}, X[::-1].copy()) == pytest.approx(0, abs=1e-12)


def test_a_discrepancy_keeps_its_digits_far_from_zero() -> None:
    x, t = (rows.astype(np.float32) for rows in (X + 1000, T + 1000))
    expected = weighted_discrepancy(x.astype(float), t.astype(float), np.ones(ROWS))
    found = value(graph_with({"form": "mmd"}), {"out:out": x}, t)
    assert found == pytest.approx(expected, rel=1e-4)


def test_batches_count_in_a_discrepancy_by_their_weights() -> None:
    terms = LossTerms(graph_with({"form": "mmd"}), {})
    x, t, weights = (torch.from_numpy(rows) for rows in (X, T, W))
    (found,) = terms.values({"out:out": x}, [t], weights, batch_size=3)
    parts = [slice(0, 3), slice(3, 6), slice(6, 7)]
    each = [weighted_discrepancy(X[p], T[p], W[p]) for p in parts]
    expected = np.average(each, weights=[W[p].sum() for p in parts])
    assert float(found) == pytest.approx(expected, rel=1e-9)
    (nothing,) = terms.values({"out:out": x}, [t], 0 * weights, batch_size=3)
    assert float(nothing) == 0


def weighted_discrepancy(x: Doubles, t: Doubles, w: Doubles) -> float:
    """The squared distance of two weighted mean embeddings, summed pair by pair."""
    p = (w / w.sum()).tolist()
    found = 0.0
    for i in range(len(p)):
        for j in range(len(p)):
            sizes = [((a[i] - b[j]) ** 2).sum() for a, b in ((t, t), (t, x), (x, x))]
            kernels = np.exp(-np.array(sizes)).tolist()
            found += p[i] * p[j] * (kernels[0] - 2 * kernels[1] + kernels[2])
    return float(found)


def test_a_discrepancy_weighs_rows_and_compares_each_step_by_itself() -> None:
    graph = graph_with({"form": "mmd"})
    found = value(graph, {"out:out": X}, T, W)
    assert found == pytest.approx(weighted_discrepancy(X, T, W), rel=1e-9)
    assert value(graph, {"out:out": X}, T, np.zeros(ROWS)) == 0
    x, t = RNG.standard_normal((2, ROWS, 4, SIZE))
    steps = RNG.random((ROWS, 4))
    each = [weighted_discrepancy(x[:, s], t[:, s], steps[:, s]) for s in range(4)]
    mass = steps.sum(axis=0)
    expected = (np.array(each) * mass).sum() / mass.sum()
    assert value(graph, {"out:out": x}, t, steps) == pytest.approx(expected, rel=1e-9)
    equal = [weighted_discrepancy(x[:, s], t[:, s], W) for s in range(4)]
    assert value(graph, {"out:out": x}, t, W) == pytest.approx(np.mean(equal), rel=1e-9)
    images = (x.reshape(ROWS, 2, 2, SIZE), t.reshape(ROWS, 2, 2, SIZE))
    flat = [image.reshape(ROWS, -1) for image in images]
    whole = weighted_discrepancy(flat[0], flat[1], W)
    found = value(graph, {"out:out": images[0]}, images[1], W)
    assert found == pytest.approx(whole, rel=1e-9)


def test_validation_rows_are_compared_in_batches_as_training_rows_are() -> None:
    terms = LossTerms(graph_with({"form": "mmd"}), {})
    x, t = torch.from_numpy(X), torch.from_numpy(T)
    (found,) = terms.values({"out:out": x}, [t], None, batch_size=3)
    parts = [terms.values({"out:out": x[r]}, [t[r]], None)[0].item() for r in BATCHES]
    assert found.item() == pytest.approx((3 * parts[0] + 3 * parts[1] + parts[2]) / 7)


BATCHES = [slice(0, 3), slice(3, 6), slice(6, 7)]


@pytest.mark.parametrize("form", ["mse", "mae", "gll"])
def test_losses_of_images_and_sequences_weigh_rows(form: str) -> None:
    graph = graph_with({"form": form})
    for shape, axis in (((ROWS, 4, SIZE), 2), ((ROWS, 2, 3, 5), 1)):
        x, t, v = RNG.standard_normal((3, *shape))
        if form == "gll":
            logs = -stats.norm.logpdf(t, x, np.sqrt(np.abs(v) + 1e-3)).sum(axis=axis)
        else:
            logs = ((x - t) ** 2 if form == "mse" else np.abs(x - t)).mean(axis=axis)
        expected = logs.reshape(ROWS, -1).mean(axis=1)
        outputs = {"out:out": x, "covar:out": v}
        assert value(graph, outputs, t) == pytest.approx(expected.mean())
        assert value(graph, outputs, t, W) == pytest.approx((expected * W).sum() / W.sum())


def test_divergence_is_exact_for_any_logit() -> None:
    """Probabilities that no float holds have logarithms, and gradients, all the same."""
    graph = graph_with({"form": "kl"})
    terms = LossTerms(graph, {})
    assert terms.outputs == ("out:pre",)
    logits = torch.tensor([[0.0, -200.0, -300.0]], requires_grad=True)
    shares = torch.tensor([[0.0, 1.0, 0.0]])
    (term,) = terms.values({"out:pre": logits}, [shares], None)
    assert term.item() == pytest.approx(200 / 3)
    (gradient,) = torch.autograd.grad(term, logits)
    np.testing.assert_allclose(gradient.numpy(), [[1 / 3, -1 / 3, 0]], atol=1e-6)


def test_shares_of_nothing_count_nothing() -> None:
    graph = graph_with({"form": "kl"})
    target = np.array([[1.0, 0.0, 0.0]])
    outputs = {"out:pre": np.array([[0.0, 0.0, -2000.0]])}
    assert value(graph, outputs, target) == pytest.approx(np.log(2) / 3)


@pytest.mark.parametrize("form", ["mse", "kl", "gll", "mmd", "xe", "hinge"])
def test_gradients_are_those_of_finite_differences(form: str) -> None:
    graph = graph_with({"form": form}, "classifier" if form in ("xe", "hinge") else "regressor")
    terms = LossTerms(graph, {})
    names = terms.outputs
    target = torch.from_numpy(LABELS if form in ("xe", "hinge") else Q)
    leaves = tuple(
        torch.from_numpy((P if name == "out:out" else V).copy()).requires_grad_() for name in names
    )

    def total(*values: torch.Tensor) -> torch.Tensor:
        return terms.values(dict(zip(names, values, strict=True)), [target], None)[0]

    assert torch.autograd.gradcheck(total, leaves)


# -- several, over data ----------------------------------------------------------------------------

N = 80
BASE = RNG.standard_normal((N, 3)).astype(np.float32)
ARRAYS: dict[str, npt.NDArray[Any]] = {
    "x": BASE,
    "y": (BASE[:, :1] * 2 + 5).astype(np.float32),
    "z": (BASE[:, 1:] * 30).astype(np.float32),
    "kind": (BASE[:, 0] > 0).astype(np.int64) + 3,
}
SEVERAL = {
    "layers": [
        None,
        {"name": "h", "size": 16, "activation": "tanh"},
        {"name": "aux", "size": 2, "inputs": ["h"], "activation": "linear"},
        {"name": "which", "form": "softmax", "size": 2, "inputs": ["h"]},
        {"name": "back", "size": 3, "inputs": ["h"], "activation": "linear"},
        {"name": "out", "size": 1, "inputs": ["h"]},
    ],
    "losses": [
        {"form": "mse"},
        {"form": "mae", "weight": 0.5, "output_name": "aux", "targets": ["z"]},
        {"form": "xe", "weight": 0.2, "output_name": "which:out", "targets": ["kind"]},
        {"form": "mse", "weight": 0.1, "output_name": "back", "targets": ["x"]},
    ],
}


def planned(arrays: dict[str, Any], network: dict[str, Any], **more: Any) -> TrainingPlan:
    spec = TrainSpec.model_validate({"network": network, **{"epochs": 60, **more}})
    return plan_training(spec, Data(arrays=arrays))


def run_of(plan: TrainingPlan, data: Data) -> Training:
    def rows(numbers: npt.NDArray[np.int64]) -> TrainingData:
        encoding = plan.encoding
        targets = [t.encode_targets(data, numbers) for t in (encoding, *encoding.auxiliary)]
        own, *auxiliary = map(torch.from_numpy, targets)
        x = encoding.encode_inputs(data, numbers).map(torch.from_numpy)
        return TrainingData(x=x, y=own, auxiliary=tuple(auxiliary))

    assert plan.split.valid is not None
    train, valid = rows(plan.split.train), rows(plan.split.valid)
    return Training(plan.graph, plan.spec, plan.regularizers, train, valid)


def run(plan: TrainingPlan, data: Data) -> tuple[Training, list[EpochEnd]]:
    training = run_of(plan, data)
    return training, [event for event in training if isinstance(event, EpochEnd)]


def test_several_losses_are_added_and_told_one_by_one() -> None:
    plan = planned(ARRAYS, SEVERAL, optimizer={"form": "adam", "learning_rate": 0.01})
    assert plan.selection.inputs == ("x",)
    assert [target.form for target in plan.encoding.auxiliary] == [
        "regressor", "classifier", "regressor",
    ]  # fmt: skip
    assert plan.encoding.auxiliary[1].classes == (3, 4)
    _, ends = run(plan, Data(arrays=ARRAYS))
    labels = ["mse(out:out)", "mae(aux:out)", "xe(which:out)", "mse(back:out)"]
    for measured in (ends[-1].train, ends[-1].valid):
        assert measured["loss"] == pytest.approx(sum(measured[name] for name in labels), rel=1e-5)
    for name in labels:
        assert ends[-1].valid[name] < 0.5 * ends[0].valid[name]


@pytest.mark.parametrize("stop_after", [1, 5, 12])
def test_several_losses_resume_to_the_bit(stop_after: int) -> None:
    """Stopped within an epoch, with what each term has added up to so far."""
    plan = planned(ARRAYS, SEVERAL, hidden_dropout=0.1, batch_size=8, epochs=3)

    def fresh() -> Training:
        training = run_of(plan, Data(arrays=ARRAYS))
        training._steps.block_rows = lambda: 16  # type: ignore[method-assign]
        return training

    undisturbed, first, second = fresh(), fresh(), fresh()
    expected = [event for event in undisturbed if isinstance(event, EpochEnd)]
    seen = list(itertools.islice(first, stop_after))
    second.restore(first.state())
    found = [event for event in (*seen, *second) if isinstance(event, EpochEnd)]
    assert found == expected
    assert second.state() == undisturbed.state()


@pytest.mark.parametrize("form", ["mse", "mae", "gll", "mmd", "kl", "xe", "hinge"])
def test_steps_of_weight_zero_might_have_any_target(form: str) -> None:
    """Nothing of training depends on them, nor of validation, and rows without any are no harm."""
    rng = np.random.default_rng(2)
    of_classes = form in ("xe", "hinge")
    kind = "classifier" if of_classes else "regressor"
    graph = graph_with({"form": form}, kind, steps=5)
    weights = (rng.random((24, 5)) < 0.6).astype(np.float32)
    weights[:4] = 0
    x = torch.from_numpy(rng.standard_normal((24, 5, 4)).astype(np.float32))

    def targets() -> npt.NDArray[Any]:
        if of_classes:
            return rng.integers(0, SIZE, (24, 5))
        shares = special.softmax(3 * rng.standard_normal((24, 5, SIZE)), axis=-1)
        return np.asarray(shares, dtype=np.float32)

    first, second = targets(), targets()
    counts = weights > 0 if of_classes else (weights > 0)[..., None]
    found = []
    for given in (first, np.where(counts, first, second)):
        data = TrainingData(
            x=rows_of(x), y=torch.from_numpy(given), weights=torch.from_numpy(weights)
        )
        spec = TrainSpec.model_validate(
            {"network": resolved_network(graph), "epochs": 2, "batch_size": 2}
        )
        training = Training(graph, spec, (), data, data)
        ends = [event for event in training if isinstance(event, EpochEnd)]
        assert np.isfinite(ends[-1].train["loss"])
        found.append((training.kept_parameters(), [(e.train, e.valid["loss"]) for e in ends]))
    assert found[0][1] == found[1][1]
    for name, value in found[0][0].items():
        np.testing.assert_array_equal(value, found[1][0][name])


def test_an_autoencoder_of_distributions_reads_and_gives_shares() -> None:
    shares = probabilities(N, 4).astype(np.float32)
    layers = [None, 3, {"activation": "softmax"}]
    plan = planned({"x": shares}, {"form": "autoencoder", "layers": layers, "loss": "kl"})
    data = Data(arrays={"x": shares})
    np.testing.assert_array_equal(plan.encoding.encode_inputs(data).values["in:out"], shares)
    np.testing.assert_array_equal(plan.encoding.encode_targets(data), shares)
    _, ends = run(plan, data)
    assert ends[-1].valid["loss"] < ends[0].valid["loss"]
    with pytest.raises(DataError, match="add up to 1") as caught:
        planned({"x": BASE**2}, {"form": "autoencoder", "layers": layers, "loss": "kl"})
    assert caught.value.pointer == "#/inputs"


def test_dropout_of_the_variances_is_warned_of() -> None:
    layers = [None, 5, {"name": "covar", "size": 1, "inputs": ["hid1"]}, {"inputs": ["hid1"]}]
    network = {"layers": layers, "loss": "gll"}
    (warning,) = planned(ARRAYS, network, hidden_dropout=0.1).warnings
    assert "'covar:out', the variances" in warning
    assert planned(ARRAYS, network, dropout={"hid1:out": 0.1}).warnings == ()


def test_a_network_with_several_losses_is_told_whole() -> None:
    plan = planned(ARRAYS, SEVERAL)
    told = NetworkSpec.model_validate_json(resolved_network(plan.graph).model_dump_json())
    again = build_graph(told, form="regressor", input_shapes=None, output_shape=None)
    assert again == plan.graph
    assert resolved_network(graph_of([2, 3, 1])).losses is None


def test_learnt_noise_is_what_the_data_have() -> None:
    """Noise that grows with x is found, and the likelihood is that of the right normals."""
    rng = np.random.default_rng(1)
    x = rng.uniform(0, 1, (2000, 1)).astype(np.float32)
    deviation = 0.1 + x
    arrays = {"x": x, "y": (3 * x + deviation * rng.standard_normal(x.shape)).astype(np.float32)}
    network = {
        "layers": [
            None,
            [30, "tanh"],
            {"name": "covar", "size": 1, "inputs": ["hid1"], "activation": "softplus"},
            {"name": "mean", "size": 1, "inputs": ["hid1"]},
        ],
        "loss": "gll",
    }
    plan = planned(
        arrays, network, optimizer={"form": "adam", "learning_rate": 0.02}, batch_size=100
    )
    assert plan.graph.noise_output == "covar:out"
    training, ends = run(plan, Data(arrays=arrays))
    assert ends[-1].valid["loss"] < ends[0].valid["loss"]
    net = Network(plan.graph, training.kept_parameters())
    points = np.array([[0.1], [0.5], [0.9]], dtype=np.float32)
    scaled = plan.encoding.encode_inputs(Data(arrays={"x": points, "y": points}))
    drawn = Sampler(net, (), wanted=("covar:out",)).deterministic(scaled)["covar:out"]
    found = np.sqrt(noise_variance(plan.graph, plan.encoding, drawn))
    np.testing.assert_allclose(found, 0.1 + points, rtol=0.25)


def test_noise_is_learnt_by_gll_wherever_it_stands_among_the_losses() -> None:
    graph = graph_with({"form": "gll", "covar_eps": 0.5})
    told = resolved_network(graph).model_dump()
    first = NetworkSpec.model_validate({**told, "losses": [{"form": "mse"}, *(told["losses"])]})
    again = build_graph(first, form="regressor", input_shapes=None, output_shape=None)
    assert again.loss == "mse"
    assert again.noise_output == "covar:out"
    assert again.noise_loss is not None
    assert again.noise_loss.covar_eps == 0.5


def test_mixtures_may_have_a_noise_of_each_sample() -> None:
    rng = np.random.default_rng(3)
    samples, deviation = rng.standard_normal((5, 4)), rng.uniform(0.2, 2, (5, 4))
    truth = rng.standard_normal(4)
    density = stats.norm.pdf(truth, samples, deviation).mean(axis=0)
    ours = mixture_log_likelihood(samples, truth, deviation**-2)
    np.testing.assert_allclose(ours, np.log(density), rtol=1e-12)
    for quantile, found in zip(
        (0.05, 0.5, 0.99), mixture_quantiles(samples, deviation**-2, (0.05, 0.5, 0.99)), strict=True
    ):
        share = stats.norm.cdf(found, samples, deviation).mean(axis=0)
        np.testing.assert_allclose(share, quantile, atol=1e-9)


@pytest.mark.parametrize(
    ("network", "more", "pointer"),
    [
        ({"loss": "xe"}, {}, "#/network/loss"),
        ({"loss": "kl"}, {}, "#/network/loss"),
        ({"loss": "gll"}, {}, "#/network/loss"),
        ({"losses": [{"form": "mae", "output_name": "hid9"}]},
         {}, "#/network/losses/0/output_name"),
        ({"losses": [{"form": "mae", "output_name": "hid1"}]},
         {}, "#/network/losses/0/output_name"),
        ({"losses": [{"form": "mse"}, {"form": "mse", "output_name": "hid1", "targets": ["z"]}]},
         {}, "#/network/losses/1/output_name"),
        ({"losses": [{"form": "mse"}, {"form": "xe", "output_name": "hid1", "targets": ["kind"]}]},
         {}, "#/network/losses/1/output_name"),
        ({"losses": [{"form": "mse"}, {"form": "mse", "targets": ["no*"]}]},
         {}, "#/network/losses/1/targets/0"),
        ({"losses": [{"form": "mse", "targets": ["z"], "output_name": "two"}]},
         {}, "#/network/losses"),
        ({"loss": "mmd"}, {"batch_size": 5000}, "#/batch_size"),
    ],
)  # fmt: skip
def test_losses_that_make_no_sense_are_refused(
    network: dict[str, Any], more: dict[str, Any], pointer: str
) -> None:
    layers = [None, 5, {"name": "two", "size": 2}, None]
    arrays = {name: np.tile(rows, (63,) + (1,) * (rows.ndim - 1)) for name, rows in ARRAYS.items()}
    with pytest.raises(EngineError) as caught:
        planned(arrays, {"layers": layers, **network}, **more)
    assert caught.value.pointer == pointer
    assert isinstance(caught.value, SpecError | DataError)


def test_targets_that_are_no_distributions_are_refused() -> None:
    network = {"layers": [None, 5, [None, "softmax"][1:]], "loss": "kl"}
    arrays = {"x": BASE, "y": np.abs(BASE)}
    with pytest.raises(DataError, match="add up to 1"):
        planned(arrays, network)
    shares = arrays["y"] / arrays["y"].sum(axis=1, keepdims=True)
    plan = planned({"x": BASE, "y": shares}, network)
    np.testing.assert_allclose(plan.encoding.encode_targets(Data(arrays={"y": shares})), shares)


def test_targets_of_another_data_set_that_are_no_distributions_are_refused() -> None:
    network = {"layers": [None, 5, {"activation": "softmax"}], "loss": "kl"}
    shares = np.abs(BASE) / np.abs(BASE).sum(axis=1, keepdims=True)
    spec = TrainSpec.model_validate({"network": network, "validation": {"dataset": "other"}})
    data = Data(arrays={"x": BASE, "y": shares})
    assert plan_training(spec, data, data).valid_rows == N
    with pytest.raises(DataError, match="add up to 1") as caught:
        plan_training(spec, data, Data(arrays={"x": BASE, "y": 2 * shares}))
    assert caught.value.pointer == "#/validation/dataset"


def test_learnt_noise_needs_no_validation_rows() -> None:
    layers = [None, {"name": "covar", "size": 1}, {"inputs": "in"}]
    without = {"validation": None}
    (warning,) = planned(ARRAYS, {"layers": [None, None]}, **without).warnings
    assert "aleatoric variance" in warning
    assert planned(ARRAYS, {"layers": layers, "loss": "gll"}, **without).warnings == ()


@pytest.mark.parametrize("form", ["gru", "rrnn", "bidirectional"])
def test_states_that_mix_are_no_probabilities(form: str) -> None:
    """Their `out` is more than a softmax, and need not add up to 1."""
    steps = 4
    arrays = {
        "x": RNG.standard_normal((N, steps, 3)),
        "y": RNG.standard_normal((N, steps, 2)),
        "kind": RNG.integers(4, size=(N, steps)),
    }
    layers = [
        None,
        {"form": form, "name": "mixed", "size": 4, "activation": "softmax"},
        {"form": "ff", "inputs": "in"},
    ]
    losses = [{"form": "mse"}, {"form": "xe", "output_name": "mixed", "targets": ["kind"]}]
    network = {"layers": layers, "losses": losses}
    with pytest.raises(SpecError, match="form 'softmax' behind it") as caught:
        planned(arrays, network, inputs=["x"], targets=["y"])
    assert caught.value.pointer == "#/network/losses/1/output_name"
