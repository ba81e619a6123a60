"""Hypothesis: requests near valid ones, to every route that reads a specification."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.fuzz.exploration import explore
from bench.fuzz.figures import Figures
from bench.fuzz.mutation import encoded, mutated
from bench.fuzz.requests import Answer, Request
from bench.fuzz.subject import Subject
from bench.fuzz.verdict import faults
from bench.fuzz.world import World

__all__ = ["Near"]

PART = "hypothesis"
_JSON = {"Content-Type": "application/json"}
_ROUND = 100


@dataclass(frozen=True)
class _Route:
    path: str
    bodies: list[dict[str, Any]]
    schema: str
    fixed: tuple[str, ...] = ("model", "dataset")


class Near:
    """All routes in turn."""

    def __init__(self, subject: Subject, world: World, figures: Figures) -> None:
        self._subject = subject
        self._world = world
        self._figures = figures
        schemas = subject.document()["components"]["schemas"]
        self._turns = [
            (
                route.path,
                mutated(route.bodies, sorted(schemas[route.schema]["properties"]), route.fixed),
            )
            for route in _routes(world)
        ]
        self._turn = 0

    def run(self, cases: int, draw: int) -> None:
        """Try about so many cases, with the routes that are next."""
        end = self._figures.cases[PART] + cases
        while self._figures.cases[PART] < end:
            path, documents = self._turns[self._turn % len(self._turns)]
            self._turn += 1
            count = min(_ROUND, end - self._figures.cases[PART])
            explore(PART, count, draw + self._turn, documents, self._check(path), self._figures)

    def _check(self, path: str) -> Callable[[Any], tuple[Request, Answer, list[str]]]:
        def check(document: Any) -> tuple[Request, Answer, list[str]]:
            request = Request("POST", path, encoded(document), _JSON)
            answer = self._subject.send(request)
            wrong = list(faults(request, answer))
            location = answer.headers.get("location", "")
            if location.startswith("/jobs/"):
                self._subject.ok(Request("POST", f"{location}/cancel"))
                self._subject.ok(Request("DELETE", location))
            return request, answer, wrong

        return check


def _routes(world: World) -> list[_Route]:
    models, datasets = world.models, world.datasets
    passes: dict[str, Any] = {"num_samples": 10, "seed": 7}
    row = {"city": "Rome", "age": 31.5, "flag": True, "since": "2021-01-05", "size": 2.5}
    predict: list[dict[str, Any]] = [
        {"model": world.alias, "inputs": [row, {**row, "city": None}], **passes},
        {"model": models["regressor"], "inputs": {k: [v, v] for k, v in row.items()},
         "hidden_dropout": 0.5, "dropout": {"hid[12]:out": 0.1}, **passes,
         "statistics": ["mean", "std", "quantiles", "predictive_quantiles", "variance"],
         "quantiles": [0.05, 0.5], "outputs": ["hid*:out"], "tolerance": 0.5},
        {"model": models["regressor"], "inputs": {"dataset": datasets["table"], "rows": [0, 5]},
         "explain": True, "abstain": {"std": 0.1}, **passes, "masks": "shared"},
        {"model": models["classifier"], "inputs": [{"age": 1, "y": 2.5, "flag": False}], **passes,
         "abstain": {"entropy": 0.5}, "noise": {"in:out": 0.1}},
        {"model": models["autoencoder"], "inputs": [[1.0, 2.0]],
         "regularizers": [{"form": "bernoulli_dropout", "pattern": "*:out", "weight": 0.2,
         "rng": 3}],
         **passes},
        {"model": models["sequence"], "inputs": [[[0.1, 0.2, 0.3]] * 5], "input_dropout": 0.1},
        {"model": models["text"], "inputs": ["abab"], "generate": {"steps": 4, "top_k": 2},
        "seed": 3},
        {"model": models["ensemble"], "inputs": [[1.0, 2.0]], **passes, "budget_ms": 50},
    ]  # fmt: skip
    stored = {"model": models["regressor"], "dataset": datasets["fresh"]}
    train: list[dict[str, Any]] = [
        {"dataset": datasets["table"], "inputs": ["*"], "targets": ["y"], "validation": 0.1,
         "network": {"form": "regressor", "layers": [
             None, {"size": 5, "activation": "relu", "name": "hid1", "form": "ff"}, 4, None],
             "loss": "mse"},
         "input_dropout": 0.1, "hidden_dropout": 0.5, "dropout": {"hid1:out": 0.1},
         "regularizers": [{"form": "weight_l2", "pattern": "*", "weight": 1e-4},
                          {"form": "bernoulli_dropout", "pattern": "*:out", "weight": 0.2,
                          "rng": 13}],
         "optimizer": {"form": "adam", "learning_rate": 1e-3}, "epochs": 3, "batch_size": 32,
         "monitors": {"hid1:out": [0.1]}, "patience": 3, "gradient_clip": 1.0, "seed": 13,
         "columns": {"age": {"type": "number"}}, "limits": {"seconds": 3600}, "tags": {"a": 1},
         "checkpoint_every": {"seconds": 30}, "name": "odd"},
        {"dataset": datasets["table"], "targets": ["city"], "network": {"layers": [None, 4, None]},
         "calibrate": {"coverage": 0.8, "fraction": 0.3}, "rows": list(range(50)),
         "validation": {"fraction": 0.2, "seed": 1, "stratify": "city"}},
        {"dataset": datasets["arrays"], "inputs": ["x"], "targets": ["y"],
         "network": {"layers": [None, [4, "lstm"], {"form": "last"}, None]},
         "hidden_noise": 0.1, "precision": "float32"},
        {"dataset": datasets["table"], "sequence": {"group": "city", "order": "y", "window": 3},
         "inputs": ["age"], "targets": ["y"], "network": {"layers": [None, [3, "gru"], None]}},
        {"dataset": datasets["table"], "network": {"layers": [None, 3, None]},
         "search": {"grid": {"hidden_dropout": [0.1, 0.2], "optimizer.learning_rate": [1e-3]},
                    "select": "valid.loss", "refit": True, "keep": "best"}},
        {"dataset": datasets["table"], "inputs": ["age"], "targets": ["y"],
         "network": {"layers": [None, {"size": 4, "activation": "tanh"}, {"form": "tied",
         "partner": "hid1"}],
                     "form": "autoencoder"},
         "training": {"form": "pretrain", "epochs": 1}},
    ]  # fmt: skip
    evaluate: list[dict[str, Any]] = [
        {**stored, **passes, "levels": [0.5, 0.9], "rows": [0, 1, 2, 3]},
        {"model": models["classifier"], "dataset": datasets["table"], **passes,
         "ood": {"dataset": datasets["fresh"]}},
        {"model": models["sequence"], "dataset": datasets["arrays"], "input_dropout": 0.1},
    ]  # fmt: skip
    rank: list[dict[str, Any]] = [
        {**stored, **passes, "by": "std", "top_k": 5},
        {"model": models["classifier"], "dataset": datasets["fresh"], **passes,
         "by": "batch_bald", "top_k": 3, "rows": list(range(20))},
    ]  # fmt: skip
    calibrate: list[dict[str, Any]] = [
        {
            "dataset": datasets["fresh"],
            "coverage": 0.8,
            "noise_precision": "fit",
            "num_samples": 10,
        },
        {
            "dataset": datasets["fresh"],
            "coverage": 0.5,
            "rows": list(range(40)),
            "hidden_dropout": 0.1,
        },
    ]
    feedback: list[dict[str, Any]] = [
        {"inputs": [row, row], "targets": {"y": [1.0, 2.0]}},
        {"inputs": {"dataset": datasets["fresh"], "rows": [0, 1, 2]}},
    ]
    regressor = f"/models/{models['regressor']}"
    predictions = [
        {"model": models["regressor"], "inputs": {"dataset": datasets["table"]}, **passes,
         "key": "city", "name": "many", "limits": {"seconds": 60}},
    ]  # fmt: skip
    return [
        _Route("/predict", predict, "PredictRequest"),
        _Route("/train?validate_only=true", train, "TrainRequest"),
        _Route("/predict", predict, "PredictRequest"),
        _Route("/train", train, "TrainRequest"),
        _Route("/evaluate", evaluate, "EvaluateRequest"),
        _Route("/rank", rank, "RankRequest"),
        _Route(f"{regressor}/calibrate", calibrate, "CalibrateRequest"),
        _Route(f"{regressor}/feedback", feedback, "FeedbackRequest"),
        _Route("/predictions", predictions, "PredictionsRequest"),
        _Route("/evaluations", evaluate, "EvaluationsRequest"),
    ]
