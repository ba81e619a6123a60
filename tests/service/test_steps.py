"""Jobs whose worker looks at them seldom: what they say between two looks is said with the next."""

from __future__ import annotations

from typing import Any

from tests.service.conftest import Api, Serve

NEVER = 3600.0


def events_of(api: Api, job: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    events = api.get(f"/jobs/{job['id']}/events", params={"limit": 1000}).json()["data"]
    assert [event["id"] for event in events] == list(range(1, len(events) + 1))
    return [event["data"] for event in events if event["type"] == kind]


def test_every_epoch_is_told_once(serve: Serve) -> None:
    api = serve()
    job = api.train(api.upload(), epochs=7, hidden_dropout=0.2)
    assert api.worker(step_s=NEVER).work_once()
    assert [data["epoch"] for data in events_of(api, job, "epoch")] == list(range(1, 8))
    (log,) = api.get(f"/jobs/{job['id']}/regularizers").json()["data"]
    assert [line["epoch"] for line in log["history"]] == list(range(1, 8))


def test_what_is_said_is_the_same_however_often_the_worker_looks(serve: Serve) -> None:
    api = serve()
    dataset = api.upload()
    told = []
    for step_s in (0.0, NEVER):
        job = api.train(
            dataset,
            epochs=6,
            network={"layers": [None, 4, 3, None]},
            training={"form": "layerwise", "epochs": 3},
            seed=1,
        )
        assert api.worker(step_s=step_s).work_once()
        told.append([events_of(api, job, kind) for kind in ("pretrain", "epoch", "log")])
    assert told[0] == told[1]
    assert len(told[0][0]) >= 3


def test_epochs_before_a_loss_diverges_are_told(serve: Serve) -> None:
    api = serve()
    text = b"x,y\n" + b"".join(b"%d,%d\n" % (number, 3 * number) for number in range(40))
    optimizer = {"form": "sgd", "learning_rate": 30.0, "momentum": 0.0}
    told = []
    for step_s in (0.0, NEVER):
        job = api.train(
            api.upload(text), epochs=500, optimizer=optimizer, batch_size=40, validation=None
        )
        assert api.worker(step_s=step_s).work_once()
        ended = api.get(f"/jobs/{job['id']}").json()
        assert ended["status"] == "failed"
        told.append((ended["error"]["detail"], events_of(api, job, "epoch")))
        assert any("diverged" in data["message"] for data in events_of(api, job, "log"))
    assert told[0] == told[1]


def test_variants_that_all_fail_are_told_as_failed(serve: Serve) -> None:
    api = serve()
    optimizer = {"form": "sgd", "learning_rate": 1e30}
    search = {"grid": {"seed": [1, 2]}}
    job = api.train(api.upload(), epochs=20, optimizer=optimizer, search=search, validation=0.25)
    assert api.worker(step_s=NEVER).work_once()
    assert api.get(f"/jobs/{job['id']}").json()["status"] == "failed"
    variants = api.get(f"/jobs/{job['id']}/variants").json()["data"]
    assert [variant["status"] for variant in variants] == ["failed", "failed"]


def test_a_search_says_the_same_however_often_the_worker_looks(serve: Serve) -> None:
    api = serve()
    dataset = api.upload()
    told = []
    for refit in (True, False):
        for step_s in (0.0, NEVER):
            search = {"grid": {"hidden_dropout": [0.1, 0.4]}, "refit": refit}
            job = api.train(dataset, epochs=4, search=search, seed=3, validation=0.25)
            assert api.worker(step_s=step_s).work_once()
            kinds = ("variant", "selected", "epoch", "log")
            told.append([events_of(api, job, kind) for kind in kinds])
    assert told[0] == told[1]
    assert told[2] == told[3]
    assert [data["epoch"] for data in told[2][2]] == list(range(1, 5))
