"""Penalties on derivatives and on changes between steps, against float64 worked by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from engine.data.inputs import Inputs
from engine.errors import SpecError
from engine.graph import Graph, build_graph
from engine.initializers import initial_parameters
from engine.regularizers import ContractivePenalty, Regularizer, resolve
from engine.spec import RegularizationSpec, TrainSpec
from engine.training import EpochEnd, Training, TrainingData
from tests.engine.networks import graph_of

ROWS = np.random.default_rng(8).standard_normal((12, 4)).astype(np.float32)
STEPS = np.random.default_rng(9).standard_normal((7, 5, 3)).astype(np.float32)


def one_epoch(layers: list[Any], x: dict[str, Any], **spec: Any) -> tuple[EpochEnd, Graph]:
    """One step of almost nothing on all rows, so that the log tells of the initial parameters."""
    parsed = TrainSpec.model_validate(
        {
            "network": {"layers": layers},
            "epochs": 1,
            "batch_size": 1000,
            "optimizer": {"form": "sgd", "learning_rate": 1e-12},
            "validation": None,
            **spec,
        }
    )
    rows = Inputs({f"{name}:out": torch.from_numpy(value) for name, value in x.items()})
    shapes = {name: value.shape[1:] for name, value in x.items()}
    graph = build_graph(parsed.network, form="regressor", input_shapes=shapes, output_shape=None)
    y = torch.zeros(len(rows), *graph.last.shape)
    training = Training(graph, parsed, resolve(parsed, graph), TrainingData(x=rows, y=y))
    (end,) = [event for event in training if isinstance(event, EpochEnd)]
    return end, graph


def terms(end: EpochEnd) -> list[float]:
    return [entry["loss"] for entry in end.regularizers]


def test_the_contractive_term_is_the_squared_norm_of_the_jacobian() -> None:
    layers = [None, [6, "tanh"], [5, "sigmoid"], 2]
    end, graph = one_epoch(
        layers,
        {"in": ROWS},
        regularizers=[
            {"form": "contractive", "weight": 0.3},
            {"form": "contractive", "weight": 2.0, "pattern": "hid1:pre", "wrt": "in:out"},
        ],
    )
    w = {name: v.astype(np.float64) for name, v in initial_parameters(graph, seed=13).items()}
    first = second = 0.0
    for x in ROWS.astype(np.float64):
        h1 = np.tanh(x @ w["hid1.w"] + w["hid1.b"])
        j1 = (1 - h1**2)[:, None] * w["hid1.w"].T
        h2 = 1 / (1 + np.exp(-(h1 @ w["hid2.w"] + w["hid2.b"])))
        j2 = (h2 * (1 - h2))[:, None] * w["hid2.w"].T @ j1
        first += np.square(j1).sum() / len(ROWS)
        second += np.square(j2).sum() / len(ROWS)
    expected = [0.3 * (first + second) / 2, 2.0 * np.square(w["hid1.w"]).sum()]
    np.testing.assert_allclose(terms(end), expected, rtol=1e-5)


def test_the_contractive_term_may_aim_at_one_of_several_inputs() -> None:
    layers = [
        {"name": "a", "form": "input"},
        {"name": "b", "form": "input"},
        {"name": "h", "size": 3, "inputs": ["a", "b"], "activation": "tanh"},
        {"name": "g", "size": 2, "inputs": ["a"], "activation": "linear"},
        {"name": "out", "size": 1, "inputs": ["h", "g"]},
    ]
    end, graph = one_epoch(
        layers,
        {"a": ROWS, "b": ROWS[:, :2].copy()},
        regularizers=[
            {"form": "contractive", "weight": 1.0, "pattern": "h:out", "wrt": "b"},
            {"form": "contractive", "weight": 1.0, "pattern": "g:out", "wrt": "b"},
        ],
    )
    w = {name: v.astype(np.float64) for name, v in initial_parameters(graph, seed=13).items()}
    h = np.tanh(ROWS @ w["h.w_a:out"] + ROWS[:, :2] @ w["h.w_b:out"] + w["h.b"])
    expected = ((1 - h**2) ** 2 @ np.square(w["h.w_b:out"]).sum(axis=0)).mean()
    np.testing.assert_allclose(terms(end), [expected, 0.0], rtol=1e-5)


def test_gradients_of_the_contractive_term_are_those_of_finite_differences() -> None:
    graph = graph_of([4, [3, "tanh"], 1])
    (penalty,) = resolve(
        RegularizationSpec.model_validate({"regularizers": [{"form": "contractive", "weight": 2}]}),
        graph,
    )
    assert isinstance(penalty, ContractivePenalty)
    x = torch.from_numpy(ROWS).double().requires_grad_()
    w = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def term(weights: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(x @ weights)
        return penalty.loss({}, {"hid1:out": hidden}, {"in:out": x})

    assert torch.autograd.gradcheck(term, (w.requires_grad_(),))


def test_terms_of_steps_are_those_of_their_formulas() -> None:
    end, graph = one_epoch(
        [None, [6, "tanh"], 2],
        {"in": STEPS},
        regularizers=[
            {"form": "recurrent_norm", "pattern": "hid1:*", "weight": 0.5},
            {"form": "recurrent_state", "pattern": "hid1:out", "weight": 0.25},
            {"form": "recurrent_state", "pattern": "hid1:out", "weight": 1, "reduction": "sum"},
        ],
    )
    w = {name: v.astype(np.float64) for name, v in initial_parameters(graph, seed=13).items()}
    pre = STEPS @ w["hid1.w"] + w["hid1.b"]
    out = np.tanh(pre)

    def norm_change(z: np.ndarray[Any, Any]) -> float:
        total = 0.0
        for row in z:
            for t in range(1, len(row)):
                total += (row[t] @ row[t] - row[t - 1] @ row[t - 1]) ** 2
        return float(total / (len(z) * (z.shape[1] - 1)))

    changes = [row[t] - row[t - 1] for row in out for t in range(1, len(row))]
    expected = [
        0.5 * (norm_change(pre) + norm_change(out)) / 2,
        0.25 * np.mean(np.square(changes)),
        np.mean([change @ change for change in changes]),
    ]
    np.testing.assert_allclose(terms(end), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("regularizer", "pointer", "words"),
    [
        ({"form": "recurrent_norm", "pattern": "*"}, "pattern", "several steps"),
        ({"form": "contractive", "wrt": "hid1"}, "wrt", "in"),
        ({"form": "contractive", "pattern": "no:out"}, "pattern", "hid1:out"),
    ],
)
def test_what_matches_nothing_is_refused(
    regularizer: dict[str, Any], pointer: str, words: str
) -> None:
    spec = RegularizationSpec.model_validate({"regularizers": [{**regularizer, "weight": 1}]})
    with pytest.raises(SpecError, match=words) as caught:
        resolve(spec, graph_of([4, 3, 1]))
    assert caught.value.pointer == f"#/regularizers/0/{pointer}"


def hidden_pattern(layers: list[Any]) -> Regularizer:
    spec = RegularizationSpec.model_validate({"regularizers": [{"form": "hidden_l1", "weight": 1}]})
    return resolve(spec, graph_of(layers))[0]


def test_a_pattern_not_given_is_told_as_one_that_says_the_same() -> None:
    assert hidden_pattern([4, 3, 3, 1]).pattern == "hid*:out"
    named = hidden_pattern([4, {"name": "code", "size": 3}, 3, 1])
    assert named.pattern is None
    assert named.matched == ("code:out", "hid2:out")
    assert named.log() == "regularizer: 1 * HiddenL1(code:out,hid2:out)"
