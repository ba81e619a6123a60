"""Regression: how far diabetes has progressed a year on (442 patients, Efron et al. 2004)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression

from bench.demo.client import Client
from bench.demo.plots import plot_intervals
from bench.demo.training import train, train_unseen

__all__ = ["run"]

TEST_SHARE = 0.25
SEED = 13
SHOWN = 12
TARGET = "progression"

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


def run(client: Client, console: Console, folder: Path) -> None:
    """Train on three quarters of the patients and say how sure the network is of the others."""
    console.rule("Diabetes: a regression with 90 % intervals")
    names, x, y = _patients()
    test, rest = _split(len(y))
    csv_file = _csv([*names, TARGET], np.column_stack([x, y]))
    dataset = client.upload(csv_file, "text/csv", name="diabetes")
    console.print(
        f"POST /datasets: {dataset['rows']} patients; {len(test)} of them are kept out of the job"
    )
    job = train(client, console, _training(dataset["id"], rest))
    valid = job["metrics"]["valid"]
    console.print(f"  kept parameters: rmse {valid['rmse']:.1f} on the validation rows")
    mean, low, high = _predict(client, job["model"], names, x[test])
    _print(console, y[test], mean, low, high)
    line = LinearRegression().fit(x[rest], y[rest]).predict(x[test])
    covered = float(np.mean((low <= y[test]) & (y[test] <= high)))
    console.print(
        f"  all {len(test)} test rows: rmse [b]{_rmse(y[test], mean):.1f}[/b] (least squares: "
        f"{_rmse(y[test], line):.1f}, the training mean: {_rmse(y[test], y[rest].mean()):.1f}); "
        f"the 90 % intervals cover [b]{covered:.1%}[/b] of them"
    )
    answers = np.empty((3, len(y)))
    answers[:, test] = mean, low, high
    for rows, model in _in_turn(client, dataset["id"], test, rest):
        answers[:, rows] = _predict(client, model, names, x[rows])
    within = np.mean((answers[1] <= y) & (y <= answers[2]))
    console.print(
        f"  with each quarter kept out in turn, all {len(y)} patients: rmse "
        f"[b]{_rmse(y, answers[0]):.1f}[/b]; the intervals cover [b]{within:.1%}[/b] of them"
    )
    path = folder / "diabetes.png"
    plot_intervals(path, y[test], mean, low, high, covered=covered)
    console.print(f"  plot of intervals against truth: {path}")


def _patients() -> tuple[list[str], Array, Array]:
    """Return names, measurements in their own units, and the target."""
    data: Any = load_diabetes(scaled=False)
    return list(data.feature_names), np.asarray(data.data), np.asarray(data.target)


def _rmse(truth: Array, predicted: Array | float) -> float:
    return float(np.sqrt(np.mean((truth - predicted) ** 2)))


def _split(rows: int) -> tuple[Rows, Rows]:
    order = np.random.default_rng(SEED).permutation(rows)
    count = round(rows * TEST_SHARE)
    return order[:count], order[count:]


def _csv(header: list[str], rows: Array) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows.tolist())
    return text.getvalue().encode()


def _training(dataset: str, rows: Rows) -> dict[str, Any]:
    # Sizes, activation and patience were chosen by cross-validation on rows that are not test rows.
    return {
        "dataset": dataset,
        "rows": rows.tolist(),
        "targets": [TARGET],
        "validation": 0.25,
        "network": {"layers": [None, [64, "tanh"], [64, "tanh"], None]},
        "dropout": {"hid[12]:out": 0.1, "in:out": 0.05},
        "epochs": 200,
        "patience": 20,
        "seed": SEED,
        "name": "diabetes",
    }


def _in_turn(client: Client, dataset: str, test: Rows, rest: Rows) -> Iterator[tuple[Rows, str]]:
    """Yield each further quarter of the rows, with a model that was trained without it.

    The share of a hundred rows is mostly luck, and so is noise fitted on fewer still; the share of
    all rows says more. The sizes were chosen on these quarters, though, and not on the first.
    """
    for fold in np.array_split(rest, round(1 / TEST_SHARE) - 1):
        others = np.concatenate([test, np.setdiff1d(rest, fold)])
        yield fold, train_unseen(client, _training(dataset, others))["model"]


def _predict(client: Client, model: str, names: list[str], x: Array) -> Array:
    """Return mean, lower and upper end of the 90 % interval, (3, rows)."""
    outputs = client.post(
        "/predict",
        {
            "model": model,
            "inputs": [dict(zip(names, row, strict=True)) for row in x.tolist()],
            "num_samples": 200,
            "seed": 7,
            "statistics": ["mean", "std", "predictive_quantiles"],
            "quantiles": [0.05, 0.95],
        },
    )["outputs"]
    quantiles = outputs["predictive_quantiles"]
    return np.array([outputs["mean"], quantiles["0.05"], quantiles["0.95"]])[:, :, 0]


def _print(console: Console, truth: Array, mean: Array, low: Array, high: Array) -> None:
    table = Table(title=f"{SHOWN} of {len(truth)} test rows, 200 passes each", title_justify="left")
    for heading in ("true value", "mean", "90 % predictive interval"):
        table.add_column(heading, justify="right")
    table.add_column("covered")
    for i in range(SHOWN):
        inside = low[i] <= truth[i] <= high[i]
        interval = f"{low[i]:.0f} to {high[i]:.0f}"
        table.add_row(f"{truth[i]:.0f}", f"{mean[i]:.1f}", interval, "yes" if inside else "no")
    console.print(table)
