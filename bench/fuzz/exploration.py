"""One property explored by hypothesis, a few hundred cases at a time, each failure reduced."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import TypeVar

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky, Unsatisfiable

from bench.fuzz.figures import Figures
from bench.fuzz.requests import Answer, Request
from bench.fuzz.subject import Subject
from bench.fuzz.verdict import faults

__all__ = ["Check", "explore", "judge"]

T = TypeVar("T")

#: Sends a case and returns the request, its answer, and what is wrong with it.
Check = Callable[[T], tuple[Request, Answer, list[str]]]


class _FailedError(AssertionError):
    def __init__(self, request: Request, answer: Answer | None, what: str) -> None:
        super().__init__(what)
        self.request, self.answer, self.what = request, answer, what


def explore(
    part: str, cases: int, draw: int, strategy: st.SearchStrategy[T], check: Check[T], to: Figures
) -> None:
    """Try `cases` examples that the number `draw` decides; write down what fails.

    Hypothesis keeps what it has tried in memory, so a run of it is short.
    """

    found: list[_FailedError] = []

    @seed(draw)
    @settings(
        max_examples=cases,
        database=None,
        deadline=None,
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
    )
    @given(strategy)
    def attempt(case: T) -> None:
        request, answer, wrong = check(case)
        to.seen(part, answer)
        for what in wrong:
            if not to.is_known(part, request, what):
                found.append(_FailedError(request, answer, what))
                raise found[-1]

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            attempt()
    except (_FailedError, Flaky):
        last = found[-1]  # the least; or one that is not seen each time
        to.failed(part, last.request, last.answer, last.what)
    except Unsatisfiable:
        pass  # nothing more to draw


def judge(subject: Subject, request: Request) -> tuple[Request, Answer, list[str]]:
    """Send a request and look at its answer."""
    answer = subject.send(request)
    return request, answer, list(faults(request, answer))
