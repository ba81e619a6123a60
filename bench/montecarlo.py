"""Monte-Carlo prediction against the plain loop and Baal: ``python -m bench.montecarlo``.

The plain loop is what a textbook does: an `nn.Module` in train() mode, called once a pass. Baal's
`MCDropoutModule` repeats the rows in memory and calls it once; it takes part where it can be
imported (``pip install --target FOLDER --no-deps baal tqdm torchmetrics lightning-utilities``, with
FOLDER on PYTHONPATH). Ours is the whole of what `/predict` computes: passes and their mean and
standard deviation. All take turns in one process, each at its best number of threads, and have to
agree in mean and variance.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import safetensors.numpy
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from bench.processes import CORES
from engine.artifact import Model, import_model, load_model
from engine.data.inputs import Inputs
from engine.kernels import library_name
from engine.prediction import plan_prediction
from engine.spec import PredictSpec

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Timed = Callable[[], object]

SEED = 7


@dataclass(frozen=True)
class Case:
    """A row of the table."""

    sizes: tuple[int, ...]
    rates: tuple[float, ...]
    """Of dropout on each layer's output but the last's."""
    rows: int
    passes: int
    target: float
    """How many times as fast as the plain loop it has to be."""
    masks: str = "independent"

    @property
    def name(self) -> str:
        where = "-".join(map(str, self.sizes))
        last = " last hidden only" if self.rates[1:-1] == (0.0,) else ""
        shared = ", shared" if self.masks == "shared" else ""
        return f"{where}{last}, {self.rows} x {self.passes}{shared}"

    @property
    def is_classifier(self) -> bool:
        return self.sizes[-1] > 1


SMALL, LARGE = (13, 50, 1), (784, 800, 800, 10)
CASES = (
    Case(SMALL, (0.05, 0.05), 1, 100, 50),
    Case(SMALL, (0.05, 0.05), 1, 10_000, 600),
    Case(SMALL, (0.05, 0.05), 51, 10_000, 60),
    Case(SMALL, (0.05, 0.05), 51, 10_000, 60, "shared"),
    Case(LARGE, (0.0, 0.5, 0.5), 1, 100, 13),
    Case(LARGE, (0.0, 0.5, 0.5), 100, 100, 6),
    Case(LARGE, (0.0, 0.5, 0.5), 100, 100, 10, "shared"),
    Case(LARGE, (0.0, 0.0, 0.5), 100, 100, 30),
)


def module_of(case: Case) -> nn.Sequential:
    """Return the textbook's network, its weights drawn from a fixed seed."""
    torch.manual_seed(SEED)
    parts: list[nn.Module] = []
    for index, (inputs, outputs) in enumerate(zip(case.sizes, case.sizes[1:], strict=False)):
        if case.rates[index]:
            parts.append(nn.Dropout(case.rates[index]))
        parts.append(nn.Linear(inputs, outputs))
        if index < len(case.sizes) - 2:
            parts.append(nn.ReLU())
    if case.is_classifier:
        parts.append(nn.Softmax(dim=-1))
    return nn.Sequential(*parts)


def loop_of(case: Case, x: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Return the plain loop: its samples are (passes, rows, outputs)."""
    module = module_of(case).train()

    def run() -> torch.Tensor:
        with torch.no_grad():
            samples = torch.stack([module(x) for _ in range(case.passes)])
            samples.mean(0), samples.std(0)
        return samples

    return run


def baal_of(case: Case, x: torch.Tensor) -> Timed | None:
    """Return Baal's way, if it can be imported."""
    try:
        from baal.bayesian.dropout import MCDropoutModule
        from baal.modelwrapper import ModelWrapper, TrainingArgs
    except ImportError:
        return None
    arguments = TrainingArgs(use_cuda=False, replicate_in_memory=True)
    wrapper = ModelWrapper(MCDropoutModule(module_of(case)), arguments)

    def run() -> None:
        samples = wrapper.predict_on_batch(x, iterations=case.passes)
        samples.mean(-1), samples.std(-1)

    return run


def model_of(case: Case) -> Model:
    """Return our model of the same weights."""
    linear = [part for part in module_of(case) if isinstance(part, nn.Linear)]
    names = [f"hid{i}" for i in range(1, len(linear))] + ["out"]
    values: dict[str, Floats] = {}
    for name, part in zip(names, linear, strict=True):
        values[f"{name}.w"] = np.ascontiguousarray(part.weight.detach().numpy().T)
        values[f"{name}.b"] = part.bias.detach().numpy()
    form = "classifier" if case.is_classifier else "regressor"
    spec = {"network": {"form": form, "layers": list(case.sizes)}}
    document, weights = import_model(spec, safetensors.numpy.save(values), version="0")
    return load_model(document, weights)


def ours_of(case: Case, model: Model, x: Inputs, threads: int) -> Timed:
    """Return our way to the mean and the standard deviation."""
    mean = "probabilities" if case.is_classifier else "mean"
    plan = plan_prediction(model, asked(case, [mean, "std"]), seed=SEED)
    ids = np.arange(case.rows)
    return lambda: plan.run(x, ids, threads=threads)


def asked(case: Case, wanted: Sequence[str]) -> PredictSpec:
    names = ("in:out", *(f"hid{i}:out" for i in range(1, len(case.sizes) - 1)))
    return PredictSpec.model_validate(
        {
            "dropout": {name: rate for name, rate in zip(names, case.rates, strict=True) if rate},
            "num_samples": case.passes,
            "masks": case.masks,
            "statistics": list(wanted),
        }
    )


def worst_disagreement(case: Case, model: Model, x: Inputs, loop: Doubles) -> float:
    """Return the largest difference in a mean or variance, in its standard errors."""
    plan = plan_prediction(model, asked(case, ["samples"]), seed=SEED)
    ours = np.asarray(plan.run(x, np.arange(case.rows))["samples"], dtype=np.float64)
    (mean, variance, errors), (others, spread, their_errors) = moments(ours), moments(loop)
    of_means = (mean - others) / np.sqrt((variance + spread) / case.passes)
    of_variances = (variance - spread) / np.sqrt(errors**2 + their_errors**2)
    return float(max(np.abs(of_means).max(), np.abs(of_variances).max()))


def moments(samples: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """Return mean, variance and the variance's standard error, over the first axis."""
    passes = len(samples)
    mean, variance = samples.mean(0), samples.var(0, ddof=1)
    fourth = ((samples - mean) ** 4).mean(0)
    error = np.sqrt(np.maximum(fourth - variance**2 * (passes - 3) / (passes - 1), 0) / passes)
    return mean, variance, error


def with_threads(count: int, run: Timed) -> Timed:
    """Return a run for which PyTorch uses so many threads."""

    def set_and_run() -> object:
        torch.set_num_threads(count)
        try:
            return run()
        finally:
            torch.set_num_threads(1)

    return set_and_run


def in_turn(runs: dict[str, Timed], seconds: float) -> dict[str, float]:
    """Return the median milliseconds of a call of each.

    They take turns of a twentieth of a second, or one call where that takes longer, so that each
    finds the caches and threads as its own calls leave them.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    while len(next(iter(times.values()))) < 5 or time.perf_counter() < end:
        for name, run in runs.items():
            run()
            times[name].append(_turn(run))
    return {name: statistics.median(taken) for name, taken in times.items()}


def _turn(run: Timed) -> float:
    taken: list[float] = []
    while not taken or sum(taken) < 50:
        start = time.perf_counter()
        run()
        taken.append((time.perf_counter() - start) * 1e3)
    return statistics.median(taken)


def best(medians: dict[str, float], who: str) -> tuple[float, str]:
    """Return the least of somebody's medians, and with how many threads it was."""
    found = {name: value for name, value in medians.items() if name.startswith(who)}
    name = min(found, key=lambda name: found[name])
    return found[name], name.removeprefix(who).strip()


@dataclass(frozen=True)
class Machine:
    """What this machine can do, measured."""

    flops: float
    """Of float32 products, a second, on all cores."""
    bytes: float
    """Copied in a second, on one."""

    @classmethod
    def measured(cls) -> Machine:
        a = torch.randn(1536, 1536)
        source, target = np.ones(1 << 25, np.float32), np.empty(1 << 25, np.float32)
        rates = []
        for count in {1, CORES}:
            run = with_threads(count, lambda: a @ a)
            rates.append(2 * 1536**3 / (in_turn({"": run}, 1.0)[""] / 1e3))
        copied = in_turn({"": lambda: np.copyto(target, source)}, 0.5)[""] / 1e3
        return cls(flops=max(rates), bytes=2 * source.nbytes / copied)

    def floor(self, case: Case) -> float:
        """Return the milliseconds of the products after the first mask, and of all bytes once."""
        first = next(index for index, rate in enumerate(case.rates) if rate)
        pairs = case.rows * case.passes
        flops, numbers = 0.0, float(case.rows * case.sizes[0])
        kept = [1 - rate if case.masks == "shared" else 1.0 for rate in (*case.rates, 0.0)]
        for index in range(len(case.sizes) - 1):
            inputs, outputs = case.sizes[index] * kept[index], case.sizes[index + 1]
            flops += (
                2 * inputs * outputs * kept[index + 1] * (pairs if index >= first else case.rows)
            )
            numbers += case.sizes[index] * outputs
        return (flops / self.flops + 4 * numbers / self.bytes) * 1e3


def measure(case: Case, machine: Machine, seconds: float) -> tuple[list[str], bool]:
    """Return a row of the table, and whether its target is met."""
    generator = np.random.default_rng(SEED)
    x = generator.standard_normal((case.rows, case.sizes[0]), dtype=np.float32)
    rows = Inputs({"in:out": x})
    loop, baal = loop_of(case, torch.from_numpy(x)), baal_of(case, torch.from_numpy(x))
    model = model_of(case)
    runs: dict[str, Timed] = {}
    for count in sorted({1, CORES}):
        runs[f"loop {count}"] = with_threads(count, loop)
        if baal is not None:
            runs[f"baal {count}"] = with_threads(count, baal)
        runs[f"ours {count}"] = ours_of(case, model, rows, count)
    medians = in_turn(runs, seconds)
    torch.manual_seed(SEED)
    z = worst_disagreement(case, model, rows, loop().double().numpy())
    # Each of so many numbers has two chances to be far off; this far one in a million runs is.
    bound = statistics.NormalDist().inv_cdf(1 - 1e-6 / (4 * case.rows * case.sizes[-1]))
    slow, their_threads = best(medians, "loop")
    fast, our_threads = best(medians, "ours")
    peer = best(medians, "baal")[0] if baal is not None else math.nan
    return [
        case.name,
        f"{slow:.3g} ({their_threads})",
        "not installed" if baal is None else f"{peer:.3g}",
        f"{fast:.3g} ({our_threads})",
        f"{slow / fast:.1f}x",
        f"{case.target:g}x",
        "" if baal is None else f"{peer / fast:.1f}x",
        f"{fast / machine.floor(case):.1f}x",
        f"{z:.1f} of {bound:.1f}",
    ], slow / fast >= case.target


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Monte-Carlo prediction against its peers")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each row, at least")
    parser.add_argument("--rows", help="numbers of the rows to measure, such as 1,5; default all")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    console = Console(highlight=False, width=150)
    machine = Machine.measured()
    console.print(
        f"{CORES} cores, load {os.getloadavg()[0]:.2f}; "
        f"products {machine.flops / 1e9:.0f} GFLOP/s, copies {machine.bytes / 1e9:.1f} GB/s; "
        f"kernels {library_name()}; torch {torch.__version__}"
    )
    table = Table(title="median ms (threads)", title_justify="left")
    headings = ("rows x passes", "plain loop", "Baal", "ours", "loop / ours", "target")
    for heading in (*headings, "Baal / ours", "ours / floor", "largest z"):
        table.add_column(heading, justify="left" if heading == headings[0] else "right")
    chosen = [int(n) - 1 for n in given.rows.split(",")] if given.rows else range(len(CASES))
    met: list[bool] = []
    for index in chosen:
        row, is_met = measure(CASES[index], machine, given.seconds)
        table.add_row(*row)
        met.append(is_met)
    console.print(table)
    console.print(f"{sum(met)} of {len(met)} targets met")


if __name__ == "__main__":
    main()
