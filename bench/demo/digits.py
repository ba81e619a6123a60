"""Classification: handwritten digits of 8 x 8 pixels (1797 images, Alpaydin & Kaynak 1998)."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits

from bench.demo.client import Client
from bench.demo.plots import plot_digits
from bench.demo.training import train

__all__ = ["run"]

TEST_SHARE = 0.25
SEED = 13
SHOWN = 8


def run(client: Client, console: Console, folder: Path) -> None:
    """Train on three quarters of the images and show those of which the network is least sure."""
    console.rule("Digits: a classifier that knows what it does not know")
    x, y = load_digits(return_X_y=True)
    archive = io.BytesIO()
    np.savez(archive, x=x.astype(np.float32), y=y)
    dataset = client.upload(archive.getvalue(), "application/x-npz", name="digits")
    order = np.random.default_rng(SEED).permutation(len(y))
    test, rest = np.split(order, [round(len(y) * TEST_SHARE)])
    console.print(
        f"POST /datasets: {dataset['rows']} images; {len(test)} of them are kept out of the job"
    )
    job = train(client, console, _training(dataset["id"], rest.tolist()))
    valid = job["metrics"]["valid"]
    console.print(f"  kept parameters: accuracy {valid['accuracy']:.1%} on the validation rows")
    outputs = client.post(
        "/predict",
        {
            "model": job["model"],
            "inputs": {"dataset": dataset["id"], "rows": test.tolist()},
            "num_samples": 200,
            "seed": 7,
        },
    )["outputs"]
    label, probabilities = np.array(outputs["label"]), np.array(outputs["probabilities"])
    information = np.array(outputs["mutual_information"])
    least_certain = np.argsort(-information)
    shown = least_certain[:SHOWN]
    _print(console, y[test][shown], label[shown], probabilities[shown], information[shown])
    right = label == y[test]
    tenth = round(len(test) / 10)
    console.print(
        f"  all {len(test)} test images: accuracy [b]{right.mean():.1%}[/b]; of the tenth with "
        f"most mutual information {right[least_certain[:tenth]].mean():.1%}, of the others "
        f"{right[least_certain[tenth:]].mean():.1%}"
    )
    path = folder / "digits.png"
    plot_digits(
        path, x[test][shown], y[test][shown], label[shown], probabilities[shown], information[shown]
    )
    console.print(f"  plot of the least certain images: {path}")


def _training(dataset: str, rows: list[int]) -> dict[str, Any]:
    # Chosen, as for the other data set, by cross-validation on rows that are not test rows.
    return {
        "dataset": dataset,
        "rows": rows,
        "validation": 0.2,
        "network": {"form": "classifier", "layers": [None, [256, "tanh"], [128, "tanh"], None]},
        "dropout": {"hid[12]:out": 0.4, "in:out": 0.2},
        "epochs": 100,
        "patience": 10,
        "seed": SEED,
        "name": "digits",
    }


def _print(
    console: Console,
    truth: npt.NDArray[Any],
    label: npt.NDArray[Any],
    probabilities: npt.NDArray[np.float64],
    information: npt.NDArray[np.float64],
) -> None:
    table = Table(title=f"The {SHOWN} least certain test images", title_justify="left")
    for heading in ("true digit", "label", "probabilities of the likeliest", "mutual information"):
        table.add_column(heading, justify="right")
    for i in range(len(truth)):
        likeliest = np.argsort(-probabilities[i])[:3]
        odds = ", ".join(f"{digit}: {probabilities[i, digit]:.2f}" for digit in likeliest)
        table.add_row(str(truth[i]), str(label[i]), odds, f"{information[i]:.3f} nats")
    console.print(table)
