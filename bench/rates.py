"""Rates of dropout by a search or learnt, over HTTP: ``python -m bench.rates --data FOLDER``.

The same network with learnt noise, on the same splits (see `bench.heads`), gets its rate in two
ways: by a search over some, on validation rows, the best trained once more on all; or as concrete
dropout, which learns it with the weights and needs no validation rows. Told are the log-likelihood
of the test rows and the seconds of the jobs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.demo.client import Client
from bench.demo.server import serving
from bench.heads import EPOCHS, PASSES, request_of
from bench.paper import Problem, error_of, searched, stored

RATES = (0.01, 0.05, 0.1, 0.2)
WAYS = ("search", "concrete")


def by_search(problem: Problem, train: list[int], seed: int) -> dict[str, Any]:
    """Return the job that tries some rates on validation rows."""
    return request_of(problem, train, seed) | {
        "validation": {"rows": train[len(train) - len(train) // 5 :]},
        "search": {
            "grid": {"dropout.hid1:out": list(RATES)},
            "select": "valid.log_likelihood",
            "refit": True,
        },
    }


def concrete(problem: Problem, train: list[int], seed: int) -> dict[str, Any]:
    """Return the job that learns the rate.

    The loss `gll` is -log p, so that the bound of Gal, Hron & Kendall (2017) over N rows has the
    entropy with the factor 1 / N; the squared weights have the one of the other way.
    """
    request = request_of(problem, train, seed)
    (decay,) = request["regularizers"]
    learnt = {"form": "concrete_dropout", "pattern": "hid1:out", "weight": 1 / len(train)}
    return request | {"dropout": {}, "validation": None, "regularizers": [decay, learnt]}


def seconds_of(job: Any) -> float:
    """Return how long a job has run."""
    started, finished = (datetime.fromisoformat(job[key]) for key in ("started_at", "finished_at"))
    return (finished - started).total_seconds()


def measured(client: Client, problem: Problem, number: int) -> dict[str, list[float]]:
    """Return rate, RMSE, log-likelihood and seconds of each way, of one split."""
    split = problem.described["splits"][number]
    found = {}
    for way, asked in zip(WAYS, (by_search, concrete), strict=True):
        job = searched(client, asked(problem, split["train"], number))
        body = {"model": job["model"], "dataset": problem.dataset, "rows": split["test"]}
        told = client.post("/evaluate", body | {"num_samples": PASSES, "seed": 7})
        (dropout,) = told["dropout"]
        scores = [told["rmse"], told["log_likelihood"], seconds_of(job)]
        found[way] = [dropout["rate"], *scores]
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Rates of dropout by a search or learnt")
    parser.add_argument("--data", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--set", default="boston", choices=EPOCHS)
    parser.add_argument("--splits", type=int, default=10, help="how many of the 20")
    given = parser.parse_args(arguments)
    console = Console(highlight=False, width=120)
    with serving() as url, closing(Client(url)) as client:
        problem = stored(client, given.data, given.set)
        splits = track(range(given.splits), given.set, console=console)
        found = [measured(client, problem, number) for number in splits]
    table = Table(title=f"{given.set}, {given.splits} splits", title_justify="left")
    for heading in ("rate by", "rates", "RMSE", "log-likelihood", "seconds of a job"):
        table.add_column(heading)
    for way in WAYS:
        rates, *columns = np.array([own[way] for own in found]).T
        spans = f"{rates.min():.3f} to {rates.max():.3f}"
        table.add_row(way, spans, *(f"{own.mean():.3f} ± {error_of(own):.3f}" for own in columns))
    both = np.array([[own[way][2] for way in WAYS] for own in found])
    ahead = both[:, 1] - both[:, 0]
    console.print(table)
    console.print(f"concrete - search: {ahead.mean():+.3f} ± {error_of(ahead):.3f} in each split")


if __name__ == "__main__":
    main()
