"""The pictures of docs/uncertainty.md, drawn from answers: ``python -m bench.pictures``.

Starts a server, uploads small data sets, trains, asks over HTTP and draws what was answered, as SVG
files in docs/pictures/. Everything random has a seed: the same code on the same machine draws the
same bytes.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from sklearn.datasets import load_digits

from bench import drawings
from bench.demo.client import Client
from bench.demo.server import serving
from bench.demo.training import train_unseen

Doubles = npt.NDArray[np.float64]

FOLDER = Path("docs/pictures")
PASSES = 2000
_SCORED_PASSES = 200
_SEED = 7
_WAIT_S = 50
_TIMEOUT_S = 600


@dataclass(frozen=True)
class Asking:
    """A server, and where the pictures go."""

    client: Client
    folder: Path

    def stored(self, name: str, **arrays: npt.NDArray[Any]) -> str:
        """Upload arrays."""
        archive = io.BytesIO()
        np.savez(archive, **arrays)  # type: ignore[arg-type]
        return str(self.client.upload(archive.getvalue(), "application/x-npz", name=name)["id"])

    def table(self, name: str, data: Doubles) -> str:
        """Upload columns x and y."""
        text = io.StringIO()
        np.savetxt(text, data, delimiter=",", header="x,y", comments="", fmt="%.17g")
        return str(self.client.upload(text.getvalue().encode(), "text/csv", name=name)["id"])

    def trained(self, dataset: str, **request: Any) -> str:
        """Train, and return the model."""
        return str(train_unseen(self.client, {"dataset": dataset, **request})["model"])

    def told(self, model: str, inputs: Any, **request: Any) -> dict[str, Any]:
        """Predict, and return the whole answer, its outputs as arrays."""
        body = {"model": model, "inputs": inputs, "num_samples": PASSES, "seed": _SEED, **request}
        answer = dict(self.client.post("/predict", body))
        return answer | {"outputs": _arrays(answer["outputs"])}

    def evaluated(self, model: str, dataset: str, **request: Any) -> Any:
        """Evaluate some passes of a model."""
        body = {"model": model, "dataset": dataset, "num_samples": _SCORED_PASSES, "seed": _SEED}
        return self.client.post("/evaluate", body | request)

    def calibrated(self, model: str, **request: Any) -> str:
        """Calibrate a model, and return the new one."""
        body = {"seed": _SEED, **request}
        job = self.client.post(f"/models/{model}/calibrate", body, wait_s=_WAIT_S)
        if job["status"] != "succeeded":
            raise SystemExit(f"job {job['id']} is {job['status']}: {job['error']}")
        return str(job["model"])


def _arrays(told: Any) -> Any:
    """Return nested lists of numbers as arrays; labels stay lists."""
    if isinstance(told, dict):
        return {name: _arrays(value) for name, value in told.items() if name != "set"} | (
            {"set": told["set"]} if "set" in told else {}
        )
    return np.array(told, dtype=np.float64) if isinstance(told, list) else told


def curve(x: Doubles) -> Doubles:
    """Return the function that the rows with a gap are measured of."""
    return np.asarray(np.sin(1.7 * x) + 0.3 * x)


def with_gap(rows: int, seed: int) -> Doubles:
    """Return x and y, where no x is between -0.8 and 1.2."""
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.uniform(-3, -0.8, rows // 2), rng.uniform(1.2, 3, rows - rows // 2)])
    return np.column_stack([x, curve(x) + rng.normal(0, 0.2, rows)])


GAP = {
    "network": {"layers": [None, 100, 100, None]},
    "dropout": {"hid[12]:out": 0.1},
    "epochs": 400,
    "restore_best": False,
}


def regression(ask: Asking) -> None:
    """Draw what a network says within its data, in their gap and beyond them."""
    data = with_gap(500, seed=1)
    dataset = ask.table("gap", data)
    calibrate = {"coverage": 0.9, "fraction": 0.2, "score": "normalised", "num_samples": PASSES}
    model = ask.trained(dataset, **GAP, validation=0.2, calibrate=calibrate)
    x = np.linspace(-4.2, 4.2, 127)
    inputs = {"x": x.tolist()}
    statistics = ["mean", "std", "variance", "predictive_quantiles", "interval"]
    told = ask.told(model, inputs, statistics=statistics, quantiles=[0.05, 0.95], explain=True)
    shared = ask.told(model, inputs, num_samples=12, masks="shared", statistics=["samples"])
    functions = shared["outputs"]["samples"][:, :, 0]
    drawings.gap(ask.folder / "gap.svg", data, (x, curve(x)), told["outputs"], functions)
    drawings.sites(ask.folder / "sites.svg", x, told["explain"])
    two = [-2.0, 0.2]
    names = ["mean", "std", "standard_error", "quantiles", "predictive_quantiles", "samples"]
    few = ask.told(model, {"x": two}, statistics=names, quantiles=[0.05, 0.95])
    drawings.passes(ask.folder / "passes.svg", two, few["outputs"])
    test = ask.table("gap, test rows", with_gap(2000, seed=2))
    sure = ask.trained(dataset, **GAP, validation=0.2, noise_precision=100)
    fitted = ask.evaluated(model, test)
    evaluations = {"fitted noise": fitted, "half the noise": ask.evaluated(sure, test)}
    drawings.coverage(ask.folder / "coverage.svg", evaluations)


def growing(rows: int, seed: int) -> Doubles:
    """Return x and y, whose noise grows with x."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 3, rows)
    return np.column_stack([x, np.sin(2 * x) + rng.normal(size=rows) * (0.05 + 0.2 * x)])


def learnt_noise(ask: Asking) -> Any:
    """Draw noise as a network with the loss `gll` has learnt it; return an evaluation."""
    data = growing(600, seed=3)
    layers = [
        None,
        {"size": 50, "activation": "tanh"},
        {"name": "covar", "size": 1, "activation": "softplus", "inputs": "hid1"},
        {"name": "out", "inputs": "hid1"},
    ]
    network = {"layers": layers, "loss": "gll"}
    optimizer = {"form": "adam", "learning_rate": 0.01}
    dropout = {"hid1:out": 0.02}
    dataset = ask.table("growing noise", data)
    model = ask.trained(dataset, network=network, dropout=dropout, optimizer=optimizer, epochs=400)
    shown = np.linspace(0, 3, 121)
    names = ["mean", "variance", "predictive_quantiles"]
    asked = {"statistics": names, "quantiles": [0.05, 0.95]}
    told = ask.told(model, {"x": shown.tolist()}, **asked)["outputs"]
    drawings.kinds(ask.folder / "kinds.svg", data, shown, told, 0.05 + 0.2 * shown)
    return ask.evaluated(model, ask.table("growing noise, test rows", growing(1000, seed=4)))


def classification(ask: Asking) -> Any:
    """Draw what a temperature does, and sets; return the evaluation before calibration."""
    pixels, labels = load_digits(return_X_y=True)
    noisy = pixels + np.random.default_rng(4).normal(0, 4, pixels.shape)
    order = np.random.default_rng(5).permutation(len(labels))
    rest, calibration, test = (part.tolist() for part in np.split(order, [400, 1000]))
    dataset = ask.stored("digits under noise", x=noisy.astype(np.float32), y=labels)
    network = {"form": "classifier", "layers": [None, 100, None]}
    request = {"rows": rest, "validation": None, "network": network, "epochs": 400}
    model = ask.trained(dataset, **request, hidden_dropout=0.02)
    before = ask.evaluated(model, dataset, rows=test)
    way = {"coverage": 0.9, "num_samples": _SCORED_PASSES}
    softened = ask.calibrated(model, dataset=dataset, rows=calibration, **way)
    after = ask.evaluated(softened, dataset, rows=test)
    temperature = ask.client.get(f"/models/{softened}")["calibration"]["temperature"]
    evaluations = {"as trained": before, f"temperature {temperature:.2f}": after}
    drawings.reliability(ask.folder / "reliability.svg", evaluations)
    shown = test[:5]
    inputs = {"dataset": dataset, "rows": shown}
    names = ["probabilities", "set"]
    told = ask.told(softened, inputs, statistics=names, num_samples=_SCORED_PASSES)
    drawings.sets(
        ask.folder / "sets.svg", noisy[shown].reshape(-1, 8, 8), labels[shown], told["outputs"]
    )
    return before


def unknown(ask: Asking) -> None:
    """Draw how unsure a network is of digits that it has been trained on, and of others."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(6).permutation(len(labels))
    known, other = order[labels[order] < 8], order[labels[order] >= 8]
    rest, test = known[:1000].tolist(), known[1000:].tolist()
    network = {"form": "classifier", "layers": [None, 200, 200, None]}
    dataset = ask.stored("digits", x=pixels.astype(np.float32), y=labels)
    model = ask.trained(dataset, rows=rest, network=network, hidden_dropout=0.3, epochs=60)
    names = ["entropy", "mutual_information"]
    asked = [
        ask.told(model, {"dataset": dataset, "rows": rows}, statistics=names)["outputs"]
        for rows in (test, other.tolist())
    ]
    ood = {"dataset": dataset, "rows": other.tolist()}
    auroc = ask.evaluated(model, dataset, rows=test, ood=ood)["ood"]["auroc"]
    drawings.histograms(ask.folder / "unknown.svg", asked[0], asked[1], auroc)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw all pictures."""
    parser = argparse.ArgumentParser(description="The pictures of docs/uncertainty.md")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where they go")
    given = parser.parse_args(arguments)
    console = Console(highlight=False)
    with serving() as url, closing(Client(url, timeout_s=_TIMEOUT_S)) as client:
        ask = Asking(client, given.folder)
        regression(ask)
        unknown(ask)
        curves = {
            "digits under noise": ("share of wrong labels", classification(ask)),
            "noise that grows": ("mean absolute error", learnt_noise(ask)),
        }
        drawings.risk(ask.folder / "risk.svg", curves)
    for path in sorted(given.folder.glob("*.svg")):
        console.print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
