"""What exists in the app under test: data sets, models of several forms, an alias, ended jobs."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.fuzz.requests import Request
from bench.fuzz.subject import Subject

__all__ = ["World", "build"]

ROWS = 60


@dataclass
class World:
    """Ids of what exists, by what it is."""

    datasets: dict[str, str] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    jobs: dict[str, str] = field(default_factory=dict)
    alias: str = "named"


def build(subject: Subject) -> World:
    """Upload, train and name what the fuzzed requests are about."""
    world = World()
    files = {
        "table": ("text/csv", _table()),
        "fresh": ("text/csv", _table(seed=2)),
        "arrays": ("application/x-npz", _arrays()),
        "text": ("text/plain", b"abab ab ba\n" * 12),
    }
    for name, (kind, content) in files.items():
        made = subject.ok(Request("POST", "/datasets", content, {"Content-Type": kind}))
        world.datasets[name] = made["id"]
    specs = _specs(world.datasets)
    for name, spec in specs.items():
        world.jobs[name] = subject.ok(Request.json("/train", {"epochs": 2, **spec}))["id"]
    subject.work()
    for name, job in world.jobs.items():
        ended = subject.ok(Request("GET", f"/jobs/{job}"))
        if ended["status"] != "succeeded":
            raise RuntimeError(f"the job {name} ended as {ended['status']}: {ended['error']}")
        world.models[name] = ended["model"]
    put = Request.json(f"/aliases/{world.alias}", {"model": world.models["regressor"]}, "PUT")
    subject.ok(put)
    return world


def _table(seed: int = 1) -> bytes:
    rng = np.random.default_rng(seed)
    lines = ["city,age,flag,since,size,y"]
    for i in range(ROWS):
        city = ("Rome", "Oslo", "Bern")[i % 3]
        age = "" if i % 7 == 0 else f"{rng.normal(40, 9):.2f}"
        flag, since = ("true", "false")[i % 2], f"2021-01-{i % 28 + 1:02}"
        lines.append(f"{city},{age},{flag},{since},{i / 3:.3f},{i / 7:.3f}")
    return "\n".join(lines).encode()


def _arrays() -> bytes:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(ROWS, 5, 3))
    buffer = io.BytesIO()
    np.savez(buffer, x=x, y=x.sum(axis=(1, 2)), k=np.arange(ROWS) % 3)
    return buffer.getvalue()


def _specs(datasets: dict[str, str]) -> dict[str, dict[str, Any]]:
    table = {"dataset": datasets["table"]}
    arrays = {"dataset": datasets["arrays"]}
    return {
        "regressor": table
        | {
            "network": {"layers": [None, 6, 4, None]},
            "input_dropout": 0.05,
            "hidden_dropout": 0.2,
            "calibrate": {"coverage": 0.8, "fraction": 0.3},
        },
        "classifier": table
        | {
            "targets": ["city"],
            "inputs": ["age", "y", "flag"],
            "network": {"layers": [None, {"size": 5, "name": "wide", "activation": "tanh"}, None]},
            "dropout": {"wide:out": 0.3},
        },
        "autoencoder": table
        | {
            "inputs": ["size", "y"],
            "network": {"form": "autoencoder", "layers": [None, 2, None]},
            "regularizers": [{"form": "weight_l2", "pattern": "*", "weight": 1e-4}],
        },
        "sequence": arrays
        | {"targets": ["y"], "network": {"layers": [None, [4, "lstm"], {"form": "last"}, None]}},
        "text": {
            "dataset": datasets["text"],
            "sequence": {"order": "position", "window": 4},
            "network": {"layers": [None, [3, "rnn"], None]},
        },
        "ensemble": table
        | {
            "inputs": ["age", "size"],
            "targets": ["y"],
            "network": {"layers": [None, 3, None]},
            "search": {"grid": {"hidden_dropout": [0.1, 0.3]}, "keep": "ensemble"},
        },
    }
