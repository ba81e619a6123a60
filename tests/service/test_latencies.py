"""What predictions took, by phase: counted once each, and told by `/metrics`."""

from __future__ import annotations

import threading

from prometheus_client.parser import text_string_to_metric_families

from service.latencies import BOUNDS_S, PHASES, Latencies
from tests.service.conftest import Api

Series = dict[tuple[str, str], float]


def test_a_duration_counts_for_every_bound_that_it_does_not_exceed() -> None:
    latencies = Latencies()
    latencies.add(0.0, BOUNDS_S[2], BOUNDS_S[2] * 1.01, 100)
    latencies.add(1e9, BOUNDS_S[0], 0.0, 0)
    spreads = latencies.spreads()
    last = len(BOUNDS_S) - 1
    assert list(spreads) == list(PHASES)
    assert spreads["queue"].up_to == [1] * (last + 1) + [2]
    assert spreads["compute"].up_to == [1, 1] + [2] * last
    assert spreads["encode"].up_to == [1, 1, 1] + [2] * (last - 1)
    assert spreads["compute"].seconds == BOUNDS_S[2] + BOUNDS_S[0]
    assert latencies.passes == 100


def test_no_thread_loses_a_count() -> None:
    latencies = Latencies()

    def add() -> None:
        for _ in range(2000):
            latencies.add(0.0, 0.5, 0.25, 2)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert latencies.passes == 16_000
    assert latencies.spreads()["compute"].up_to[-1] == 8000
    assert latencies.spreads()["encode"].seconds == 2000.0


def told(api: Api) -> Series:
    """Return what `/metrics` tells of predictions, by name and phase."""
    return {
        (sample.name, sample.labels.get("phase", "")): sample.value
        for family in text_string_to_metric_families(api.get("/metrics").text)
        for sample in family.samples
        if sample.name.startswith(("bernoulli_prediction_seconds", "bernoulli_passes"))
        and sample.labels.get("le", "+Inf") == "+Inf"
    }


def test_every_prediction_counts_once_in_each_phase_however_it_is_answered(api: Api) -> None:
    model = api.import_model().json()["id"]
    small = {"model": model, "inputs": [[1.0, 2.0]], "seed": 3}
    passes = {"num_samples": 10, "input_dropout": 0.5}
    large = {**small, "inputs": [[1.0, 2.0]] * 2000, **passes, "num_samples": 1000}
    asked = [(small, 0), (small, 0), ({**small, **passes}, 10), ({**small, **passes}, 10)]
    asked += [(large, 1000), ({**large, "tolerance": 1e9}, 64)]
    for number, (body, drawn) in enumerate(asked, 1):
        before = told(api)
        assert api.post("/predict", json=body).status_code == 200
        after = told(api)
        for phase in PHASES:
            assert after["bernoulli_prediction_seconds_count", phase] == number
        assert after["bernoulli_prediction_seconds_sum", "compute"] > before.get(
            ("bernoulli_prediction_seconds_sum", "compute"), 0
        )
        assert after["bernoulli_prediction_seconds_sum", "encode"] > before.get(
            ("bernoulli_prediction_seconds_sum", "encode"), 0
        )
        key = ("bernoulli_passes_total", "")
        assert after[key] - before[key] == drawn
    assert told(api)["bernoulli_prediction_seconds_sum", "queue"] > 0


def test_refused_predictions_are_not_counted_and_estimates_once(api: Api) -> None:
    model = api.import_model().json()["id"]
    body = {"model": model, "inputs": [[1.0, 2.0]], "num_samples": 200, "input_dropout": 0.5}
    assert api.post("/predict", json={**body, "inputs": [["x"]]}).status_code == 422
    assert told(api)["bernoulli_prediction_seconds_count", "compute"] == 0
    events = api.post("/predict", json=body, headers={"Accept": "text/event-stream"})
    assert events.text.count("event: ") == 3
    after = told(api)
    assert after["bernoulli_prediction_seconds_count", "compute"] == 1
    assert after["bernoulli_passes_total", ""] == 200
