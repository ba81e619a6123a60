"""What is left when the kills are over, against what was acknowledged."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt

from bench.chaos.seen import CORRUPT, LOST, TWICE, UNLIKE, WRONG, Seen
from bench.chaos.twins import Calm, ended, table, twin_of

__all__ = ["check", "compare", "drain"]

DRAIN_S = 900.0


def compare(http: httpx.Client, calm: Calm, seen: Seen, job: Mapping[str, Any]) -> None:
    """Compare a job that has ended with the twin that nobody disturbed."""
    job_id = job["id"]
    name = seen.jobs[job_id]
    if job["status"] == "cancelled" and job_id in seen.cancelled:
        return
    if job["status"] != "succeeded":
        seen.fault(f"jobs {job['status']}", f"{name}: {job['error']}")
        return
    if seen.cancelled.get(job_id):
        seen.fault("jobs that went on after a cancellation was acknowledged", job_id)
    try:
        twin = twin_of(http, job)
    except httpx.HTTPStatusError as error:
        problem = error.response.json() if error.response.is_error else {}
        is_corrupt = str(problem.get("type", "")).endswith(":corrupt")
        fault = CORRUPT if is_corrupt else f"what jobs left answered {error.response.status_code}"
        seen.fault(fault, f"{name} {job_id}: {problem.get('detail')}")
        return
    calm_twin = calm.twins[name]
    unlike = sorted(key for key in twin | calm_twin if twin.get(key) != calm_twin.get(key))
    if unlike:
        seen.fault(UNLIKE, f"{name} {job_id}: {', '.join(unlike)}")
    seen.did(f"{name} jobs compared")
    if job["attempts"] > 1:
        with seen.lock:
            seen.interrupted += 1
            seen.attempts += job["attempts"] - 1


def drain(http: httpx.Client, seen: Seen) -> None:
    """Wait for the end of all jobs."""
    for job_id in [job_id for job_id in seen.jobs if f"/jobs/{job_id}" not in seen.removed]:
        ended(http, job_id, DRAIN_S)


def check(http: httpx.Client, calm: Calm, seen: Seen) -> None:
    """Count whatever is not as it was acknowledged, or not as undisturbed."""
    stored = {job["id"] for job in _all(http, "/jobs")}
    left = {job_id for job_id in seen.jobs if f"/jobs/{job_id}" not in seen.removed}
    for job_id in left - stored:
        seen.fault(LOST, job_id)
    for job_id in stored - left - set(calm.jobs):
        is_back = f"/jobs/{job_id}" in seen.removed
        seen.fault("deletions undone" if is_back else "jobs that nobody was told of", job_id)
    for job_id in left & stored - seen.removing:
        job = ended(http, job_id, 60)
        if job["status"] in ("lost", "never ended"):
            seen.fault(LOST, f"{job_id}: {job['status']}")
        else:
            compare(http, calm, seen, job)
    _check_made(http, seen)
    _check_uploads(http, seen)
    _check_aliases(http, seen)
    _check_answers(http, calm, seen)


def _check_made(http: httpx.Client, seen: Seen) -> None:
    """Look for jobs with more than one result, and for what was deleted."""
    for path in ("/models", "/datasets"):
        made = list(_all(http, path))
        by_job = Counter(each["job"] for each in made if each["job"] is not None)
        for job_id, count in by_job.items():
            if count > 1:
                seen.fault(TWICE, f"{job_id} left {count}")
        for each in made:
            if f"{path}/{each['id']}" in seen.removed:
                seen.fault("deletions undone", f"{path}/{each['id']}")


def _check_uploads(http: httpx.Client, seen: Seen) -> None:
    """Ask for every data set that is acknowledged and not deleted."""
    for dataset, number in seen.uploads.items():
        path = f"/datasets/{dataset}"
        if path in seen.removed:
            continue
        told = http.get(path)
        if told.status_code == 404:
            seen.fault("acknowledged uploads lost", dataset)
            continue
        content = http.get(f"{path}/content", headers={"Accept": "text/csv"})
        if not content.is_success:
            seen.fault(CORRUPT, f"{path}: {content.text[:200]}")
            continue
        seen.did("uploads compared")
        given = table(number)
        is_whole = told.json()["sha256"] == hashlib.sha256(given).hexdigest()
        if not is_whole or not np.array_equal(_numbers(content.content), _numbers(given)):
            seen.fault(CORRUPT, f"{path} is not what was uploaded")


def _numbers(content: bytes) -> npt.NDArray[np.float64]:
    return np.loadtxt(content.decode().splitlines(), delimiter=",", skiprows=1)


def _check_aliases(http: httpx.Client, seen: Seen) -> None:
    for name, may_be in seen.fronts.items():
        told = http.get(f"/aliases/{name}")
        if not told.is_success or told.json()["model"] not in may_be:
            seen.fault("moves of aliases lost", f"{name}: {told.text[:200]}")


def _check_answers(http: httpx.Client, calm: Calm, seen: Seen) -> None:
    """Ask for all predictions once more, and for what keys of idempotency keep."""
    for request, expected in calm.pairs:
        answer = http.post("/predict", json=request)
        seen.did("predictions")
        if answer.content != expected:
            seen.fault(WRONG, f"{answer.status_code} after the last start: {str(request)[:100]}")
    for asked in seen.asked:
        answer = http.post(asked.path, **asked.request)
        seen.did("requests repeated by their keys")
        if answer.content != asked.answer:
            seen.fault("repeated requests answered anew", f"{asked.path}: {answer.status_code}")


def _all(http: httpx.Client, path: str) -> Iterator[dict[str, Any]]:
    after: dict[str, str] = {}
    while True:
        page = http.get(path, params={"limit": "1000", **after}).raise_for_status().json()
        yield from page["data"]
        if not page["has_more"]:
            return
        after = {"after": page["data"][-1]["id"]}
