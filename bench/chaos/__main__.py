"""Kills at any instant under mixed load, and what is left of it: ``python -m bench.chaos``.

A server trains, searches, calibrates, evaluates, predicts online and as jobs, takes uploads, moves
aliases, cancels and deletes, while its supervisor, HTTP process, workers, parsers and fork server
are killed (SIGKILL) at random instants; a supervisor that is gone is started again, as Docker
would. Each job is first run undisturbed, and each prediction asked in peace. Then clients ask for
the same again and again, with idempotency keys, through all kills. At the end, after one kill more,
everything that was acknowledged has to be there: each job once, with the bytes of its undisturbed
twin, each answer that of its twin, each data set whole. ``--sabotage`` does damage before that, and
fails unless the checks see all of it.
"""

from __future__ import annotations

import argparse
import random
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
from rich.console import Console

from bench.chaos.checks import check, drain
from bench.chaos.load import Act, Client, clients
from bench.chaos.sabotage import EXPECTED, damage
from bench.chaos.seen import CORRUPT, FIGURES, Seen
from bench.chaos.server import ROLES, Server, await_ready, serving
from bench.chaos.twins import Calm
from service.errors import ServiceError
from service.store.backup import back_up

WEIGHTS = (20, 6, 6, 3, 1)
"""How often each of the roles is the victim: to start all takes longest, a worker the least."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures; exit with 1 where one is not as it has to be."""
    parser = argparse.ArgumentParser(description="Kills at any instant under mixed load")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--kills", type=int, default=220)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log", type=Path, help="where to keep the server's log")
    parser.add_argument("--sabotage", action="store_true", help="the checks have to see damage")
    given = parser.parse_args(arguments)
    console = Console(highlight=False, width=120)
    seen = Seen()
    with serving(given.log) as server:
        http = httpx.Client(base_url=server.url, timeout=300)
        await_ready(http)
        calm = Calm(http)
        console.print(f"{len(calm.works)} jobs and {len(calm.pairs)} predictions in peace")
        seconds = _disturb(server, calm, seen, given)
        await_ready(http)
        drain(http, seen)
        server.kill("supervisor", random.Random(given.seed))
        if given.sabotage:
            damage(server.data, calm, seen)
        server.keep()
        await_ready(http)
        check(http, calm, seen)
        server.stop()
        _check_files(server.data, seen, is_whole=not given.sabotage)
        for oddity in server.oddities:
            seen.fault("ends that no kill explains", oddity)
    _tell(console, seen, seconds)
    if given.sabotage:
        unseen = [name for name in EXPECTED if not seen.faults[name]]
        console.print(f"sabotage that the checks did not see: {', '.join(unseen) or 'none'}")
        raise SystemExit(1 if unseen else 0)
    raise SystemExit(1 if seen.faults.total() else 0)


def _check_files(data: Path, seen: Seen, *, is_whole: bool) -> None:
    """Have every file compared with its hash, by a backup, and look for files that are nobody's."""
    artifacts = data / "artifacts"
    try:
        backup = back_up(data / "bernoulli.db", artifacts, data / "backup")
    except ServiceError as error:
        seen.fault(CORRUPT, error.detail)
        return
    kept = sum(path.is_file() and path.name != "lock" for path in artifacts.rglob("*"))
    if is_whole and kept != backup.blobs:
        seen.fault("files left behind", f"{kept} for {backup.blobs}")
    seen.did("files compared with their hashes", backup.blobs)


def _disturb(server: Server, calm: Calm, seen: Seen, given: argparse.Namespace) -> float:
    """Have clients ask and processes be killed; return the seconds that it took."""
    stop = threading.Event()
    threads = [
        threading.Thread(
            target=_ask, args=(act, server.url, calm, seen, given.seed + index, stop), daemon=True
        )
        for index, act in enumerate(clients())
    ]
    for thread in threads:
        thread.start()
    chance = random.Random(given.seed)
    began = time.monotonic()
    end = began + 60 * given.minutes
    while (left := end - time.monotonic()) > 0 or seen.kills.total() < given.kills:
        pause = max(left, 1.0) / max(1, given.kills - seen.kills.total())
        time.sleep(min(chance.uniform(0, 2 * pause), max(left, 1.0)))
        if seen.kills.total() < given.kills:
            (role,) = chance.choices(ROLES, WEIGHTS)
            _kill(server, role, chance, seen)
        server.keep()
    seconds = time.monotonic() - began
    stop.set()
    for thread in threads:
        while thread.is_alive():
            server.keep()
            thread.join(1)
    return seconds


def _kill(server: Server, role: str, chance: random.Random, seen: Seen) -> None:
    """Kill one of a role as soon as there is one: others are not killed more often for its sake."""
    while not server.kill(role, chance):
        server.keep()
        time.sleep(0.05)
    seen.kills[role] += 1


def _ask(act: Act, url: str, calm: Calm, seen: Seen, seed: int, stop: threading.Event) -> None:
    """Do one thing again and again; what was begun is asked for until it is acknowledged."""
    chance = random.Random(seed)
    with httpx.Client(base_url=url, timeout=60) as http:
        client = Client(http, calm, seen, chance)
        while not stop.is_set():
            try:
                act(client)
            except httpx.TransportError:
                time.sleep(0.2)
            except Exception as error:
                seen.fault("clients that broke", repr(error))
                raise
            time.sleep(chance.uniform(0, 0.2))


def _tell(console: Console, seen: Seen, seconds: float) -> None:
    kills = ", ".join(f"{seen.kills[role]} x {role}" for role in ROLES)
    console.print(f"{seconds:.0f} s, {seen.kills.total()} kills: {kills}")
    held = sum(seen.cancelled.values())
    console.print(f"{len(seen.jobs)} jobs acknowledged, {held} cancellations")
    console.print(f"{seen.interrupted} jobs interrupted and compared, {seen.attempts} times in all")
    console.print(f"{len(seen.uploads)} uploads acknowledged, {len(seen.removed)} deletions")
    for name, count in sorted(seen.counts.items()):
        console.print(f"{count} {name}")
    for detail in seen.details[:40]:
        console.print(detail, markup=False)
    for name in FIGURES:
        console.print(f"{name}: {seen.faults[name]}")
    others = {name: count for name, count in seen.faults.items() if name not in FIGURES and count}
    console.print(f"other faults: {others or 'none'}")


if __name__ == "__main__":
    main()
