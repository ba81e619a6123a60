from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.service.conftest import Api, apps
from tests.theanets.datasets import BASES
from tests.theanets.inventory import Ask


class Lab:
    """An app and its worker in this process: trains what it is sent and asks about the model."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self._datasets: dict[str, str] = {}
        self._jobs: dict[str, dict[str, Any]] = {}

    def dataset(self, base: str) -> str:
        """Return the id of a base's data set, uploaded once."""
        if base not in self._datasets:
            made = BASES[base]
            self._datasets[base] = self.api.upload(made.content, made.media_type)
        return self._datasets[base]

    def train(self, base: str, spec: dict[str, Any]) -> dict[str, Any]:
        """Train a request on a base's data set and return the job, which succeeded."""
        answer = self.api.post("/train", json={"dataset": self.dataset(base), **spec})
        assert answer.status_code == 202, answer.text
        self.work()
        job: dict[str, Any] = self.api.get(answer.headers["location"]).json()
        assert job["status"] == "succeeded", job["error"]
        return job

    def work(self) -> None:
        """Run the jobs that wait."""
        self.api.work()

    def once(self, base: str, layers: Sequence[Any] | None = None) -> dict[str, Any]:
        """Return the job that trained these layers on a base's data set, once."""
        key = f"{base} {layers}"
        if key not in self._jobs:
            self._jobs[key] = self.train(base, BASES[base].spec(layers))
        return self._jobs[key]

    def epochs(self, job: dict[str, Any]) -> list[dict[str, Any]]:
        """Return what the job's events tell of each epoch."""
        answer = self.api.get(f"/jobs/{job['id']}/events", params={"limit": 1000})
        return [event["data"] for event in answer.json()["data"] if event["type"] == "epoch"]

    def assert_progress(self, base: str, spec: dict[str, Any]) -> None:
        """Fail unless training makes the loss less, in theanets' way of looking."""
        sgd = {"form": "sgd", "learning_rate": 0.01, "momentum": 0.5}
        job = self.train(
            base,
            {
                "optimizer": sgd,
                "gradient_clip": 1.0,
                "batch_size": 3,
                **spec,
                "validation": None,
                "epochs": 5,
            },
        )
        losses = [epoch["train"]["loss"] for epoch in self.epochs(job)]
        assert losses[-1] < losses[0]

    def model(self, job: dict[str, Any]) -> dict[str, Any]:
        answer = self.api.get(f"/models/{job['model']}")
        assert answer.status_code == 200, answer.text
        model: dict[str, Any] = answer.json()
        return model

    def predict(self, base: str, job: dict[str, Any], **request: Any) -> dict[str, Any]:
        """Predict the first two rows of a base's data set."""
        inputs = {"dataset": self.dataset(base), "rows": [0, 1]}
        body = {"model": job["model"], "inputs": inputs, **request}
        answer = self.api.post("/predict", json=body)
        assert answer.status_code == 200, answer.text
        outputs: dict[str, Any] = answer.json()["outputs"]
        return outputs

    def ask(self, base: str, job: dict[str, Any], ask: Ask) -> Any:
        """Send a row's request; return the answer's body, or its bytes where it is none of JSON."""
        path = ask.path.format(model=job["model"], job=job["id"])
        body: dict[str, Any] | None = None
        if path == "/predict":
            inputs = {"dataset": self.dataset(base), "rows": [0, 1]}
            body = {"model": job["model"], "inputs": inputs, **ask.body}
        elif path.startswith("/train"):
            body = {"dataset": self.dataset(base), **BASES[base].spec(), **ask.body}
        answer = self.api.request(ask.method, path, json=body)
        assert answer.status_code == ask.status, answer.text
        is_json = answer.headers["content-type"].endswith("json")
        return answer.json() if is_json else answer.content


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with apps(tmp_path_factory.mktemp("theanets")) as start:
        yield Lab(start())
