"""A mixed load held for ten minutes, and the memory that it takes: ``python -m bench.load``.

Clients predict (most of them one row by one pass, some by 100, a few 40 rows by 1000), read lists,
upload a table and delete it; a job trains for most of the time. Every half minute the rate, the
median and the 99th percentile of each kind are printed, and the memory of the processes. Only
503 and 429 with `Retry-After` may come instead of the answers, and memory has to stay where it was
when the first third had passed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
from rich.console import Console
from rich.table import Table

from bench.demo.server import serving
from bench.processes import CORES, processes, stolen

SHARES = {"1 row, 1 pass": 70, "1 row, 100 passes": 20, "40 rows, 1000 passes": 5,
          "lists": 4, "upload, delete": 1}  # fmt: skip
EPOCHS = 300
_JSON = {"Content-Type": "application/json"}
_MOST_GROWN_MIB = 50.0
_REPORT_S = 30.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures as they come; exit with 1 where one is not as it has to be."""
    parser = argparse.ArgumentParser(description="A mixed load for ten minutes")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    console = Console(highlight=False, width=120)
    with serving() as url:
        load = _Load(url, given.seed)
        asyncio.run(load.run(given.clients, given.minutes * 60, console))
    raise SystemExit(0 if load.told(console) else 1)


class _Load:
    """The clients of one server, and what they have seen."""

    def __init__(self, url: str, seed: int) -> None:
        self._url = url
        self._seed = seed
        self._table = _table(seed)
        self._times: dict[str, list[float]] = defaultdict(list)
        """Seconds of the answers of each kind, in their order."""
        self._refused: Counter[int] = Counter()
        self._wrong: Counter[str] = Counter()
        self._memory: list[tuple[float, float]] = []
        """Seconds since the beginning, and MiB of the server's processes."""
        self._stolen = 0.0
        """The share of the processors' time that a hypervisor has taken."""
        self._dataset = self._model = ""

    async def run(self, clients: int, seconds: float, console: Console) -> None:
        """Hold the load for so long."""
        limits = httpx.Limits(max_connections=clients + 2)
        async with httpx.AsyncClient(base_url=self._url, timeout=60, limits=limits) as http:
            self._dataset = (await self._upload(http))["id"]
            self._model = (await self._trained(http, epochs=5))["model"]
            end = time.perf_counter() + seconds
            chances = [random.Random(self._seed * 1000 + number) for number in range(clients)]
            work = [self._ask(http, chance, end) for chance in chances]
            report = self._report(end, console)
            await asyncio.gather(report, self._train(http, end), *work)

    async def _ask(self, http: httpx.AsyncClient, chance: random.Random, end: float) -> None:
        kinds, shares = list(SHARES), list(SHARES.values())
        while time.perf_counter() < end:
            (kind,) = chance.choices(kinds, shares)
            started = time.perf_counter()
            if kind == "lists":
                answer = await http.get(
                    chance.choice(("/jobs", "/models", "/datasets", "/aliases"))
                )
            elif kind == "upload, delete":
                made = await self._upload(http)
                answer = await http.delete(f"/datasets/{made['id']}")
            else:
                body = self._request(kind, chance)
                answer = await http.post("/predict", content=body, headers=_JSON)
            self._times[kind].append(time.perf_counter() - started)
            if answer.status_code in (429, 503) and "retry-after" in answer.headers:
                self._refused[answer.status_code] += 1
                await asyncio.sleep(float(answer.headers["retry-after"]) * chance.random())
            elif answer.status_code >= 300:
                self._wrong[f"{kind}: {answer.status_code} {answer.text[:200]}"] += 1

    def _request(self, kind: str, chance: random.Random) -> bytes:
        count, passes = (int(words.split()[0]) for words in kind.split(", "))
        rows = [[round(chance.gauss(0, 1), 3) for _ in range(8)] for _ in range(count)]
        body: dict[str, Any] = {"model": self._model, "inputs": rows}
        if passes > 1:
            body |= {"num_samples": passes, "hidden_dropout": 0.1, "seed": chance.randrange(2**32)}
        return orjson.dumps(body)

    async def _upload(self, http: httpx.AsyncClient) -> dict[str, Any]:
        kind = {"Content-Type": "text/csv"}
        answer = await http.post("/datasets", content=self._table, headers=kind)
        made: dict[str, Any] = answer.raise_for_status().json()
        return made

    async def _train(self, http: httpx.AsyncClient, end: float) -> None:
        while time.perf_counter() < end:
            await self._trained(http, epochs=EPOCHS)

    async def _trained(self, http: httpx.AsyncClient, *, epochs: int) -> dict[str, Any]:
        layers = [None, 64, 64, None]
        spec = {"dataset": self._dataset, "network": {"layers": layers}, "epochs": epochs}
        answer = await http.post("/train", json=spec | {"hidden_dropout": 0.1})
        job: dict[str, Any] = answer.raise_for_status().json()
        while not job["terminal"]:
            answer = await http.get(f"/jobs/{job['id']}", headers={"Prefer": "wait=10"})
            job = answer.raise_for_status().json()
        if job["status"] != "succeeded":
            raise SystemExit(f"job {job['id']} is {job['status']}: {job['error']}")
        return job

    async def _report(self, end: float, console: Console) -> None:
        begun, stolen_before = time.perf_counter(), stolen()
        before = dict.fromkeys(SHARES, 0)
        while (now := time.perf_counter()) < end:
            await asyncio.sleep(min(_REPORT_S, end - now))
            self._memory.append((time.perf_counter() - begun, _resident_mib()))
            self._stolen = (stolen() - stolen_before) / (CORES * self._memory[-1][0])
            since = {kind: self._times[kind][before[kind] :] for kind in SHARES}
            before = {kind: len(self._times[kind]) for kind in SHARES}
            rate = sum(map(len, since.values())) / (time.perf_counter() - now)
            slow = ", ".join(f"{k}: {_ms(t, 99):.0f}" for k, t in since.items() if t)
            at, held = self._memory[-1]
            console.print(f"{at:4.0f} s: {rate:5.0f} requests/s, {held:.0f} MiB; p99 in ms: {slow}")

    def told(self, console: Console) -> bool:
        """Print what all came to; False where something is not as it has to be."""
        seconds = self._memory[-1][0]
        table = Table()
        for heading in ("kind", "requests", "a second", "p50 ms", "p99 ms", "slowest ms"):
            table.add_column(heading)
        for kind, times in self._times.items():
            counts = (str(len(times)), f"{len(times) / seconds:.1f}")
            table.add_row(kind, *counts, *(f"{_ms(times, at):.1f}" for at in (50, 99, 100)))
        console.print(table)
        later = np.array([row for row in self._memory if row[0] >= seconds / 3])
        slope = float(np.polyfit(later[:, 0], later[:, 1], 1)[0]) * 600
        count = sum(map(len, self._times.values()))
        console.print(
            f"{count} requests in {seconds:.0f} s, {count / seconds:.0f} a second, on {CORES} "
            f"cores, of which a hypervisor took {self._stolen:.1%}"
        )
        console.print(
            f"refused with Retry-After: {dict(self._refused)}; wrong: {dict(self._wrong)}"
        )
        console.print(
            f"memory of all processes: {later[0, 1]:.0f} MiB after a third, {later[-1, 1]:.0f} MiB "
            f"at the end, {slope:+.1f} MiB in ten minutes by a line through the rest"
        )
        return not self._wrong and slope < _MOST_GROWN_MIB


def _ms(times: Sequence[float], percent: float) -> float:
    return float(np.percentile(times, percent)) * 1e3


def _resident_mib() -> float:
    """Return what the server's processes hold, shared pages once (`Pss`)."""
    total = 0
    for process in processes():
        try:
            text = Path(f"/proc/{process}/smaps_rollup").read_text()
        except OSError:
            continue
        total += int(text.split("\nPss:")[1].split()[0])
    return total / 1024


def _table(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2000, 8)).round(3)
    y = (x[:, 0] + np.sin(2 * x[:, 1]) + 0.1 * rng.standard_normal(len(x))).round(3)
    lines = [",".join([*(f"x{number}" for number in range(8)), "y"])]
    lines += [",".join(map(str, [*row, target])) for row, target in zip(x, y, strict=True)]
    return "\n".join(lines).encode()


if __name__ == "__main__":
    main()
