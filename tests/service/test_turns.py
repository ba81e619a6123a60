"""Turns: who is computed when, with whom, and who is sent away; and answers that sharpen."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from engine.batching import run_together
from engine.data.inputs import Inputs
from engine.prediction import plan_prediction
from engine.spec import PredictSpec
from service.errors import QueueFull
from service.turns import Joinable, Turn, Turns
from tests.service.conftest import Api, Serve, assert_problem

FLOPS = 1e6


def turns_of(**limits: Any) -> Turns:
    chosen = {"max_running": 1, "max_waiting": 8, "max_waiting_bytes": 1000, "max_wait_s": 30.0}
    chosen["max_run_s"] = 30.0
    return Turns(**{**chosen, **limits})


def turn_of(compute: Callable[[], bytes], held: int = 1, flops: float = FLOPS) -> Turn[bytes]:
    return Turn(flops=flops, held=held, alone=lambda _: compute())


class Gate:
    """Work that takes until it is opened."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()

    def __call__(self) -> bytes:
        self.entered.set()
        assert self.opened.wait(20)
        return b"gate"


async def entered(gate: Gate) -> None:
    assert await asyncio.to_thread(gate.entered.wait, 20)


def test_turns_come_in_the_order_of_asking_and_no_more_at_once_than_threads() -> None:
    async def run() -> None:
        turns, gate, order = turns_of(), Gate(), []
        first = asyncio.create_task(turns.take(turn_of(gate)))
        await entered(gate)

        def note(name: bytes) -> bytes:
            order.append(name)
            return name

        later = []
        for name in (b"a", b"b", b"c"):
            turn = turn_of(lambda name=name: note(name))  # type: ignore[misc]
            later.append(asyncio.create_task(turns.take(turn)))
            await asyncio.sleep(0)
        assert (turns.running, turns.waiting) == (1, 3)
        gate.opened.set()
        assert await asyncio.gather(first, *later) == [b"gate", b"a", b"b", b"c"]
        assert order == [b"a", b"b", b"c"]
        assert (turns.running, turns.waiting) == (0, 0)
        turns.close()

    asyncio.run(run())


@pytest.mark.parametrize("limits", [{"max_waiting": 1}, {"max_waiting_bytes": 1}])
def test_what_is_too_much_to_wait_is_sent_away_with_a_time(limits: dict[str, int]) -> None:
    async def run() -> None:
        turns, gate = turns_of(**limits), Gate()
        tasks = [asyncio.create_task(turns.take(turn_of(gate, flops=2e10)))]
        await entered(gate)
        tasks.append(asyncio.create_task(turns.take(turn_of(lambda: b"next"))))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull) as refused:
            await turns.take(turn_of(lambda: b"never"))
        assert refused.value.retry_after_s == 5  # of 2e10 operations at 5e9 a second, rounded up
        gate.opened.set()
        assert await asyncio.gather(*tasks) == [b"gate", b"next"]
        turns.close()

    asyncio.run(run())


def test_nobody_waits_for_longer_than_is_said() -> None:
    async def run() -> None:
        turns, gate = turns_of(max_wait_s=0.05), Gate()
        task = asyncio.create_task(turns.take(turn_of(gate)))
        await entered(gate)
        with pytest.raises(QueueFull, match=r"0\.05 s"):
            await turns.take(turn_of(lambda: b"never"))
        assert turns.waiting == 0
        gate.opened.set()
        assert await task == b"gate"
        turns.close()

    asyncio.run(run())


def test_who_leaves_is_stopped_and_an_error_is_the_askers_own() -> None:
    async def run() -> None:
        turns, gate = turns_of(), Gate()
        left = turn_of(gate)
        task = asyncio.create_task(turns.take(left))
        await entered(gate)
        waiting = turn_of(lambda: b"never")
        other = asyncio.create_task(turns.take(waiting))
        await asyncio.sleep(0)
        for each in (task, other):
            each.cancel()
        await asyncio.gather(task, other, return_exceptions=True)
        assert left.stop.is_set()
        assert waiting.stop.is_set()
        assert turns.waiting == 0
        gate.opened.set()

        def fail() -> bytes:
            raise ValueError("mine")

        with pytest.raises(ValueError, match="mine"):
            await turns.take(turn_of(fail))
        assert await turns.take(turn_of(lambda: b"fine")) == b"fine"
        turns.close()

    asyncio.run(run())


def test_those_that_wait_for_one_model_run_together_and_others_do_not(api: Api) -> None:
    model = api.import_model().json()["id"]
    stored = api.state["models"].resolve(model)
    loaded = api.state["predictor"].loaded.get(stored)
    alone: list[int] = []

    def joinable(seed: int, passes: int) -> tuple[Joinable, bytes]:
        spec = PredictSpec(input_dropout=0.5, num_samples=passes, statistics=("mean",))
        plan = plan_prediction(loaded, spec, seed=seed)
        x = Inputs({"in:out": np.array([[1.0, seed]], dtype=np.float32)})
        ids = np.arange(1)

        def finish(tree: Any, seconds: float) -> bytes:
            assert seconds > 0
            return bytes(tree["mean"].tobytes())

        expected = finish(run_together([plan], [x], [ids])[0], 1.0)
        return Joinable(key=plan.batch_key, plan=plan, x=x, row_ids=ids, finish=finish), expected

    async def run() -> None:
        turns, gate = turns_of(), Gate()
        first = asyncio.create_task(turns.take(turn_of(gate)))
        await entered(gate)
        pairs = [joinable(seed, passes) for seed, passes in ((1, 70), (2, 9), (3, 70), (4, 70))]
        asked = []
        for index, (each, _) in enumerate(pairs):

            def by_itself(_: int, index: int = index, each: Joinable = each) -> bytes:
                alone.append(index)
                return each.finish(each.plan.run(each.x, each.row_ids), 1.0)

            turn = Turn(flops=FLOPS, held=1, alone=by_itself, joinable=each)
            asked.append(asyncio.create_task(turns.take(turn)))
            await asyncio.sleep(0)
        asked[2].cancel()  # one that leaves takes nothing from the others
        gate.opened.set()
        await first
        answers = await asyncio.gather(*asked, return_exceptions=True)
        for index, (_, expected) in enumerate(pairs):
            if index != 2:
                assert answers[index] == expected
        assert alone == [1]
        turns.close()

    asyncio.run(run())


# -- over HTTP -------------------------------------------------------------------------------------


def events_of(text: str) -> list[tuple[str, dict[str, Any]]]:
    frames = [frame.split("\n") for frame in text.strip().split("\n\n")]
    return [
        (name.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
        for name, data in frames
    ]


def asked(api: Api, **request: Any) -> dict[str, Any]:
    model = api.import_model().json()["id"]
    rates = {"input_dropout": 0.5, "num_samples": 1000, "seed": 3}
    return {"model": model, "inputs": [[1, 2], [3, 4]], **rates, **request}


def test_estimates_sharpen_and_each_is_the_answer_of_so_many_passes(api: Api) -> None:
    body = asked(api)
    answer = api.post("/predict", json=body, headers={"Accept": "text/event-stream"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = events_of(answer.text)
    assert [name for name, _ in events] == ["estimate"] * 4 + ["result"]
    assert [data["num_samples"] for _, data in events] == [64, 128, 256, 512, 1000]
    assert [data["stopped_by"] for _, data in events] == [None] * 4 + ["num_samples"]
    for _, data in events:
        whole = api.post("/predict", json={**body, "num_samples": data["num_samples"]}).json()
        assert data["outputs"] == whole["outputs"]


def test_a_tolerance_ends_the_passes_as_soon_as_it_is_met(api: Api) -> None:
    body = asked(api, num_samples=100_000, tolerance=0.1, statistics=["mean", "standard_error"])
    answer = api.post("/predict", json=body).json()
    assert answer["stopped_by"] == "tolerance"
    assert answer["num_samples"] < 100_000
    assert np.max(answer["outputs"]["standard_error"]) <= 0.1
    fewer = {**body, "num_samples": answer["num_samples"] // 2, "tolerance": None}
    before = api.post("/predict", json=fewer).json()["outputs"]["standard_error"]
    assert np.max(before) > 0.1


def test_a_budget_is_met_from_the_requests_arrival_on(api: Api) -> None:
    rows = [[1, 2]] * 2000
    body = asked(api, inputs=rows, num_samples=1_000_000, budget_ms=30, statistics=["mean"])
    answer = api.post("/predict", json=body).json()
    assert answer["stopped_by"] == "budget_ms"
    assert 64 <= answer["num_samples"] < 1_000_000


def test_what_is_wrong_with_a_stream_is_told_by_the_status(api: Api) -> None:
    body = asked(api)
    headers = {"Accept": "text/event-stream"}
    assert_problem(api.post("/predict", json={**body, "model": "none"}, headers=headers), 404)
    wrong = {**body, "input_dropout": 2}
    assert_problem(api.post("/predict", json=wrong, headers=headers), 422, "#/input_dropout")
    one = {**body, "num_samples": None, "input_dropout": None}
    (event,) = events_of(api.post("/predict", json=one, headers=headers).text)
    assert event[0] == "result"
    answer = api.post("/predict", json=body, headers={"Accept": "image/png"})
    assert "text/event-stream" in assert_problem(answer, 406)["detail"]


def test_a_full_queue_is_503_with_the_time_to_come_back(serve: Serve) -> None:
    api = serve(max_waiting_predictions=0)
    body = asked(api, inputs=[[1, 2]] * 1000, num_samples=1_000_000, statistics=["mean"])
    statuses: list[tuple[int, str | None]] = []
    lock = threading.Lock()

    def ask() -> None:
        answer = api.post("/predict", json={**body, "budget_ms": 3000})
        with lock:
            statuses.append((answer.status_code, answer.headers.get("retry-after")))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {status for status, _ in statuses} == {200, 503}
    assert all(after is not None and int(after) >= 1 for s, after in statuses if s == 503)


def test_a_moved_alias_and_a_deleted_model_are_seen_at_once(api: Api) -> None:
    one, two = (api.import_model().json()["id"] for _ in range(2))
    for model in (one, two, one):
        assert api.put("/aliases/live", json={"model": model}).status_code in (200, 201)
        answer = api.post("/predict", json={"model": "live", "inputs": [[1, 2]]}).json()
        assert answer["model"] == model
    assert api.post("/predict", json={"model": two, "inputs": [[1, 2]]}).status_code == 200
    assert api.delete(f"/models/{two}").status_code == 204
    assert_problem(api.post("/predict", json={"model": two, "inputs": [[1, 2]]}), 404)


def test_models_leave_in_the_order_of_their_last_use_when_memory_is_short(serve: Serve) -> None:
    api = serve(max_loaded_bytes=60)  # of 24 bytes each, two fit
    models = [api.import_model().json()["id"] for _ in range(3)]
    loaded = api.state["predictor"].loaded
    for model in (models[0], models[1], models[0], models[2]):
        assert api.post("/predict", json={"model": model, "inputs": [[1, 2]]}).status_code == 200
    assert [loaded.peek(model) is not None for model in models] == [True, False, True]
    assert loaded.loaded() == (2, 48)


def test_keys_take_turns_however_many_predictions_one_has_waiting() -> None:
    async def run() -> None:
        turns, gate, order = turns_of(max_waiting=99), Gate(), []
        tasks = [asyncio.create_task(turns.take(turn_of(gate)))]
        await entered(gate)

        def note(owner: str) -> bytes:
            order.append(owner)
            return b""

        for owner in ["a"] * 4 + ["b"] * 2 + ["c"]:
            turn = Turn(flops=FLOPS, held=1, alone=lambda _, o=owner: note(o), owner=owner)  # type: ignore[misc]
            tasks.append(asyncio.create_task(turns.take(turn)))
            await asyncio.sleep(0)
        gate.opened.set()
        await asyncio.gather(*tasks)
        assert order == ["a", "b", "c", "a", "b", "a", "a"]
        turns.close()

    asyncio.run(run())


def test_a_full_queue_has_room_for_who_has_less_in_it() -> None:
    async def run() -> None:
        turns, gate = turns_of(max_waiting=3), Gate()
        first = asyncio.create_task(turns.take(turn_of(gate)))
        await entered(gate)

        def ask(owner: str) -> asyncio.Task[bytes]:
            name = owner.encode()
            turn = Turn(flops=FLOPS, held=1, alone=lambda _: name, owner=owner)
            return asyncio.create_task(turns.take(turn))

        greedy = [ask("a") for _ in range(3)]
        await asyncio.sleep(0)
        other = ask("b")
        for _ in range(3):
            await asyncio.sleep(0)
        with pytest.raises(QueueFull, match="other keys"):
            await greedy[2]  # its last
        for owner in ("a", "b"):  # neither has less than the other now
            with pytest.raises(QueueFull):
                await ask(owner)
        gate.opened.set()
        assert await asyncio.gather(first, *greedy[:2], other) == [b"gate", b"a", b"a", b"b"]
        turns.close()

    asyncio.run(run())
