"""Whether a classifier of digits knows what it does not know: ``python -m bench.outliers``.

Two questions about scikit-learn's 1797 digits (Alpaydin & Kaynak 1998), asked of the convolutional
network of `bench.digits`, or of several that differ by their seeds. How far is its confidence from
its accuracy, before and after a temperature? And how well does each kind of uncertainty tell digits
of the test from what the network has never seen: each digit in turn, kept out of the training; the
same digits turned, turned into their negatives, and with their pixels shuffled; and 8 x 8 patches
of two photographs?
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import binom
from sklearn.datasets import load_digits, load_sample_images

from bench import digits as images
from bench.demo.client import Client
from bench.demo.server import serving
from bench.paper import ended, error_of, searched

Doubles = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]

PASSES = 100
"""Of each network."""
KINDS = ("mutual_information", "entropy", "expected_entropy", "variation_ratio")
TEST, CALIBRATION = 450, 250
"""Rows; the other 1097 train, of which a fifth decides when to stop."""
_HALF = 8.0  # of the largest pixel
_POOL = 4  # pixels of a photograph that become one, along each axis
_WAIT_S = 50
_TIMEOUT_S = 600


@dataclass(frozen=True)
class Digits:
    """The digits, stored in the service, and a division of their rows."""

    dataset: str
    labels: Rows
    train: Rows
    calibration: Rows
    test: Rows


def patches() -> Doubles:
    """Return patches of photographs in grey, (images, 64), from 0 to 16 as the digits."""
    found = []
    for photograph in load_sample_images().images:
        grey = photograph.mean(axis=2)
        height, width = (size // (8 * _POOL) for size in grey.shape)
        cut = grey[: height * 8 * _POOL, : width * 8 * _POOL]
        small = cut.reshape(height * 8, _POOL, width * 8, _POOL).mean(axis=(1, 3))
        tiles = small.reshape(height, 8, width, 8).swapaxes(1, 2).reshape(-1, 64)
        found.append(tiles * (16 / 255))
    return np.concatenate(found)


def strange(pixels: Doubles) -> Iterator[tuple[str, Doubles]]:
    """Yield images that are no digits, made of digits or of photographs."""
    turned = np.rot90(pixels.reshape(-1, 8, 8), axes=(1, 2))
    yield "turned by 90 degrees", turned.reshape(-1, 64)
    yield "negatives", 2 * _HALF - pixels
    yield "pixels shuffled", pixels[:, np.random.default_rng(0).permutation(64)]
    yield "photographs", patches()


def uploaded(client: Client, name: str, pixels: Doubles, labels: Rows | None = None) -> str:
    """Store images, with their labels where they have some."""
    archive = io.BytesIO()
    y = np.zeros(len(pixels), dtype=np.int64) if labels is None else labels
    np.savez(archive, x=pixels.reshape(-1, 1, 8, 8).astype(np.float32), y=y)
    return str(client.upload(archive.getvalue(), "application/x-npz", name=name)["id"])


def divided(dataset: str, labels: Rows, seed: int) -> Digits:
    """Divide the rows at random."""
    order = np.random.default_rng(seed).permutation(len(labels))
    test, calibration, train = np.split(order, [TEST, TEST + CALIBRATION])
    return Digits(dataset, labels, train, calibration, test)


def trained(client: Client, dataset: str, rows: Rows, members: int, seed: int) -> str:
    """Return the model of one network or of several that differ by their seeds."""
    request = images.request(dataset, rows, seed)
    if members > 1:
        variants = [{"seed": 100 * seed + number} for number in range(members)]
        request["search"] = {"variants": variants, "keep": "ensemble"}
    return str(searched(client, request)["model"])


def evaluated(client: Client, model: str, digits: Digits, rows: Rows, **asked: Any) -> Any:
    """Evaluate a model on rows."""
    body = {"model": model, "dataset": digits.dataset, "rows": rows.tolist(), "seed": 7}
    return client.post("/evaluate", body | {"num_samples": PASSES} | asked)


def calibrated(client: Client, model: str, digits: Digits) -> str:
    """Return the same network with a temperature."""
    body = {"coverage": 0.9, "dataset": digits.dataset, "rows": digits.calibration.tolist()}
    path = f"/models/{model}/calibrate"
    job = client.post(path, body | {"num_samples": PASSES}, wait_s=_WAIT_S)
    return str(ended(client, job)["model"])


def pooled(divisions: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return reliability bins of all divisions' rows together."""
    bins = []
    for own in zip(*divisions, strict=True):
        count = sum(each["count"] for each in own)
        means = {
            name: sum(each["count"] * (each[name] or 0.0) for each in own) / max(1, count)
            for name in ("confidence", "accuracy")
        }
        bins.append({"count": count, **means})
    return bins


def error_in(bins: list[dict[str, Any]]) -> float:
    """Return the expected calibration error of reliability bins (Guo et al. 2017)."""
    gaps = [each["count"] * abs(each["confidence"] - each["accuracy"]) for each in bins]
    return float(sum(gaps) / sum(each["count"] for each in bins))


def error_by_chance(bins: list[dict[str, Any]]) -> float:
    """Return what that would come to if each bin's rows were right as often as they are sure.

    A bin of n rows is then off by |X / n - p|, X ~ Binomial(n, p), on average.
    """
    gaps = 0.0
    for each in bins:
        hits = np.arange(each["count"] + 1)
        off = np.abs(hits - each["count"] * each["confidence"])
        gaps += float(off @ binom.pmf(hits, each["count"], each["confidence"]))
    return float(gaps / sum(each["count"] for each in bins))


def confidence(client: Client, digits: Digits, members: int, divisions: int) -> Table:
    """Return calibration errors before and after a temperature."""
    told = Table(title=f"{members} networks, {divisions} divisions")
    for heading in ("", "accuracy", "log_loss", "ece", "of all rows", "by chance", "T"):
        told.add_column(heading)
    found: dict[str, list[Any]] = {"before": [], "after": []}
    temperatures = []
    for seed in track(range(divisions), f"{members} networks"):
        own = divided(digits.dataset, digits.labels, seed)
        model = trained(client, own.dataset, own.train, members, seed)
        softened = calibrated(client, model, own)
        for when, each in zip(found, (model, softened), strict=True):
            found[when].append(evaluated(client, each, own, own.test))
        temperatures.append(client.get(f"/models/{softened}")["calibration"]["temperature"])
    for when, evaluations in found.items():
        scores = [
            np.array([each[key] for each in evaluations]) for key in ("accuracy", "log_loss", "ece")
        ]
        bins = pooled([each["reliability"] for each in evaluations])
        cells = [f"{own.mean():.4f} ± {error_of(own):.4f}" for own in scores]
        cells += [f"{error_in(bins):.4f}", f"{error_by_chance(bins):.4f}"]
        told.add_row(when, *cells, f"{np.mean(temperatures):.2f}" if when == "after" else "")
    return told


def areas(client: Client, digits: Digits, members: int, others: dict[str, str]) -> Any:
    """Return, by what is strange, the AUROC of each kind of uncertainty, a list of several runs."""
    found: dict[str, list[list[float]]] = {}

    def measured(name: str, model: str, rows: Rows, ood: dict[str, Any]) -> None:
        told = evaluated(client, model, digits, rows, ood=ood)["ood"]["auroc"]
        found.setdefault(name, []).append([told[kind] for kind in KINDS])

    for label in track(range(10), f"{members} networks, each digit kept out"):
        known = digits.labels != label
        train, test = (rows[known[rows]] for rows in (digits.train, digits.test))
        unseen = np.flatnonzero(~known)
        model = trained(client, digits.dataset, train, members, label)
        ood = {"dataset": digits.dataset, "rows": unseen.tolist()}
        measured("a digit kept out", model, test, ood)
    for seed in track(range(3), f"{members} networks, strange images"):
        model = trained(client, digits.dataset, digits.train, members, seed)
        for name, dataset in others.items():
            measured(name, model, digits.test, {"dataset": dataset})
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print two tables for each number of networks."""
    parser = argparse.ArgumentParser(description="Whether a classifier knows what it does not know")
    parser.add_argument("--divisions", type=int, default=10, help="for the calibration errors")
    parser.add_argument("--members", type=int, nargs="+", default=[1], help="networks together")
    parser.add_argument("--confidence", action="store_true", help="the first question alone")
    given = parser.parse_args(arguments)
    console = Console(highlight=False, width=130)
    begun = time.perf_counter()
    pixels, labels = load_digits(return_X_y=True)
    with serving() as url, closing(Client(url, timeout_s=_TIMEOUT_S)) as client:
        digits = divided(uploaded(client, "digits", pixels, labels), labels, seed=13)
        made = strange(pixels[digits.test])
        others = {name: uploaded(client, name, own) for name, own in made}
        for members in given.members:
            console.print(confidence(client, digits, members, given.divisions))
            if given.confidence:
                continue
            told = Table(title=f"AUROC of {members} networks, digits of the test against others")
            for heading in ("others", *KINDS):
                told.add_column(heading)
            for name, found in areas(client, digits, members, others).items():
                columns = np.array(found).T
                told.add_row(name, *(f"{own.mean():.3f} ± {error_of(own):.3f}" for own in columns))
            console.print(told)
    console.print(f"{time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
