"""Four UCI sets with learnt noise, one network and five, over HTTP: ``python -m bench.heads``.

The splits, the one hidden layer of 50 rectified units, how its weights begin and the published
numbers are those of `bench.paper`. Here the network says the noise of each row itself (loss `gll`:
Nix & Weigend 1994; Kendall & Gal 2017). For each split one job chooses the rate of dropout by the
log-likelihood of the last 20 % of the training rows and trains one network with it on all of them;
another trains five that differ by their seeds and keeps them as an ensemble (Lakshminarayanan et
al. 2017). The test rows are scored by `POST /evaluate`. With `--scores FILE` a run goes on where
another has stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.demo.client import Client
from bench.demo.server import serving
from bench.paper import HIDDEN, PUBLISHED, Problem, error_of, glorot, searched, stored, verdict

EPOCHS = {"boston": 100, "concrete": 1000, "energy": 150, "wine": 40}
"""Chosen, like the learning rate, on validation rows of the first four to eight splits, which are
training rows of these, but may be test rows of others."""
RATES = (0.02, 0.05, 0.1, 0.2)
MEMBERS = 5
PASSES = 1000
"""Of all networks together."""
WAYS = ("one network", f"{MEMBERS} networks")

Kept = dict[str, list[dict[str, Any]]]
"""By set, what came of each split, in their order."""


def request_of(problem: Problem, train: list[int], seed: int) -> dict[str, Any]:
    """Return what the jobs of a split have in common."""
    return {
        "dataset": problem.dataset,
        "targets": [problem.described["target"]],
        "rows": train,
        "network": {
            "layers": [
                None,
                {"size": HIDDEN, "activation": "relu", "std": glorot(problem)},
                {"name": "covar", "size": 1, "activation": "softplus", "inputs": "hid1"},
                {"name": "out", "inputs": "hid1"},
            ],
            "loss": "gll",
        },
        "dropout": {"hid1:out": 0.0},
        "regularizers": [{"form": "weight_l2", "weight": 1e-4, "reduction": "sum"}],
        "optimizer": {
            "form": "adam",
            "learning_rate": 0.02,
            "schedule": {"form": "cosine"},
        },
        "epochs": EPOCHS[problem.name],
        "batch_size": 128,
        "restore_best": False,
        "seed": seed,
    }


def chosen(client: Client, problem: Problem, train: list[int], seed: int) -> tuple[float, str]:
    """Return the rate of dropout, and the model of one network that was trained with it."""
    job = searched(
        client,
        request_of(problem, train, seed)
        | {
            "validation": {"rows": train[len(train) - len(train) // 5 :]},
            "search": {
                "grid": {"dropout.hid1:out": list(RATES)},
                "select": "valid.log_likelihood",
                "refit": True,
            },
        },
    )
    overrides = job["metrics"]["search"]["overrides"]
    return float(overrides["dropout.hid1:out"]), job["model"]


def together(client: Client, problem: Problem, train: list[int], seed: int, rate: float) -> str:
    """Return the model of several networks that differ by their seeds."""
    variants = [{"seed": 1000 * seed + number} for number in range(MEMBERS)]
    job = searched(
        client,
        request_of(problem, train, seed)
        | {
            "validation": None,
            "dropout": {"hid1:out": rate},
            "search": {"variants": variants, "keep": "ensemble", "select": "train.loss"},
        },
    )
    return str(job["model"])


def scored(client: Client, problem: Problem, model: str, test: list[int], networks: int) -> Any:
    """Return RMSE and log-likelihood of the test rows, in the target's units."""
    body = {"model": model, "dataset": problem.dataset, "rows": test, "seed": 7}
    told = client.post("/evaluate", body | {"num_samples": PASSES // networks})
    return told["rmse"], told["log_likelihood"]


def measured(client: Client, problem: Problem, number: int) -> dict[str, Any]:
    """Return the scores of one split, by way, with the rate that was chosen."""
    begun = time.perf_counter()
    split = problem.described["splits"][number]
    rate, one = chosen(client, problem, split["train"], seed=number)
    several = together(client, problem, split["train"], number, rate)
    scores = {
        way: scored(client, problem, model, split["test"], networks)
        for way, model, networks in zip(WAYS, (one, several), (1, MEMBERS), strict=True)
    }
    return {"rate": rate, "seconds": round(time.perf_counter() - begun, 1), **scores}


def kept(file: Path | None) -> Kept:
    """Return what an earlier run has written to this file; nothing where there is none."""
    return {} if file is None or not file.exists() else json.loads(file.read_text())


def keep(scores: Kept, file: Path | None) -> None:
    """Write the scores so far, where there is a file for them."""
    if file is not None:
        fresh = file.with_suffix(".new")
        fresh.write_text(json.dumps(scores, indent=1))
        fresh.replace(file)


def table_of(scores: Kept) -> Table:
    """Return the table beside the published one."""
    table = Table(title="means over the splits", title_justify="left")
    headings = ("set", "", "splits", "rates", "RMSE", "log-likelihood", "published", "", "s")
    for heading in headings:
        table.add_column(heading)
    for name, found in scores.items():
        published = PUBLISHED[name][1]
        rates = [row["rate"] for row in found]
        for way in WAYS:
            rmse, likelihood = np.array([row[way] for row in found]).T
            table.add_row(
                name,
                way,
                str(len(found)),
                ", ".join(f"{rate:g}: {rates.count(rate)}" for rate in RATES),
                f"{rmse.mean():.3f} ± {error_of(rmse):.3f}",
                f"{likelihood.mean():.3f} ± {error_of(likelihood):.3f}",
                f"{published[0]:.2f} ± {published[1]:.2f}",
                verdict(likelihood, published, larger=True),
                f"{sum(row['seconds'] for row in found):.0f}",
            )
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Four UCI sets with learnt noise")
    parser.add_argument("--data", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--sets", default=",".join(EPOCHS), help="which, by commas")
    parser.add_argument("--splits", type=int, default=20, help="how many of the 20")
    parser.add_argument("--scores", type=Path, help="kept here, and not measured again")
    given = parser.parse_args(arguments)
    console = Console(highlight=False, width=150)
    scores = kept(given.scores)
    with serving() as url, closing(Client(url)) as client:
        for name in given.sets.split(","):
            problem = stored(client, given.data, name)
            found = scores.setdefault(name, [])
            for number in track(range(len(found), given.splits), name, console=console):
                found.append(measured(client, problem, number))
                keep(scores, given.scores)
    console.print(table_of(scores))


if __name__ == "__main__":
    main()
