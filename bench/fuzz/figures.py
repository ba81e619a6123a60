"""What a run has come to: counts, times, memory, and what failed, with its bytes in a file."""

from __future__ import annotations

import gc
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.fuzz.requests import Answer, Request
from bench.processes import processes

__all__ = ["Failure", "Figures", "resident_mib"]

_NUMBERS = re.compile(r"\d+")


@dataclass(frozen=True)
class Failure:
    """One kind of failure, and where the bytes of its first case are."""

    part: str
    what: str
    file: Path


@dataclass(frozen=True)
class Memory:
    """MiB after so many cases: of the app, of what parses for it, and of who asks them."""

    cases: int
    app: float
    parsers: float
    ours: float


@dataclass
class Figures:
    """Of all parts together; `folder` is where failing cases go."""

    folder: Path
    cases: Counter[str] = field(default_factory=Counter)
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    slowest: dict[str, float] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    repeats: Counter[str] = field(default_factory=Counter)
    """How often each failure was seen again."""
    memory: list[Memory] = field(default_factory=list)

    @property
    def total(self) -> int:
        return sum(self.cases.values())

    def seen(self, part: str, answer: Answer) -> None:
        """Count an answer."""
        self.cases[part] += 1
        self.statuses[part, answer.status] += 1
        self.slowest[part] = max(self.slowest.get(part, 0.0), answer.seconds)

    def is_known(self, part: str, request: Request, what: str) -> bool:
        """Whether such a failure was written down before; counts it then."""
        key = _key(part, request, what)
        known = key in self.repeats
        if known:
            self.repeats[key] += 1
        return known

    def failed(self, part: str, request: Request, answer: Answer | None, what: str) -> None:
        """Write a failing case down: the request as it is on the wire, and what came back."""
        self.repeats[_key(part, request, what)] = 1
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"{len(self.failures):03}-{part}.http"
        file.write_bytes(request.raw())
        told = [what, f"{request.method} {request.target}"]
        if answer is not None:
            told += [str(answer.status), answer.body[:4000].decode("utf-8", "replace")]
        file.with_suffix(".txt").write_text("\n".join(told))
        self.failures.append(Failure(part, what, file))

    def measure(self, app: int) -> None:
        """Note how much memory the processes hold now; `app` is the number of the app's."""
        gc.collect()
        parsers = [process for process, command in processes().items() if "parser" in command]
        parsing = sum(map(resident_mib, parsers))
        self.memory.append(Memory(self.total, resident_mib(app), parsing, resident_mib()))

    def growth(self) -> float:
        """Return MiB that the app has added in 10 000 cases, by a line through the second half."""
        later = self.memory[len(self.memory) // 2 :]
        if len(later) < 3:
            return 0.0
        cases, app = np.array([(memory.cases, memory.app) for memory in later], dtype=float).T
        return float(np.polyfit(cases, app, 1)[0] * 10_000)


def _key(part: str, request: Request, what: str) -> str:
    path = request.target.partition("?")[0].split("/")[1:2]
    return f"{part} {request.method} {path} {_NUMBERS.sub('N', what)}"


def resident_mib(pid: int | None = None, field: str = "VmRSS") -> float:
    """Return the memory of a process in MiB; 0 where it has ended."""
    try:
        text = Path(f"/proc/{pid or 'self'}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(rf"{field}:\s+(\d+) kB", text)
    return int(found[1]) / 1024 if found else 0.0
