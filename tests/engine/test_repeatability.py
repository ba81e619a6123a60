"""Any network, dropout, rows, passes and cuts: the bits of one pass of one row at a time."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.data.inputs import Inputs
from engine.network import Network
from engine.regularizers import resolve
from engine.sampling import Sampler
from engine.spec import RegularizationSpec
from tests.engine.networks import random_network
from tests.thoroughness import examples

DENSE: list[Any] = [
    11,
    {"size": 37, "name": "a", "activation": "tanh"},
    {"size": 37, "name": "b", "activation": "relu", "inputs": ["in:out", "a:pre"]},
    {"form": "add", "name": "s", "inputs": ["a", "b:pre"]},
    {"form": "concatenate", "name": "c", "inputs": ["s", "in", "b"]},
    {"form": "layer_norm", "name": "n", "activation": "sigmoid"},
    {"size": 70, "name": "d", "activation": "elu"},
    {"form": "tied", "partner": "d", "name": "t", "activation": "maxout:2"},
    3,
]
NETWORKS = {
    "dense": random_network(DENSE),
    "classifier": random_network([5, 90, 4], form="classifier"),
    "recurrent": random_network(
        [{"shape": [4, 3]}, {"form": "gru", "size": 5}, {"form": "last"}, 2]
    ),
    "convolution": random_network(
        [
            {"shape": [1, 5, 5]},
            {"form": "conv2", "size": 3, "filter_size": 3},
            {"form": "flatten"},
            2,
        ]
    ),
}
RATES = st.sampled_from([0.0, 1e-6, 0.004, 0.5, 0.97])
SPECS = st.fixed_dictionaries(
    {},
    optional={
        "input_dropout": RATES,
        "hidden_dropout": RATES,
        "dropout": st.dictionaries(st.sampled_from(["*:out", "*:pre", "[abd]*"]), RATES),
        "hidden_noise": st.sampled_from([0.0, 0.3]),
        "regularizers": st.just([{"form": "drop_connect", "pattern": "*.w*", "weight": 0.3}]),
    },
)


def regularized(network: Network, spec: dict[str, Any]) -> tuple[Any, ...]:
    names = network.graph.outputs
    patterns = spec.get("dropout", {})
    known = {
        p: r for p, r in patterns.items() if p == "*:out" or (p in ("*:pre",) and "a:pre" in names)
    }
    return tuple(
        resolve(RegularizationSpec.model_validate(spec | {"dropout": known}), network.graph)
    )


@settings(max_examples=examples(25, 200), deadline=None)
@given(
    name=st.sampled_from([*NETWORKS, "dense", "dense"]),
    spec=SPECS,
    rows=st.integers(1, 9),
    passes=st.integers(1, 7),
    cut=st.integers(0, 7),
    shared=st.booleans(),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**53 - 1),
)
def test_samples_are_those_of_one_pass_of_one_row_at_a_time(
    name: str,
    spec: dict[str, Any],
    rows: int,
    passes: int,
    cut: int,
    shared: bool,
    threads: int,
    seed: int,
) -> None:
    network = NETWORKS[name]
    regularizers = regularized(network, spec)
    wanted = tuple(network.graph.outputs)

    def sampler(threads: int = 1) -> Sampler:
        return Sampler(
            network,
            regularizers,
            wanted=wanted,
            masks="shared" if shared else "independent",
            threads=threads,
        )

    generator = np.random.default_rng(seed)
    shape = network.graph.inputs[0].shape
    x = generator.standard_normal((rows, *shape)).astype(np.float32)
    ids = generator.integers(0, 2**40, rows)
    seeds = [seed + (0 if row % 2 else 1) for row in range(rows)]
    given_rows = Inputs({"in:out": x})
    whole = sampler(threads).prepare(given_rows, ids, seeds)
    drawn = whole.draw(0, passes)
    ends = sorted({0, min(cut, passes), passes})
    pieces = [whole.draw(start, end - start) for start, end in pairwise(ends)]
    assert set(drawn) | set(whole.deterministic) == set(wanted)
    for output, samples in drawn.items():
        together = np.concatenate([piece[output] for piece in pieces])
        np.testing.assert_array_equal(together, samples)
    for row in range(rows):
        alone = sampler().prepare(given_rows[row : row + 1], ids[row : row + 1], [seeds[row]])
        for output, value in alone.deterministic.items():
            np.testing.assert_array_equal(value[0], whole.deterministic[output][row])
        for number in range(passes):
            for output, sample in alone.draw(number, 1).items():
                np.testing.assert_array_equal(sample[0, 0], drawn[output][number, row])


def test_rows_that_share_masks_vary_together_as_a_linear_network_has_to() -> None:
    """Cov(y_i, y_j) = p / (1 - p) sum_k w_k^2 x_ik x_jk."""
    network, rate, passes = random_network([6, 1]), 0.3, 40_000
    regularizers = regularized(network, {"input_dropout": rate})
    x = np.random.default_rng(4).standard_normal((3, 6)).astype(np.float32)
    sampler = Sampler(network, regularizers, wanted=("out:out",), masks="shared")
    samples = sampler.prepare(Inputs({"in:out": x}), np.arange(3)).draw(0, passes)["out:out"]
    weights = network.values["out.w"][:, 0].astype(np.float64)
    exact = rate / (1 - rate) * (x * weights**2) @ x.T
    deviations = samples[..., 0] - samples[..., 0].mean(axis=0, dtype=np.float64)
    products = deviations[:, :, None] * deviations[:, None, :]
    error = products.std(axis=0) / np.sqrt(passes)
    assert (np.abs(products.mean(axis=0) - exact) < 5 * error).all()
