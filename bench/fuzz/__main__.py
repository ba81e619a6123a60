"""Requests at random, each answer looked at: ``python -m bench.fuzz --cases 100000 --seed 1``.

The app runs in a process of its own, on a data folder in memory where there is one. Four parts take
turns: requests made by schemathesis from the OpenAPI document, requests near valid ones made by
hypothesis, damaged and crafted files, and files of the app's own store that are damaged behind its
back. Files are parsed in processes apart, as the service does; a share of them goes to a real
server as well.

No answer may be a 5xx but 503 with `Retry-After`, take more than 5 seconds, or be an error that is
no problem with pointers to what was sent. The bytes of each failure are kept in a file.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench.fuzz import documented, live, near, raw, stored
from bench.fuzz.figures import Figures
from bench.fuzz.subject import Subject, running
from bench.fuzz.world import build

SHARES = {documented.PART: 0.15, near.PART: 0.3, raw.PART: 0.52, stored.PART: 0.02, live.PART: 0.01}
ROUNDS = 40
MOST_GROWTH = 2.0
"""MiB in 10 000 cases, by a line through the second half of the run."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures as they come; exit with 1 where something failed."""
    parser = argparse.ArgumentParser(description="Requests at random, each answer looked at")
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--failures", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--parts", default=",".join(SHARES), help="which of the parts to run")
    given = parser.parse_args(arguments)
    chosen = [part for part in SHARES if part in given.parts.split(",")]
    console = Console(highlight=False, width=120)
    figures = Figures(given.failures)
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        started = time.monotonic()
        with running(Path(folder) / "data") as subject:
            _run(subject, figures, given.cases, given.seed, chosen, console)
        if live.PART in chosen:
            live.run(round(given.cases * SHARES[live.PART]), given.seed, figures)
    _tell(figures, time.monotonic() - started, console)
    grows = figures.growth() > MOST_GROWTH
    raise SystemExit(1 if figures.failures or grows else 0)


def _run(
    subject: Subject,
    figures: Figures,
    cases: int,
    seed: int,
    chosen: Sequence[str],
    console: Console,
) -> None:
    """Have the parts take turns, so that memory is seen to grow in the end, if it does."""
    world = build(subject)
    by_document = documented.Documented(subject, world, figures)
    by_hypothesis = near.Near(subject, world, figures)
    by_bytes = raw.Raw(subject, world, figures, seed)
    on_disk = stored.Stored(subject, world, figures, seed)
    for turn in range(ROUNDS):
        counts = {
            part: round(cases * SHARES[part] / ROUNDS) if part in chosen else 0 for part in SHARES
        }
        draw = seed * 1_000_003 + turn * 10_007
        by_document.run(counts[documented.PART], draw)
        by_hypothesis.run(counts[near.PART], draw)
        by_bytes.run(counts[raw.PART])
        on_disk.run(counts[stored.PART])
        subject.collect()
        figures.measure(subject.pid)
        held = figures.memory[-1]
        console.print(
            f"round {turn + 1} of {ROUNDS}: {held.cases} cases, {len(figures.failures)} failures; "
            f"MiB: app {held.app:.0f}, parsers {held.parsers:.0f}, this process {held.ours:.0f}"
        )


def _tell(figures: Figures, seconds: float, console: Console) -> None:
    for part, count in figures.cases.items():
        told = ", ".join(
            f"{number} x {status}"
            for (of, status), number in sorted(figures.statuses.items())
            if of == part
        )
        console.print(f"{part}: {count} cases, slowest {figures.slowest[part]:.2f} s; {told}")
    console.print(
        f"{figures.total} cases in {seconds:.0f} s, {len(figures.failures)} kinds of failures"
    )
    for failure in figures.failures:
        console.print(f"  {failure.part}: {failure.what}\n    {failure.file}")
    half, end = figures.memory[len(figures.memory) // 2], figures.memory[-1]
    console.print(
        f"memory of the app: {half.app:.0f} MiB after half of the cases, {end.app:.0f} at the end; "
        f"{figures.growth():+.2f} MiB in 10 000 cases of the second half"
    )


if __name__ == "__main__":
    main()
