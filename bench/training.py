"""Training against the textbook loop and its peers: ``python -m bench.training``.

The textbook loop is a DataLoader, modules in train() mode, autograd and Adam. JAX, skorch and Keras
take part where they can be imported (``pip install --target FOLDER --no-deps jax jaxlib ml_dtypes
opt_einsum skorch tqdm tabulate keras absl-py optree namex h5py``, with FOLDER on PYTHONPATH). All
take turns of an epoch in one process, textbook and ours each at its best number of threads, and the
textbook and ours have to come to the same loss.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bench.montecarlo import Machine
from bench.processes import CORES
from bench.training_peers import LEARNING_RATE, PEERS, Epoch, Problem, textbook
from engine.data.inputs import Inputs
from engine.epochs import BlockEnd, EpochEnd
from engine.graph import build_graph
from engine.kernels import library_name
from engine.regularizers import resolve
from engine.spec import TrainSpec
from engine.training import Training, TrainingData

SEED = 7


@dataclass(frozen=True)
class Case:
    """A row of the table."""

    name: str
    rows: int
    problem: Problem
    target: float
    """How many times as fast as the textbook it has to be; 0 for none."""
    of_jax: float = 0.0
    of_floor: float = 0.0
    """How many times the floor it may take."""


def cases() -> Iterator[Case]:
    """Make up the rows of each."""
    generator = np.random.default_rng(SEED)

    def problem(
        rows: int, sizes: tuple[int, ...], rate: float, batch: int, steps: int = 0
    ) -> Problem:
        shape = (rows, steps, sizes[0]) if steps else (rows, sizes[0])
        x = generator.standard_normal(shape).astype(np.float32)
        hidden = np.tanh(x @ generator.standard_normal((sizes[0], 16)) / np.sqrt(sizes[0]))
        out = hidden @ generator.standard_normal((16, sizes[-1]))
        noisy = out + 0.3 * generator.standard_normal(out.shape)
        y = noisy.argmax(-1) if sizes[-1] == 10 else noisy.astype(np.float32)
        return Problem(sizes=sizes, rate=rate, batch_size=batch, x=x, y=y, steps=steps)

    yield Case("506 x 13, 13-50-1, batch 32", 506, problem(506, (13, 50, 1), 0.05, 32), 40, 3)
    wide = problem(20_000, (90, 256, 256, 1), 0.1, 128)
    yield Case("20k x 90, 90-256-256-1, batch 128", 20_000, wide, 3, 1.2)
    digits = problem(3000, (784, 800, 800, 10), 0.5, 100)
    yield Case("3000 x 784, 784-800-800-10, batch 100", 3000, digits, 0, 0, 1.35)
    series = problem(320, (8, 128, 1), 0.0, 32, steps=50)
    yield Case("320 x 50 x 8, LSTM 128, batch 32", 320, series, 1.2)


def ours(problem: Problem, seed: int, threads: int) -> Epoch:
    """Train by the engine."""
    form = "classifier" if problem.is_classifier else "regressor"
    names = ["in", *(f"hid{i}" for i in range(1, len(problem.sizes) - 1))]
    hidden = [{"size": s, "form": "lstm"} if problem.steps else s for s in problem.sizes[1:-1]]
    spec = TrainSpec.model_validate(
        {
            "network": {"form": form, "layers": [problem.sizes[0], *hidden, problem.sizes[-1]]},
            "dropout": {f"{name}:out": problem.rate for name in names} if problem.rate else {},
            "optimizer": {"form": "adam", "learning_rate": LEARNING_RATE},
            "batch_size": problem.batch_size,
            "epochs": 10_000_000,
            "validation": None,
            "seed": seed,
        }
    )
    steps = (problem.steps,) if problem.steps else ()
    outputs = problem.sizes[-1:] if problem.is_classifier else (*steps, problem.sizes[-1])
    graph = build_graph(
        spec.network,
        form="classifier" if problem.is_classifier else "regressor",
        input_shapes={"in": (*steps, problem.sizes[0])},
        output_shape=outputs,
    )
    data = TrainingData(
        x=Inputs({"in:out": torch.from_numpy(problem.x)}), y=torch.from_numpy(problem.y)
    )
    events = iter(Training(graph, spec, resolve(spec, graph), data, threads=threads))

    def epoch() -> float:
        event: EpochEnd | BlockEnd = next(events)
        while not isinstance(event, EpochEnd):
            event = next(events)
        return event.train["loss"]

    return epoch


def with_threads(count: int, epoch: Epoch) -> Epoch:
    """Return an epoch for which PyTorch uses so many threads."""

    def set_and_train() -> float:
        torch.set_num_threads(count)
        try:
            return epoch()
        finally:
            torch.set_num_threads(1)

    return set_and_train


def in_turn(epochs: dict[str, Epoch], seconds: float) -> dict[str, float]:
    """Return the median milliseconds of an epoch of each; turns last a tenth of a second."""
    times: dict[str, list[float]] = {name: [] for name in epochs}
    end = time.perf_counter() + seconds
    while len(next(iter(times.values()))) < 3 or time.perf_counter() < end:
        for name, epoch in epochs.items():
            epoch()
            taken: list[float] = []
            while not taken or sum(taken) < 100:
                start = time.perf_counter()
                epoch()
                taken.append((time.perf_counter() - start) * 1e3)
            times[name].append(statistics.median(taken))
    return {name: statistics.median(seen) for name, seen in times.items()}


def floor(problem: Problem, machine: Machine) -> float:
    """Return the milliseconds of a step's products, and of Adam's seven numbers a parameter."""
    weights = [a * b for a, b in zip(problem.sizes, problem.sizes[1:], strict=False)]
    # Forward and the weights' gradients of all layers, backward of all but the first.
    products = 2 * problem.batch_size * (2 * sum(weights) + sum(weights[1:]))
    return (products / machine.flops + 7 * 4 * sum(weights) / machine.bytes) * 1e3


def last_losses(case: Case, epochs: int, seeds: int) -> str:
    """Return the mean losses of the textbook and ours after some epochs, and how far apart."""

    def trained(epoch: Epoch) -> float:
        return [epoch() for _ in range(epochs)][-1]

    theirs = [trained(textbook(case.problem, seed)) for seed in range(seeds)]
    own = [trained(ours(case.problem, seed, 1)) for seed in range(seeds)]
    spread = np.sqrt((np.var(theirs, ddof=1) + np.var(own, ddof=1)) / seeds)
    z = abs(np.mean(theirs) - np.mean(own)) / spread
    return f"{np.mean(theirs):.4g} / {np.mean(own):.4g} (z {z:.1f})"


def measure(case: Case, machine: Machine, seconds: float) -> list[str]:
    """Return a row of the table."""
    problem = case.problem
    epochs: dict[str, Epoch] = {}
    for count in sorted({1, CORES}):
        epochs[f"textbook {count}"] = with_threads(count, textbook(problem, SEED))
        epochs[f"ours {count}"] = ours(problem, SEED, count)
    for name, make in PEERS.items():
        epoch = make(problem, SEED)
        if epoch is not None:
            epochs[name] = epoch
    medians = in_turn(epochs, seconds)
    steps = -(-case.rows // problem.batch_size)

    def best(who: str) -> tuple[float, str]:
        found = {name: value for name, value in medians.items() if name.startswith(who)}
        name = min(found, key=lambda name: found[name])
        return found[name] / steps * 1e3, name.removeprefix(who).strip()

    slow, their_threads = best("textbook")
    fast, our_threads = best("ours")
    cells = [case.name, f"{slow:.0f} ({their_threads})", f"{fast:.1f} ({our_threads})"]
    cells += [f"{slow / fast:.1f}x", f"{case.target:g}x" if case.target else ""]
    for name in PEERS:
        peer = medians.get(name)
        cells.append("" if peer is None else f"{peer / steps * 1e3 / fast:.1f}x")
    cells.append("" if problem.steps else f"{fast / 1e3 / floor(problem, machine):.2f}x")
    cells.append(last_losses(case, 30 if case.rows < 1000 else 3, 4))
    return cells


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Training against its peers")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each row, at least")
    parser.add_argument("--rows", help="numbers of the rows to measure, such as 1,3; default all")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    console = Console(highlight=False, width=170)
    machine = Machine.measured()
    console.print(
        f"{CORES} cores, load {os.getloadavg()[0]:.2f}; "
        f"products {machine.flops / 1e9:.0f} GFLOP/s, copies {machine.bytes / 1e9:.1f} GB/s; "
        f"kernels {library_name()}; torch {torch.__version__}"
    )
    table = Table(title="median microseconds a step (threads)", title_justify="left")
    headings = ["network", "textbook", "ours", "textbook / ours", "target"]
    headings += [f"{name} / ours" for name in PEERS]
    for heading in (*headings, "ours / floor", "last loss of textbook / ours"):
        table.add_column(heading, justify="left" if heading == "network" else "right")
    every = list(cases())
    chosen = [int(n) - 1 for n in given.rows.split(",")] if given.rows else range(len(every))
    for index in chosen:
        table.add_row(*measure(every[index], machine, given.seconds))
    console.print(table)


if __name__ == "__main__":
    main()
