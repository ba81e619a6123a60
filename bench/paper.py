"""Four UCI sets by the protocol of Gal & Ghahramani (2016), over HTTP: ``python -m bench.paper``.

For each of 20 splits one job searches 12 pairs of dropout rate and noise precision on the first
80 % of the training rows, by the log-likelihood of the last 20 %, trains the best pair again on all
of them, and 10 000 passes predict the test rows. The folder holds NAME.csv with a header and
NAME.json with `target`, `dropout_rates`, `tau` and `splits` (row numbers of `train` and `test`), as
Hernández-Lobato & Adams (2015) fixed them. Published are RMSE and log-likelihood of one hidden
layer.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.special import logsumexp

from bench.demo.client import Client
from bench.demo.server import serving

Doubles = npt.NDArray[np.float64]

PUBLISHED = {
    "boston": ((2.90, 0.18), (-2.40, 0.04)),
    "concrete": ((4.82, 0.16), (-2.93, 0.02)),
    "energy": ((0.54, 0.06), (-1.21, 0.01)),
    "wine": ((0.62, 0.01), (-0.93, 0.01)),
}
"""RMSE and log-likelihood, each with its standard error."""
PASSES = 10_000
HIDDEN = 50
_ROWS_AT_ONCE = 50  # of a prediction whose samples come back
_WAIT_S = 60


@dataclass(frozen=True)
class Problem:
    """One of the sets, stored in the service."""

    name: str
    dataset: str
    y: Doubles
    described: dict[str, Any]


@dataclass(frozen=True)
class Scores:
    """Of the splits of one set."""

    rmse: Doubles
    log_likelihood: Doubles
    seconds: float

    def told(self, which: str) -> str:
        """Return a mean over the splits and its standard error."""
        values: Doubles = getattr(self, which)
        return f"{values.mean():.3f} ± {error_of(values):.3f}"


def error_of(values: Doubles) -> float:
    """Return the standard error of a mean."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def stored(client: Client, folder: Path, name: str) -> Problem:
    """Upload a set."""
    content = (folder / f"{name}.csv").read_bytes()
    described = json.loads((folder / f"{name}.json").read_text())
    rows = list(csv.DictReader(content.decode().splitlines()))
    y = np.array([float(row[described["target"]]) for row in rows])
    dataset = client.upload(content, "text/csv", name=name)["id"]
    return Problem(name=name, dataset=dataset, y=y, described=described)


def glorot(problem: Problem) -> float:
    """Return the deviation of Glorot & Bengio (2010), as the published weights begin."""
    return math.sqrt(2 / (len(problem.described["features"]) + HIDDEN))


def request_of(problem: Problem, split: dict[str, list[int]], epochs: int, seed: int) -> Any:
    """Return the job of one split: a search, and the best pair once more on all rows."""
    train = split["train"]
    held_out = train[len(train) - len(train) // 5 :]
    std = glorot(problem)
    count = len(train) - len(held_out)
    variants = [
        {
            "input_dropout": rate,
            "hidden_dropout": rate,
            "noise_precision": tau,
            "regularizers.0.weight": 1e-4 * (1 - rate) / (2 * count * tau),
        }
        for rate in problem.described["dropout_rates"]
        for tau in problem.described["tau"]
    ]
    return {
        "dataset": problem.dataset,
        "targets": [problem.described["target"]],
        "rows": train,
        "validation": {"rows": held_out},
        "network": {"layers": [None, {"size": HIDDEN, "activation": "relu", "std": std}, None]},
        "regularizers": [{"form": "weight_l2", "weight": 1e-6, "reduction": "sum"}],
        "optimizer": {"form": "adam"},
        "epochs": epochs,
        "batch_size": 128,
        "seed": seed,
        "restore_best": False,
        "search": {"variants": variants, "select": "valid.log_likelihood", "refit": True},
    }


def searched(client: Client, request: Any) -> dict[str, Any]:
    """Train to the end of the job."""
    return ended(client, client.post("/train", request, wait_s=_WAIT_S))


def ended(client: Client, job: dict[str, Any]) -> dict[str, Any]:
    """Follow a job to its end, which has to be a good one."""
    while not job["terminal"]:
        for _ in client.events(job["id"]):
            pass
        job = client.get(f"/jobs/{job['id']}")
    if job["status"] != "succeeded":
        raise SystemExit(f"job {job['id']} has {job['status']}: {job['error']}")
    return dict(job)


def scored(client: Client, problem: Problem, job: dict[str, Any], test: list[int]) -> Any:
    """Return the RMSE of the mean and the log-likelihood of the mixture, of the test rows."""
    model = client.get(f"/models/{job['model']}")
    tau = float(model["noise_precision"][problem.described["target"]])
    errors, likelihoods = [], []
    for start in range(0, len(test), _ROWS_AT_ONCE):
        rows = test[start : start + _ROWS_AT_ONCE]
        body = {
            "model": job["model"],
            "inputs": {"dataset": problem.dataset, "rows": rows},
            "num_samples": PASSES,
            "seed": 7,
            "statistics": ["mean", "samples"],
        }
        table = client.predicted(body)
        samples = np.stack(table.column("samples").to_numpy())  # (rows, passes)
        squares = (problem.y[rows, None] - samples) ** 2
        scale = 0.5 * math.log(tau / (2 * math.pi)) - math.log(PASSES)
        likelihoods += list(logsumexp(-tau / 2 * squares, axis=1) + scale)
        errors += list(table.column("mean").to_numpy() - problem.y[rows])
    return math.sqrt(np.mean(np.square(errors))), float(np.mean(likelihoods))


def measured(client: Client, problem: Problem, splits: int, epochs: int) -> Scores:
    """Return the scores of the first splits of a set."""
    begun = time.perf_counter()
    seen = []
    chosen = problem.described["splits"][:splits]
    for number, split in enumerate(track(chosen, f"{problem.name}, {epochs} epochs")):
        job = searched(client, request_of(problem, split, epochs, seed=number))
        seen.append(scored(client, problem, job, split["test"]))
    rmse, log_likelihood = np.array(seen).T
    taken = time.perf_counter() - begun
    return Scores(rmse=rmse, log_likelihood=log_likelihood, seconds=taken)


def kept(file: Path | None) -> dict[tuple[str, int], Scores]:
    """Return what an earlier run has written to this file; nothing where there is none."""
    if file is None or not file.exists():
        return {}
    return {
        (row["set"], row["epochs"]): Scores(
            rmse=np.array(row["rmse"]),
            log_likelihood=np.array(row["log_likelihood"]),
            seconds=row["seconds"],
        )
        for row in json.loads(file.read_text())
    }


def keep(scores: dict[tuple[str, int], Scores], file: Path) -> None:
    """Write the scores of each split, so that another run need not measure them again."""
    rows = [
        {
            "set": name,
            "epochs": epochs,
            "rmse": score.rmse.tolist(),
            "log_likelihood": score.log_likelihood.tolist(),
            "seconds": round(score.seconds, 1),
        }
        for (name, epochs), score in scores.items()
    ]
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps(rows, indent=1))
    fresh.replace(file)


def verdict(values: Doubles, published: tuple[float, float], *, larger: bool) -> str:
    """Say how a mean compares with the published one, in standard errors of both."""
    ours, theirs = float(values.mean()), published[0]
    spread = math.hypot(error_of(values), published[1])
    behind = (theirs - ours) / spread if larger else (ours - theirs) / spread
    return "better" if behind < 0 else f"{behind:.1f} standard errors behind"


def table_of(scores: dict[tuple[str, int], Scores]) -> Table:
    """Return the table beside the published one."""
    table = Table(title=f"{PASSES} passes, means over the splits", title_justify="left")
    headings = ("set", "epochs", "RMSE", "published", "", "log-likelihood", "published", "", "s")
    for heading in headings:
        table.add_column(heading)
    for (name, epochs), score in scores.items():
        rmse, likelihood = PUBLISHED[name]
        table.add_row(
            name,
            str(epochs),
            score.told("rmse"),
            f"{rmse[0]:.2f} ± {rmse[1]:.2f}",
            verdict(score.rmse, rmse, larger=False),
            score.told("log_likelihood"),
            f"{likelihood[0]:.2f} ± {likelihood[1]:.2f}",
            verdict(score.log_likelihood, likelihood, larger=True),
            f"{score.seconds:.0f}",
        )
    return table


def plot(scores: dict[tuple[str, int], Scores], file: Path) -> None:
    """Draw the log-likelihoods of the splits beside the published means."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "paper"
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(name for name, _ in scores))
    figure, axes = plt.subplots(2, len(names), figsize=(3 * len(names), 5), squeeze=False)
    for column, name in enumerate(names):
        own = {epochs: score for (whose, epochs), score in scores.items() if whose == name}
        for row, which in enumerate(("rmse", "log_likelihood")):
            axis = axes[row][column]
            mean, error = PUBLISHED[name][row]
            axis.axhspan(mean - error, mean + error, color="tab:orange", alpha=0.3, lw=0)
            axis.axhline(mean, color="tab:orange", label="published")
            for place, score in enumerate(own.values()):
                values: Doubles = getattr(score, which)
                axis.plot(np.full(len(values), place), values, ".", color="tab:blue", alpha=0.4)
                axis.errorbar(place, values.mean(), error_of(values), fmt="o", color="tab:blue")
            axis.set_xticks(range(len(own)), [f"{epochs} epochs" for epochs in own])
            axis.set_xlim(-0.6, len(own) - 0.4)
            axis.set_title(f"{name}: {'RMSE' if row == 0 else 'log-likelihood'}", fontsize=9)
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None})


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and draw the plot."""
    parser = argparse.ArgumentParser(description="Four UCI sets by a published protocol")
    parser.add_argument("--data", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--sets", default=",".join(PUBLISHED), help="which, by commas")
    parser.add_argument("--splits", type=int, default=20, help="how many of the 20")
    parser.add_argument("--epochs", default="400", help="such as 400,4000")
    parser.add_argument("--plot", type=Path, help="where to draw the scores, an SVG file")
    parser.add_argument("--scores", type=Path, help="kept here, and not measured again")
    given = parser.parse_args(arguments)
    console = Console(highlight=False, width=150)
    scores = kept(given.scores)
    with serving() as url, closing(Client(url)) as client:
        for name in given.sets.split(","):
            problem = stored(client, given.data, name)
            for epochs in map(int, given.epochs.split(",")):
                if (name, epochs) in scores:
                    continue
                scores[name, epochs] = measured(client, problem, given.splits, epochs)
                if given.scores is not None:
                    keep(scores, given.scores)
    console.print(table_of(scores))
    if given.plot is not None:
        plot(scores, given.plot)


if __name__ == "__main__":
    main()
