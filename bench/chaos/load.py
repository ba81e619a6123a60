"""The load: clients that ask until they are answered, each doing one thing again and again."""

from __future__ import annotations

import contextlib
import random
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from bench.chaos.checks import compare
from bench.chaos.seen import LOST, WRONG, Asked, Seen
from bench.chaos.twins import Calm, table

__all__ = ["Act", "Client", "clients"]

UNFINISHED = 5
"""Jobs that wait or run at once."""
KEPT_JOBS = 40
"""Beyond so many, jobs that have ended are compared and deleted."""
PATIENCE_S = 300.0
"""How long a client asks for one thing: longer than any start of the server takes."""


@dataclass
class Client:
    """One client, and what it shares with the others."""

    http: httpx.Client
    calm: Calm
    seen: Seen
    chance: random.Random

    def asked(self, method: str, path: str, **request: Any) -> httpx.Response | None:
        """Send a request until it is answered, through kills; None where that takes too long.

        Lost connections and 503 are what may come instead, and 409 while a first one with the same
        key is going on.
        """
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            with contextlib.suppress(httpx.TransportError):
                answer = self.http.request(method, path, **request)
                if answer.status_code == 503:
                    if "retry-after" not in answer.headers:
                        self.seen.fault("503 without Retry-After", path)
                elif not (answer.status_code == 409 and "idempotency" in answer.text):
                    return answer
            time.sleep(0.2)
        self.seen.fault("never answered", f"{method} {path}")
        return None

    def created(self, path: str, **request: Any) -> str | None:
        """Have something created once, however often it takes to ask; return its id."""
        key = str(uuid.uuid4())
        headers = {"Idempotency-Key": key, **request.pop("headers", {})}
        answer = self.asked("POST", path, headers=headers, **request)
        if answer is None:
            return None
        if not answer.is_success:
            self.seen.fault(f"{path} answered {answer.status_code}", answer.text[:200])
            return None
        if self.chance.random() < 0.2:
            again = {**request, "headers": headers}
            self.seen.asked.append(Asked(path, key, again, answer.content))
        return str(answer.json()["id"])

    def deleted(self, path: str) -> None:
        """Have something deleted; 404 where an answer was lost after the deed."""
        answer = self.asked("DELETE", path)
        if answer is None:
            return
        if answer.status_code in (204, 404):
            self.seen.removed.add(path)
        else:
            self.seen.fault(f"DELETE answered {answer.status_code}", f"{path} {answer.text[:200]}")


Act = Callable[[Client], None]


def _create_job(client: Client) -> None:
    waiting = 0
    for status in ("queued", "running"):
        page = client.asked("GET", "/jobs", params={"status": status})
        waiting += 0 if page is None else len(page.json()["data"])
    if waiting >= UNFINISHED:
        time.sleep(0.5)
        return
    name = client.chance.choice(list(client.calm.works))
    work = client.calm.works[name]
    job_id = client.created(work.path, json=work.body)
    if job_id is not None:
        client.seen.jobs[job_id] = name


def _cancel_job(client: Client) -> None:
    time.sleep(client.chance.uniform(5, 15))
    seen = client.seen
    young = [job_id for job_id in list(seen.jobs)[-UNFINISHED:] if job_id not in seen.removing]
    if not young:
        return
    job_id = client.chance.choice(young)
    seen.cancelled.setdefault(job_id, False)
    body = {"keep": client.chance.random() < 0.3}
    answer = client.asked("POST", f"/jobs/{job_id}/cancel", json=body)
    if answer is None:
        return
    if answer.status_code == 202:
        seen.cancelled[job_id] = True
    elif answer.status_code == 409:  # it has ended otherwise
        del seen.cancelled[job_id]
    else:
        seen.fault(LOST if answer.status_code == 404 else "cancellations refused", answer.text)


def _remove_job(client: Client) -> None:
    """Compare a job that has ended with its twin, then delete it with all that it left."""
    seen = client.seen
    left = [job_id for job_id in list(seen.jobs) if job_id not in seen.removing]
    if len(left) < KEPT_JOBS:
        time.sleep(0.5)
        return
    job_id = client.chance.choice(left[: KEPT_JOBS // 2])
    if job_id in seen.cancelled:
        return
    answer = client.asked("GET", f"/jobs/{job_id}")
    if answer is None or (answer.is_success and not answer.json()["terminal"]):
        return
    seen.removing.add(job_id)
    if answer.status_code == 404:
        seen.fault(LOST, job_id)
        return
    job = answer.json()
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        try:
            compare(client.http, client.calm, seen, job)
            break
        except httpx.TransportError:
            time.sleep(0.5)
    for kind, made in (job["result"] or {}).items():
        client.deleted(f"/{kind}s/{made}")
    client.deleted(f"/jobs/{job_id}")


def _upload(client: Client) -> None:
    seed = client.chance.randrange(1, 20)  # the same bytes come again
    headers = {"Content-Type": "text/csv"}
    dataset = client.created("/datasets", content=table(seed), headers=headers)
    seen = client.seen
    if dataset is not None:
        seen.uploads[dataset] = seed
    kept = [f"/datasets/{each}" for each in list(seen.uploads)]
    kept = [path for path in kept if path not in seen.removed]
    if kept and client.chance.random() < 0.5:
        client.deleted(client.chance.choice(kept))
    time.sleep(client.chance.uniform(0, 2))


def _predict(client: Client) -> None:
    request, expected = client.chance.choice(client.calm.pairs)
    answer = client.http.post("/predict", json=request)
    if answer.status_code == 200:
        client.seen.did("predictions")
        if answer.content != expected:
            client.seen.fault(WRONG, str(request)[:100])
    elif answer.status_code != 503 or "retry-after" not in answer.headers:
        client.seen.fault(f"/predict answered {answer.status_code}", answer.text[:200])


def _move_alias(client: Client) -> None:
    """Move a name, and ask by it: it is where it was moved to, whatever is killed then."""
    name = f"front-{threading.get_ident()}"
    seen, calm = client.seen, client.calm
    may_be = seen.fronts.setdefault(name, set())
    request, expected = client.chance.choice(calm.pairs)
    model = request["model"]
    may_be.add(model)
    with contextlib.suppress(httpx.TransportError):
        answer = client.http.put(f"/aliases/{name}", json={"model": model})
        if answer.is_success:
            seen.did("moves of aliases")
            may_be.clear()
            may_be.add(model)
        elif answer.status_code != 503:
            seen.fault(f"PUT alias answered {answer.status_code}", answer.text[:200])
    for _ in range(3):
        told = client.http.post("/predict", json={**request, "model": name})
        if told.is_success:
            seen.did("predictions by alias")
            if told.json()["model"] not in may_be:
                seen.fault(WRONG, f"{name} names another model")
            elif told.json()["model"] == model and told.content != expected:
                seen.fault(WRONG, f"by {name}: {str(request)[:100]}")
        elif told.status_code not in (404, 503) or (told.status_code == 404 and len(may_be) == 1):
            seen.fault(f"/predict by alias answered {told.status_code}", told.text[:200])


def clients() -> tuple[Act, ...]:
    """Return what each client does."""
    jobs = (_create_job, _create_job, _cancel_job, _remove_job)
    return (*jobs, _upload, _upload, _predict, _predict, _predict, _move_alias)
