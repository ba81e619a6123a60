"""The regularizer log of a run with every regularizer at once, against float64 worked by hand."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy

from engine.spec import REGULARIZERS
from tests.service.conftest import Api

Doubles = npt.NDArray[np.float64]

LAYERS = [
    None,
    {"form": "rnn", "name": "h", "size": 6},
    {"name": "g", "size": 4, "activation": "tanh"},
    None,
]
# What is random acts where no other term looks: nothing reads `g:pre`, and only `out` is behind
# `out.w` and `g:out`.
GIVEN: list[dict[str, Any]] = [
    {"form": "weight_l2", "weight": 0.3},
    {"form": "weight_l1", "pattern": "[gh].*", "weight": 0.2, "reduction": "sum"},
    {"form": "hidden_l1", "pattern": "h:*", "weight": 0.5},
    {"form": "contractive", "pattern": "h:out", "wrt": "in", "weight": 0.1},
    {"form": "recurrent_norm", "pattern": "h:out", "weight": 0.7},
    {"form": "recurrent_state", "pattern": "h:*", "weight": 0.4},
    {"form": "bernoulli_dropout", "pattern": "g:pre", "weight": 0.25, "rng": 13},
    {"form": "gaussian_noise", "pattern": "g:pre", "weight": 0.5},
    {"form": "drop_connect", "pattern": "out.w", "weight": 0.1},
    {"form": "concrete_dropout", "pattern": "g:out", "weight": 0.6, "weight_regularizer": 0.05,
     "initial_rate": 0.3},
]  # fmt: skip


def states(x: Doubles, w: dict[str, Doubles]) -> tuple[Doubles, Doubles, float]:
    """Return `pre` and `out` of every step, and the mean squared norm of rows' Jacobians."""
    pres, outs, squares = [], [], 0.0
    for row in x:
        state, jacobian = np.zeros(6), np.zeros((6, *row.shape))
        own: list[tuple[Doubles, Doubles]] = []
        for step, numbers in enumerate(row):
            pre = numbers @ w["h.xh"] + state @ w["h.hh"] + w["h.b"]
            state = np.tanh(pre)
            jacobian = np.einsum("ij,isk->jsk", w["h.hh"], jacobian)
            jacobian[:, step] += w["h.xh"].T
            jacobian *= (1 - state**2)[:, None, None]
            squares += float(np.square(jacobian).sum())
            own.append((pre, state))
        pres.append([pre for pre, _ in own])
        outs.append([out for _, out in own])
    return np.array(pres), np.array(outs), squares / len(x)


def expected_terms(x: Doubles, w: dict[str, Doubles]) -> list[float]:
    pre, out, jacobians = states(x, w)
    weights = [w[name] for name in ("h.xh", "h.hh", "g.w", "out.w")]
    norms = np.square(out).sum(axis=2)
    changes = [np.square(np.diff(z, axis=1)).mean() for z in (pre, out)]
    p = 0.3
    entropy = 4 * 5 * (p * np.log(p) + (1 - p) * np.log(1 - p))
    return [
        0.3 * float(np.mean([np.square(weight).mean() for weight in weights])),
        0.2 * float(sum(np.abs(weight).sum() for weight in weights[:3])),
        0.5 * float(np.mean([np.abs(pre).mean(), np.abs(out).mean()])),
        0.1 * jacobians,
        0.7 * float(np.square(np.diff(norms, axis=1)).mean()),
        0.4 * float(np.mean(changes)),
        0.0,
        0.0,
        0.0,
        0.6 * float(entropy) + 0.05 * float(np.square(w["out.w"]).sum()) / (1 - p),
    ]


def test_every_term_is_that_of_its_formula(api: Api) -> None:
    assert sorted(given["form"] for given in GIVEN) == sorted(REGULARIZERS)
    draw = np.random.default_rng(4)
    x = draw.standard_normal((40, 5, 3)).astype(np.float32)
    content = io.BytesIO()
    np.savez(content, x=x, y=draw.standard_normal((40, 5, 1)).astype(np.float32))
    job = api.train(
        api.upload(content.getvalue(), "application/x-npz"),
        network={"layers": LAYERS},
        regularizers=GIVEN,
        # So small a step that the parameters of the model are those that the log tells of.
        optimizer={"form": "sgd", "learning_rate": 1e-12},
        epochs=1,
        batch_size=64,
        validation=None,
    )
    api.work()
    model = api.get(f"/jobs/{job['id']}").json()["model"]
    stored = safetensors.numpy.load(api.get(f"/models/{model}/weights").content)
    w = {name: value.astype(np.float64) for name, value in stored.items()}
    standard = (x - x.mean(axis=(0, 1), dtype=np.float64)) / x.std(axis=(0, 1), dtype=np.float64)

    log = api.get(f"/jobs/{job['id']}/regularizers").json()["data"]
    assert [entry["form"] for entry in log] == [given["form"] for given in GIVEN]
    (histories,) = zip(*(entry["history"] for entry in log), strict=True)
    terms = [entry["loss"] for entry in histories]
    assert terms == pytest.approx(expected_terms(standard, w), rel=1e-5, abs=1e-12)
    rates = {name: rate for entry in histories for name, rate in entry["rates"].items()}
    for name, rate, count in (("g:pre", 0.25, 40 * 5 * 4), ("out.w", 0.1, 4)):
        assert abs(rates[name] - rate) < 4 * np.sqrt(rate * (1 - rate) / count)
    assert rates["g:out"] == pytest.approx(0.3, abs=1e-6)
