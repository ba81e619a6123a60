"""Files on the disk, damaged behind the server's back: refused by their hash, never served."""

from __future__ import annotations

import os
import random
from pathlib import Path

from bench.fuzz.damage import damaged
from bench.fuzz.figures import Figures
from bench.fuzz.requests import Answer, Request
from bench.fuzz.subject import Subject
from bench.fuzz.verdict import faults
from bench.fuzz.world import World

__all__ = ["Stored"]

PART = "artifacts"


class Stored:
    """Weights and data sets, each asked for while it is damaged, and again once it is restored."""

    def __init__(self, subject: Subject, world: World, figures: Figures, seed: int) -> None:
        self._subject = subject
        self._figures = figures
        self._chance = random.Random(f"{seed}-artifacts")
        # Copies that no other part knows, and so none deletes.
        model, regressor = (
            _copied(subject, f"/models/{world.models[name]}/bundle", "/models")
            for name in ("sequence", "regressor")
        )
        dataset = _copied(subject, f"/datasets/{world.datasets['fresh']}/content", "/datasets")
        self._asked: list[tuple[Path, list[Request]]] = [
            (subject.weights_of(model), [
                Request("GET", f"/models/{model}/weights"),
                Request("GET", f"/models/{model}/bundle"),
                Request.json("/predict", {"model": model, "inputs": [[[0.1, 0.2, 0.3]] * 5],
                "seed": 1}),
            ]),
            (subject.content_of(dataset), [
                Request("GET", f"/datasets/{dataset}/content"),
                Request("GET", f"/datasets/{dataset}/preview"),
                Request.json("/predict", {"model": regressor, "num_samples": 2,
                "seed": 1,
                                          "inputs": {"dataset": dataset, "rows": [1, 2]}}),
                Request.json("/train?validate_only=true",
                             {"dataset": dataset, "network": {"layers": [None, 2, None]}}),
            ]),
        ]  # fmt: skip
        self._right = {
            _key(request): self._served(request).body
            for _, asked in self._asked
            for request in asked
        }

    def run(self, cases: int) -> None:
        """Try about so many cases."""
        end = self._figures.cases[PART] + cases
        while self._figures.cases[PART] < end:
            path, asked = self._chance.choice(self._asked)
            sound = path.read_bytes()
            broken = damaged(self._chance, sound, [sound])
            if broken == sound:
                continue
            _replace(path, broken)
            for request in asked:
                self._try(request, is_broken=True)
            _replace(path, sound)
            self._try(self._chance.choice(asked), is_broken=False)

    def _served(self, request: Request) -> Answer:
        answer = self._subject.send(request)
        if answer.status != 200:
            raise RuntimeError(f"{request.target}: {answer.body[:300]!r}")
        return answer

    def _try(self, request: Request, *, is_broken: bool) -> None:
        """A damaged file may be answered from what was read of it before, and then rightly."""
        answer = self._subject.send(request)
        self._figures.seen(PART, answer)
        wrong = list(faults(request, answer))
        if is_broken and answer.status == 503:
            if answer.json()["type"] != "urn:bernoulli:problem:corrupt":
                wrong.append("refused, but not as damaged")
        elif not _same(answer, self._right[_key(request)]):
            wrong.append("served what is damaged" if is_broken else "restored and not served")
        for what in wrong:
            if not self._figures.is_known(PART, request, what):
                self._figures.failed(PART, request, answer, what)


def _copied(subject: Subject, source: str, target: str) -> str:
    """Send to `target` what `source` gives; return the id of the copy."""
    answer = subject.send(Request("GET", source))
    kind = {"Content-Type": answer.headers["content-type"]}
    return str(subject.ok(Request("POST", target, answer.body, kind))["id"])


def _key(request: Request) -> str:
    return f"{request.method} {request.target} {request.body!r}"


def _same(answer: Answer, right: bytes) -> bool:
    if answer.status != 200:
        return False
    is_plan = b'"estimated_seconds"' in right  # which depends on the machine
    return is_plan or answer.body == right


def _replace(path: Path, content: bytes) -> None:
    """Put other bytes in the place of a file, as a restored backup would."""
    draft = path.with_name(f"{path.name}.draft")
    draft.write_bytes(content)
    os.replace(draft, path)
