"""Shutdown: who sleeps meanwhile wakes at once."""

from __future__ import annotations

import threading
import time

import anyio

from service.shutdown import Shutdown


def test_a_sleep_ends_when_its_time_is_up() -> None:
    shutdown = Shutdown()
    began = time.monotonic()
    assert not anyio.run(shutdown.sleep, 0.05)
    assert time.monotonic() - began >= 0.05
    assert not anyio.run(shutdown.sleep, 0.0)


def test_all_sleepers_wake_when_the_stop_begins_and_nobody_sleeps_after() -> None:
    shutdown = Shutdown()
    woken: list[bool] = []

    async def sleep() -> None:
        woken.append(await shutdown.sleep(3600.0))

    async def several() -> None:
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(sleep)
                await anyio.sleep(0.01)
                threading.Thread(target=shutdown.begin).start()
        await sleep()

    anyio.run(several)
    assert woken == [True] * 4
