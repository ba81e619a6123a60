"""A search against its variants one after another: ``python -m bench.search``.

12 variants (six dropout rates by two learning rates) of 13-50-1 on 506 rows, batch 32, as the
engine searches them on all cores, against the textbook loop of `bench.training` and our own
training, each of which trains one variant after another.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from rich.console import Console
from rich.table import Table

from bench.processes import CORES
from bench.training import cases, ours
from bench.training_peers import Problem, textbook
from engine.data.dataset import Data
from engine.kernels import library_name
from engine.search import Search
from engine.search_plan import plan_search
from engine.spec import SearchSpec, TrainSpec

RATES = (0.005, 0.01, 0.05, 0.1, 0.2, 0.3)
LEARNING_RATES = (1e-3, 1e-2)
VARIANTS = len(RATES) * len(LEARNING_RATES)
TARGET = 80


def searching(problem: Problem, epochs: int) -> Callable[[], None]:
    """Search as one job does."""
    search = SearchSpec.model_validate(
        {
            "grid": {"hidden_dropout": RATES, "optimizer.learning_rate": LEARNING_RATES},
            "select": "train.loss",
            "refit": False,
        }
    )
    spec = TrainSpec.model_validate(
        {
            "network": {"layers": list(problem.sizes)},
            "input_dropout": problem.rate,
            "batch_size": problem.batch_size,
            "epochs": epochs,
            "validation": None,
        }
    )
    data = Data(arrays={"x": problem.x, "y": problem.y})
    plan = plan_search(search, spec, data)

    def run() -> None:
        for _ in Search(plan, data, device=torch.device("cpu"), threads=CORES):
            pass

    return run


def one_after_another(train: Callable[[Problem], Callable[[], float]], problem: Problem) -> float:
    """Return the seconds of an epoch of all variants."""
    epochs = [train(replace(problem, rate=rate)) for rate in RATES for _ in LEARNING_RATES]
    begun = time.perf_counter()
    for epoch in epochs:
        epoch()
    return time.perf_counter() - begun


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="A search against its variants one by one")
    parser.add_argument("--epochs", type=int, default=200, help="of each variant of the search")
    parser.add_argument("--rounds", type=int, default=5, help="in which all take their turn")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    problem = next(cases()).problem
    search = searching(problem, given.epochs)
    times: dict[str, list[float]] = {"textbook": [], "ours, one by one": [], "search": []}
    for _ in range(given.rounds):
        times["textbook"].append(one_after_another(lambda p: textbook(p, 1), problem))
        times["ours, one by one"].append(one_after_another(lambda p: ours(p, 1, 1), problem))
        begun = time.perf_counter()
        search()
        times["search"].append((time.perf_counter() - begun) / given.epochs)
    medians = {name: statistics.median(taken) * 1e3 for name, taken in times.items()}
    console = Console(highlight=False, width=120)
    console.print(f"{CORES} cores, load {os.getloadavg()[0]:.2f}; kernels {library_name()}")
    table = Table(title=f"milliseconds for an epoch of {VARIANTS} variants", title_justify="left")
    for heading in ("who", "ms", "textbook / this", "target"):
        table.add_column(heading, justify="left" if heading == "who" else "right")
    for name, taken in medians.items():
        target = f"{TARGET}x" if name == "search" else ""
        table.add_row(name, f"{taken:.3g}", f"{medians['textbook'] / taken:.1f}x", target)
    console.print(table)


if __name__ == "__main__":
    main()
