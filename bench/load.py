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
import re
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

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
_CSV = {"Content-Type": "text/csv"}
_NONE: Mapping[str, str] = {}
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)")
_RETRY = re.compile(rb"\r\nretry-after: *(\d+)")
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


@dataclass(frozen=True)
class _Answer:
    status: int
    retry_after_s: float | None
    body: bytes

    def good(self) -> dict[str, Any]:
        """Return the JSON of an answer that has to be a good one."""
        if self.status >= 300:
            raise SystemExit(f"{self.status}: {self.body[:500]!r}")
        told: dict[str, Any] = orjson.loads(self.body)
        return told


class _Connection:
    """One connection of a client that takes little of the processors that the server needs."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def to(cls, url: str) -> _Connection:
        parts = urlsplit(url)
        return cls(*await asyncio.open_connection(parts.hostname, parts.port))

    async def asked(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = _NONE
    ) -> _Answer:
        """Send a request and read its answer, whose length is told."""
        head = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
        head += [f"{name}: {value}" for name, value in headers.items()]
        self._writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + body)
        answered = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = _LENGTH.search(answered)
        retry = _RETRY.search(answered)
        content = b"" if length is None else await self._reader.readexactly(int(length[1]))
        after = None if retry is None else float(retry[1])
        return _Answer(int(answered.split(b" ", 2)[1]), after, content)


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
        http = await _Connection.to(self._url)
        self._dataset = (await self._upload(http))["id"]
        self._model = (await self._trained(http, epochs=5))["model"]
        end = time.perf_counter() + seconds
        chances = [random.Random(self._seed * 1000 + number) for number in range(clients)]
        work = [self._ask(await _Connection.to(self._url), chance, end) for chance in chances]
        report = self._report(end, console)
        await asyncio.gather(report, self._train(http, end), *work)

    async def _ask(self, http: _Connection, chance: random.Random, end: float) -> None:
        kinds, shares = list(SHARES), list(SHARES.values())
        while time.perf_counter() < end:
            (kind,) = chance.choices(kinds, shares)
            started = time.perf_counter()
            if kind == "lists":
                path = chance.choice(("/jobs", "/models", "/datasets", "/aliases"))
                answer = await http.asked("GET", path)
            elif kind == "upload, delete":
                made = await self._upload(http)
                answer = await http.asked("DELETE", f"/datasets/{made['id']}")
            else:
                body = self._request(kind, chance)
                answer = await http.asked("POST", "/predict", body, _JSON)
            self._times[kind].append(time.perf_counter() - started)
            if answer.status in (429, 503) and answer.retry_after_s is not None:
                self._refused[answer.status] += 1
                await asyncio.sleep(answer.retry_after_s * chance.random())
            elif answer.status >= 300:
                self._wrong[f"{kind}: {answer.status} {answer.body[:200]!r}"] += 1

    def _request(self, kind: str, chance: random.Random) -> bytes:
        count, passes = (int(words.split()[0]) for words in kind.split(", "))
        rows = [[round(chance.gauss(0, 1), 3) for _ in range(8)] for _ in range(count)]
        body: dict[str, Any] = {"model": self._model, "inputs": rows}
        if passes > 1:
            body |= {"num_samples": passes, "hidden_dropout": 0.1, "seed": chance.randrange(2**32)}
        return orjson.dumps(body)

    async def _upload(self, http: _Connection) -> dict[str, Any]:
        return (await http.asked("POST", "/datasets", self._table, _CSV)).good()

    async def _train(self, http: _Connection, end: float) -> None:
        while time.perf_counter() < end:
            await self._trained(http, epochs=EPOCHS)

    async def _trained(self, http: _Connection, *, epochs: int) -> dict[str, Any]:
        layers = [None, 64, 64, None]
        spec = {"dataset": self._dataset, "network": {"layers": layers}, "epochs": epochs}
        body = orjson.dumps(spec | {"hidden_dropout": 0.1})
        job = (await http.asked("POST", "/train", body, _JSON)).good()
        while not job["terminal"]:
            waiting = {"Prefer": "wait=10"}
            job = (await http.asked("GET", f"/jobs/{job['id']}", b"", waiting)).good()
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
