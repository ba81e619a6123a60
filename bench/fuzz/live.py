"""A real server: files over HTTP."""

from __future__ import annotations

import random
import time

import httpx

from bench.demo.server import serving
from bench.fuzz.figures import Figures
from bench.fuzz.files import sound
from bench.fuzz.raw import uploads
from bench.fuzz.requests import Answer
from bench.fuzz.verdict import faults

__all__ = ["PART", "run"]

PART = "server"


def run(cases: int, seed: int, figures: Figures) -> None:
    """Start a server and send it so many files."""
    files = dict(sound())
    with serving() as url, httpx.Client(base_url=url, timeout=60) as client:
        for number in range(cases):
            request = uploads(random.Random(f"{seed}-server-{number}"), files)
            started = time.perf_counter()
            got = client.request(
                request.method, request.target, content=request.body, headers=dict(request.headers)
            )
            seconds = time.perf_counter() - started
            answer = Answer(got.status_code, dict(got.headers), got.content, seconds)
            figures.seen(PART, answer)
            for what in faults(request, answer):
                if not figures.is_known(PART, request, what):
                    figures.failed(PART, request, answer, what)
            if answer.status == 201:
                client.delete(answer.headers["location"])
