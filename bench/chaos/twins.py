"""What an undisturbed server gives: of each job what it leaves, of each prediction the bytes."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

__all__ = ["Calm", "Twin", "Work", "ended", "table", "twin_of"]

ROWS = 400
_NET = {"layers": [None, 160, 160, None]}
_EVERY = {"batch_size": 8, "seed": 5, "checkpoint_every": {"epochs": 4}}
TRAININGS: Mapping[str, dict[str, Any]] = {
    "dense": {"network": _NET, "hidden_dropout": 0.2, "epochs": 24, **_EVERY},
    "momentum": {
        "network": {"layers": [None, 200, None]},
        "hidden_noise": 0.1,
        "epochs": 48,
        "optimizer": {"form": "sgd", "learning_rate": 0.001, "momentum": 0.9},
        **_EVERY,
    },
    "autograd": {  # what the compiled kernels do not train
        "network": {"layers": [None, 24, None]},
        "regularizers": [{"form": "contractive", "pattern": "hid1:out", "weight": 0.01}],
        "input_dropout": 0.1,
        "epochs": 8,
        **_EVERY,
    },
    "search": {
        "network": {"layers": [None, 120, None]},
        "epochs": 12,
        "batch_size": 8,
        "seed": 5,
        "search": {"grid": {"hidden_dropout": [0.0, 0.3], "optimizer.learning_rate": [1e-3, 1e-2]}},
        "checkpoint_every": {"seconds": 0.5},
    },
}
"""Bodies of `POST /train` but for the data set, some seconds of work each."""
_OWN = ("id", "job", "created_at", "name", "shared")
"""Of a model's description: what two equal ones do not share."""


@dataclass(frozen=True)
class Work:
    """What a job is asked by."""

    path: str
    body: dict[str, Any]


Twin = dict[str, Any]
"""What a job has left: equal for two jobs that were asked for the same."""


class Calm:
    """What was there before any kill."""

    def __init__(self, http: httpx.Client) -> None:
        self.dataset = _uploaded(http, 0)
        self.other = _uploaded(http, 100)
        self.works: dict[str, Work] = {
            name: Work("/train", {"dataset": self.dataset, **asked})
            for name, asked in TRAININGS.items()
        }
        self.twins: dict[str, Twin] = {}
        self.jobs: list[str] = []
        self.models: dict[str, str] = {}
        """Models by the works that they are of."""
        for name in TRAININGS:
            self._run(http, name)
        self.works |= self._works_of(self.models["dense"])
        for name in [name for name in self.works if name not in TRAININGS]:
            self._run(http, name)
        self.pairs = self._pairs(http)
        """Predictions, each with the bytes of its answer."""

    def _run(self, http: httpx.Client, name: str) -> None:
        work = self.works[name]
        asked = http.post(work.path, json=work.body).raise_for_status().json()
        job = ended(http, asked["id"], 600)
        if job["status"] != "succeeded":
            raise SystemExit(f"{name} has {job['status']} in peace: {job.get('error')}")
        self.twins[name] = twin_of(http, job)
        self.jobs.append(job["id"])
        if job["model"] is not None:
            self.models[name] = job["model"]

    def _works_of(self, model: str) -> dict[str, Work]:
        way: dict[str, Any] = {"num_samples": 300, "hidden_dropout": 0.2, "seed": 5}
        often = {"checkpoint_every": {"seconds": 0.5}}
        rows = {"inputs": {"dataset": self.other}}
        calibration = {"dataset": self.other, "coverage": 0.9, "num_samples": 300, "seed": 5}
        return {
            "predictions": Work("/predictions", {"model": model, **rows, **way, **often}),
            "evaluation": Work("/evaluations", {"model": model, "dataset": self.other, **way}),
            "calibration": Work(f"/models/{model}/calibrate", calibration),
        }

    def _pairs(self, http: httpx.Client) -> list[tuple[dict[str, Any], bytes]]:
        rng = np.random.default_rng(7)
        asked = []
        for name, model in self.models.items():
            body = {"model": model, "seed": 3}
            one, many = (rng.standard_normal((count, 3)).round(3).tolist() for count in (1, 100))
            asked.append({**body, "inputs": one})
            if name in ("dense", "momentum"):
                passes = {"hidden_dropout": 0.3, "statistics": ["mean", "std", "quantiles"]}
                asked.append({**body, "inputs": one, "num_samples": 50, **passes})
                asked.append({**body, "inputs": many, "num_samples": 300, **passes})
        return [
            (request, http.post("/predict", json=request).raise_for_status().content)
            for request in asked
        ]


def table(seed: int) -> bytes:
    """Return a CSV file of the same columns for every seed."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((ROWS, 3)).round(4)
    lines = [f"{a},{b},{c},{a + b * c:.4f}" for a, b, c in x]
    return "\n".join(["a,b,c,y", *lines]).encode()


def _uploaded(http: httpx.Client, seed: int) -> str:
    headers = {"Content-Type": "text/csv"}
    answer = http.post("/datasets", content=table(seed), headers=headers)
    return str(answer.raise_for_status().json()["id"])


def ended(http: httpx.Client, job_id: str, timeout_s: float) -> dict[str, Any]:
    """Return a job when it has ended, or what has become of it instead as its `status`."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        with contextlib.suppress(httpx.TransportError):
            answer = http.get(f"/jobs/{job_id}", headers={"Prefer": "wait=10"})
            if answer.status_code == 404:
                return {"status": "lost"}
            if answer.is_success and answer.json()["terminal"]:
                job: dict[str, Any] = answer.json()
                return job
        time.sleep(0.1)
    return {"status": "never ended"}


def twin_of(http: httpx.Client, job: Mapping[str, Any]) -> Twin:
    """Return all that a job has left, the bytes by their hashes.

    Raises httpx.HTTPStatusError where the server refuses any of it.
    """
    twin: Twin = {"metrics": job["metrics"]}
    if job["kind"] == "train":
        log = http.get(f"/jobs/{job['id']}/regularizers").raise_for_status().json()
        twin["regularizer log"] = log["data"]
    if job["model"] is not None:
        told = http.get(f"/models/{job['model']}").raise_for_status().json()
        twin["model"] = {name: value for name, value in told.items() if name not in _OWN}
        twin["weights"] = _sha256(http, f"/models/{job['model']}/weights")
    made = (job["result"] or {}).get("dataset")
    if made is not None:
        twin["rows"] = _sha256(http, f"/datasets/{made}/content")
    return twin


def _sha256(http: httpx.Client, path: str) -> str:
    return hashlib.sha256(http.get(path).raise_for_status().content).hexdigest()
