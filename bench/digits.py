"""Convolutional networks on scikit-learn's digits, over HTTP: ``python -m bench.digits``.

1797 images of 8 x 8 pixels (Alpaydin & Kaynak 1998). A quarter of the rows, chosen before anything
was trained, is for the test alone: the jobs are not given it. Layers and rates were chosen by
cross-validation on the others; each job keeps a fifth of these to decide when to stop.
"""

from __future__ import annotations

import io
from contextlib import closing
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits

from bench.demo.client import Client
from bench.demo.server import serving
from bench.demo.training import train_unseen

TEST_SHARE = 0.25
SPLIT_SEED = 13
SEEDS = (13, 14, 15, 16, 17)
PASSES = 200


def main() -> None:
    """Train once for each seed and print accuracy on the test rows, time and epochs."""
    console = Console(highlight=False)
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    test, rest = np.split(order, [round(len(labels) * TEST_SHARE)])
    archive = io.BytesIO()
    np.savez(archive, x=pixels.reshape(-1, 1, 8, 8).astype(np.float32), y=labels)
    table = Table(
        title=f"{len(rest)} rows to train on, {len(test)} test rows", title_justify="left"
    )
    for heading in ("seed", f"{PASSES} passes", "one pass", "epochs", "s/epoch", "job, s"):
        table.add_column(heading, justify="right")
    means = []
    with serving() as url, closing(Client(url)) as client:
        dataset = client.upload(archive.getvalue(), "application/x-npz", name="digits")["id"]
        for seed in SEEDS:
            job = train_unseen(client, request(dataset, rest, seed))
            asked = {"model": job["model"], "inputs": {"dataset": dataset, "rows": test.tolist()}}
            many = accuracy(client, {**asked, "num_samples": PASSES, "seed": seed}, labels[test])
            one = accuracy(client, asked, labels[test])
            means.append(many)
            table.add_row(str(seed), f"{many:.2%}", f"{one:.2%}", *times(client, job))
    console.print(table)
    console.print(f"mean of {len(SEEDS)} seeds, {PASSES} passes: {np.mean(means):.2%}")


def request(dataset: str, rows: npt.NDArray[np.intp], seed: int) -> dict[str, Any]:
    """Return what is posted to /train."""

    def convolution(size: int) -> dict[str, Any]:
        return {"form": "conv2", "size": size, "filter_size": 3, "border_mode": "same"}

    pool = {"form": "pool2", "pool_size": 2}
    layers: list[Any] = [None]
    for size in (32, 64):
        layers += [convolution(size), convolution(size), pool]
    layers += ["flatten", 128, None]
    return {
        "dataset": dataset,
        "rows": rows.tolist(),
        "validation": 0.2,
        "network": {"form": "classifier", "layers": layers},
        "dropout": {"hid[36]:out": 0.1, "hid8:out": 0.5},
        "epochs": 60,
        "patience": 12,
        "seed": seed,
        "name": f"digits {seed}",
    }


def accuracy(client: Client, asked: dict[str, Any], truth: npt.NDArray[np.intp]) -> float:
    label = np.array(client.post("/predict", asked)["outputs"]["label"])
    return float((label == truth).mean())


def times(client: Client, job: Any) -> tuple[str, str, str]:
    """Return the number of epochs, the seconds that one took (the median), and those of the job."""
    events = client.get(f"/jobs/{job['id']}/events?limit=1000")["data"]
    ends = [datetime.fromisoformat(e["at"]).timestamp() for e in events if e["type"] == "epoch"]
    started, finished = (
        datetime.fromisoformat(job[key]).timestamp() for key in ("started_at", "finished_at")
    )
    return str(len(ends)), f"{np.median(np.diff(ends)):.3f}", f"{finished - started:.1f}"


if __name__ == "__main__":
    main()
