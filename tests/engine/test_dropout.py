"""Dropout: which outputs a pattern reaches, in which order, and what becomes of the elements."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.errors import PatternError
from engine.network import Network
from engine.regularizers import (
    BernoulliDropout,
    Regularizer,
    resolve,
    sites_of,
    unread_warnings,
)
from engine.sampling import Sampler
from engine.spec import RegularizationSpec
from engine.statistics import mean_and_variance
from tests.engine.networks import Floats, graph_of, identity_network, random_network, rows_of


def resolved(network: Network, **keywords: Any) -> tuple[Regularizer, ...]:
    return resolve(RegularizationSpec.model_validate(keywords), network.graph)


def one_pass(network: Network, x: Floats, *wanted: str, seed: int = 1, **keywords: Any) -> Any:
    sampler = Sampler(network, resolved(network, **keywords), wanted=wanted, seed=seed)
    values = sampler.deterministic(rows_of(x))
    if sampler.stochastic:
        drawn = sampler.samples(rows_of(x), np.arange(len(x)), np.arange(1))
        values |= {name: value[0] for name, value in drawn.items()}
    return values


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_every_element_is_zero_or_scaled(rate: float) -> None:
    x = np.linspace(-3, 3, 1000 * 8, dtype=np.float32).reshape(1000, 8)
    out = one_pass(identity_network(8), x, "out:out", hidden_dropout=0.0, input_dropout=rate)
    y = out["out:out"]
    kept = y != 0
    np.testing.assert_allclose(y[kept], x[kept] / (1 - rate), rtol=3e-7)
    bound = 4 * np.sqrt(rate * (1 - rate) / x.size)
    assert abs(1 - kept.mean() - rate) < bound


def test_the_rate_over_a_million_elements_is_within_four_standard_errors() -> None:
    x = np.ones((10_000, 100), dtype=np.float32)
    rate = 0.005
    y = one_pass(identity_network(100), x, "out:out", dropout={"hid1:out": rate})["out:out"]
    assert abs((y == 0).mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / x.size)
    assert y.max() == pytest.approx(1 / (1 - rate))


def test_a_pattern_reaches_the_outputs_it_matches_and_no_other() -> None:
    network = identity_network(16, depth=5)
    sites = sites_of(resolved(network, dropout={"hid[23]:out": 0.5}))
    assert sorted(sites) == ["hid2:out", "hid3:out"]
    x = np.ones((200, 16), dtype=np.float32)
    values = one_pass(
        network, x, "in:out", "hid1:out", "hid2:out", "hid2:out-predrop", "hid3:pre", "hid4:out",
        dropout={"hid[23]:out": 0.5},
    )  # fmt: skip
    assert (values["in:out"] == 1).all()
    assert (values["hid1:out"] == 1).all()
    assert (values["hid2:out-predrop"] == 1).all()
    assert set(np.unique(values["hid2:out"])) == {0, 2}
    assert np.array_equal(values["hid3:pre"], values["hid2:out"])  # its reader reads it dropped
    assert set(np.unique(values["hid4:out"])) == {0, 4}


def test_keywords_mean_the_layers_outs() -> None:
    network = identity_network(4, depth=4)
    matched = {
        keyword: [r.matched for r in resolved(network, **{keyword: 0.1})]
        for keyword in ("input_dropout", "hidden_dropout", "output_dropout")
    }
    assert matched == {
        "input_dropout": [("in:out",)],
        "hidden_dropout": [("hid1:out", "hid2:out", "hid3:out")],
        "output_dropout": [("out:out",)],
    }


def test_a_keyword_and_the_pattern_that_says_the_same_draw_the_same() -> None:
    network = identity_network(8)
    x = np.ones((50, 8), dtype=np.float32)
    (by_keyword,) = resolved(network, hidden_dropout=0.3)
    assert isinstance(by_keyword, BernoulliDropout)
    one = one_pass(network, x, "out:out", hidden_dropout=0.3)["out:out"]
    two = one_pass(network, x, "out:out", dropout={by_keyword.pattern: 0.3})["out:out"]
    assert np.array_equal(one, two)


def test_hidden_layers_with_other_names_are_dropped_one_by_one() -> None:
    network = random_network([4, {"size": 5, "name": "left"}, {"size": 5, "name": "hid9"}, 1])
    patterns = [r.pattern for r in resolved(network, hidden_dropout=0.3)]
    assert patterns == ["left:out", "hid9:out"]


def test_everything_includes_input_and_output() -> None:
    network = identity_network(4, depth=3)
    (everything,) = resolved(network, dropout={"*:out": 0.1})
    assert everything.matched == ("in:out", "hid1:out", "hid2:out", "out:out")


def test_overlapping_patterns_compound_in_order() -> None:
    network = identity_network(50, depth=3)
    regularizers = resolved(
        network,
        regularizers=[{"form": "bernoulli_dropout", "pattern": "hid1:*", "weight": 0.5}],
        dropout={"hid[12]:out": 0.2, "*1:out": 0.1},
        hidden_dropout=0.4,
    )
    order = [(r.pattern, r.weight) for r in regularizers]
    assert order == [("hid*:out", 0.4), ("hid[12]:out", 0.2), ("*1:out", 0.1), ("hid1:*", 0.5)]
    sites = sites_of(regularizers)
    assert [site.level for site in sites["hid1:out"]] == [0.4, 0.2, 0.1, 0.5]
    x = np.ones((4000, 50), dtype=np.float32)
    sampler = Sampler(network, regularizers, wanted=("hid1:out",), seed=5)
    y = sampler.samples(rows_of(x), np.arange(len(x)), np.arange(1))["hid1:out"][0]
    kept = 0.6 * 0.8 * 0.9 * 0.5
    np.testing.assert_allclose(y[y != 0], 1 / kept, rtol=1e-6)
    assert abs((y != 0).mean() - kept) < 4 * np.sqrt(kept * (1 - kept) / y.size)


def test_the_same_pattern_given_twice_draws_independently() -> None:
    network = identity_network(100)
    twice = {"form": "bernoulli_dropout", "pattern": "hid1:out", "weight": 0.5}
    x = np.ones((400, 100), dtype=np.float32)
    y = one_pass(network, x, "hid1:out", regularizers=[twice, twice])["hid1:out"]
    assert abs((y != 0).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / y.size)


def test_the_order_of_other_regularizers_does_not_move_a_stream() -> None:
    network = identity_network(20, depth=4)
    x = np.ones((30, 20), dtype=np.float32)
    alone = one_pass(network, x, "hid2:out", dropout={"hid2:out": 0.5})["hid2:out"]
    later = one_pass(network, x, "hid2:out", dropout={"hid3:out": 0.1, "hid2:out": 0.5})
    assert np.array_equal(alone, later["hid2:out"])


def test_rng_gives_a_regularizer_a_stream_of_its_own() -> None:
    network = identity_network(20)
    x = np.ones((30, 20), dtype=np.float32)

    def drawn(rng: int | None) -> Floats:
        given = {"form": "bernoulli_dropout", "pattern": "hid1:out", "weight": 0.5, "rng": rng}
        value: Floats = one_pass(network, x, "hid1:out", regularizers=[given])["hid1:out"]
        return value

    assert np.array_equal(drawn(None), drawn(0))
    assert np.array_equal(drawn(13), drawn(13))
    assert not np.array_equal(drawn(0), drawn(13))


def test_dropping_pre_does_not_change_out() -> None:
    network = identity_network(10)
    x = np.ones((40, 10), dtype=np.float32)
    values = one_pass(network, x, "hid1:pre", "hid1:out", "out:out", dropout={"hid1:pre": 0.5})
    assert set(np.unique(values["hid1:pre"])) == {0, 2}
    assert (values["hid1:out"] == 1).all()
    assert (values["out:out"] == 1).all()
    (warning,) = unread_warnings(resolved(network, dropout={"hid1:pre": 0.5}), network.graph)
    assert "'hid1:pre'" in warning


@pytest.mark.parametrize(
    ("keywords", "pointer"),
    [
        ({"dropout": {"hid9:out": 0.1}}, "#/dropout/hid9:out"),
        ({"dropout": {"HID1:out": 0.1}}, "#/dropout/HID1:out"),
        ({"dropout": {"a/b~": 0.1}}, "#/dropout/a~1b~0"),
        ({"dropout": {"hid1:out-predrop": 0.1}}, "#/dropout/hid1:out-predrop"),
        (
            {"regularizers": [{"form": "bernoulli_dropout", "pattern": "x", "weight": 0.1}]},
            "#/regularizers/0/pattern",
        ),
        (
            {"regularizers": [{"form": "weight_l2", "pattern": "*.b", "weight": 0.1}]},
            "#/regularizers/0/pattern",
        ),
    ],
)
def test_a_pattern_that_matches_nothing_lists_what_exists(
    keywords: dict[str, Any], pointer: str
) -> None:
    network = identity_network(3)
    with pytest.raises(PatternError, match=r"hid1[.:]") as caught:
        resolved(network, **keywords)
    assert caught.value.pointer == pointer


def test_hidden_dropout_needs_a_hidden_layer() -> None:
    graph = graph_of([3, 1])
    with pytest.raises(PatternError):
        resolve(RegularizationSpec(hidden_dropout=0.1), graph)
    assert resolve(RegularizationSpec(hidden_dropout=0.0), graph) == ()


def test_variance_is_zero_exactly_where_no_mask_reaches() -> None:
    network = random_network([6, 12, 12, 2], seed=3)
    x = np.random.default_rng(0).standard_normal((9, 6)).astype(np.float32)
    wanted = ("in:out", "hid1:out", "hid2:out-predrop", "hid2:out", "out:out")
    sampler = Sampler(network, resolved(network, dropout={"hid2:out": 0.3}), wanted=wanted, seed=2)
    assert sampler.stochastic == ("hid2:out", "out:out")
    assert sorted(sampler.deterministic(rows_of(x))) == ["hid1:out", "hid2:out-predrop", "in:out"]
    samples = sampler.samples(rows_of(x), np.arange(9), np.arange(50))
    _, variance = mean_and_variance(samples["hid2:out"])
    assert variance is not None
    active = sampler.deterministic(rows_of(x))["hid2:out-predrop"] != 0
    assert (variance[~active] == 0).all()
    assert (variance[active] > 0).all()


def test_theanets_log_lines_are_kept() -> None:
    network = identity_network(3)
    (dropout,) = resolved(network, hidden_dropout=0.5)
    assert dropout.log() == "regularizer: BernoulliDropout(hid*:out) ~ B(0.5)"


def test_a_keyword_of_zero_asks_for_nothing_but_a_pattern_of_zero_stays() -> None:
    network = identity_network(3)
    assert resolved(network, input_dropout=0.0, hidden_dropout=0.0, output_noise=0.0) == ()
    (zero,) = resolved(network, dropout={"hid1:out": 0.0})
    assert zero.matched == ("hid1:out",)
