"""What calibrated intervals and sets cover, beside what they promise: ``python -m bench.coverage``.

Each set is divided at random, again and again: a fifth of the rows is the test, a quarter of the
others calibrates, a tenth of what is left validates, and the rest trains a small network with
dropout. With n rows that were scored a coverage of 0.9 promises ceil(0.9 (n + 1)) / (n + 1) on
average over divisions. Diabetes, digits and wine come with scikit-learn; `--data` names a folder of
NAME.csv with a header and NAME.json with its `target`, as `bench.paper` takes them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from pyarrow import csv
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn import datasets

from engine.artifact import load_model
from engine.calibrating import Calibrating
from engine.conformal import promised_coverage
from engine.data.dataset import Data
from engine.data.profile import profile
from engine.data.schema import Schema
from engine.ensembles import plan_model
from engine.plan import plan_training
from engine.prediction import never
from engine.run import TrainingRun, artifact_of, encode_rows
from engine.spec import PredictSpec, ScoreSpec, TrainSpec

COVERAGE = 0.9
PASSES = 50
SCORES = {"regressor": ("absolute", "normalised"), "classifier": ("aps", "raps", "lac")}
CPU = torch.device("cpu")

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Set:
    """A real data set."""

    name: str
    data: Data
    target: str
    form: str

    def request(self, split: int, rest: Rows) -> TrainSpec:
        """Return the job of one division, on the rows that are no test."""
        return TrainSpec.model_validate(
            {
                "targets": [self.target],
                "rows": rest.tolist(),
                "network": {"form": self.form, "layers": [None, 30, None]},
                "hidden_dropout": 0.2,
                "epochs": 40,
                "seed": split,
                "calibrate": {"coverage": COVERAGE, "fraction": 0.25},
            }
        )


@dataclass(frozen=True)
class Found:
    """What one calibration of one division covered."""

    score: str
    rows: int
    covered: float
    size: float
    """Mean width of the intervals in the target's standard deviations, or classes of a set."""


def bundled() -> Iterator[Set]:
    """Yield the sets that come with scikit-learn."""
    for name, form in (("diabetes", "regressor"), ("digits", "classifier"), ("wine", "classifier")):
        found = getattr(datasets, f"load_{name}")()
        columns = {f"x{index}": column for index, column in enumerate(found.data.T)}
        target = found.target
        if form == "classifier":
            target = pa.array([f"class {label}" for label in target], pa.large_string())
        yield Set(name, Data(table=pa.table({**columns, "y": target})), "y", form)


def stored(folder: Path) -> Iterator[Set]:
    """Yield the regressions of a folder."""
    for path in sorted(folder.glob("*.json")):
        table = csv.read_csv(path.with_suffix(".csv"))
        target = json.loads(path.read_text())["target"]
        yield Set(f"{path.stem}.csv", Data(table=table), target, "regressor")


def divided(problem: Set, schema: Schema, split: int) -> Iterator[Found]:
    """Train one network, calibrate it by each score, and predict the rows of the test."""
    order = np.random.default_rng(split).permutation(problem.data.rows)
    test, rest = np.sort(order[: len(order) // 5]), np.sort(order[len(order) // 5 :])
    plan = plan_training(problem.request(split, rest), problem.data, schema=schema)
    run = TrainingRun(plan, encode_rows(plan, problem.data, None, CPU))
    for _ in run.staged:
        pass
    document, weights = artifact_of(plan, run.outcome(), version="bench")
    model = load_model(document, weights)
    x = plan.encoding.encode_inputs(problem.data, test, unseen="zeros")
    truth = plan.encoding.encode_truth(problem.data, test)
    for score in SCORES[problem.form]:
        asked = {"coverage": COVERAGE, "score": score, "num_samples": PASSES}
        spec = ScoreSpec.model_validate(asked)
        rows = plan.split.calibration
        calibrating = Calibrating(model, spec, problem.data, rows, seed=split)
        for piece in calibrating.pieces():
            piece(never)
        told = calibrating.calibration()
        own = load_model(document | {"calibration": told.model_dump(mode="json")}, weights)
        statistic = "set" if problem.form == "classifier" else "interval"
        passes = {"num_samples": PASSES, "statistics": [statistic]}
        answer = plan_model(own, PredictSpec.model_validate(passes), seed=split).run(x, test)
        yield Found(score, told.rows, *_measured(answer, plan.encoding, truth))


def _measured(answer: dict[str, Any], encoding: Any, truth: Any) -> tuple[float, float]:
    if "set" in answer:
        sets, labels = answer["set"]["labels"], encoding.labels(truth)
        inside = [label in own for label, own in zip(labels, sets, strict=True)]
        return float(np.mean(inside)), float(np.mean([len(own) for own in sets]))
    lower, upper = answer["interval"]["lower"], answer["interval"]["upper"]
    covered = (lower <= truth) & (truth <= upper)
    return float(covered.mean()), float(((upper - lower) / encoding.target_scale).mean())


def line_of(problem: Set, score: str, found: Sequence[Found]) -> tuple[str, ...]:
    """Return a line of the table."""
    covered = [own.covered for own in found]
    promised = statistics.mean(promised_coverage(own.rows, COVERAGE) for own in found)
    mean = statistics.mean(covered)
    error = statistics.stdev(covered) / math.sqrt(len(covered)) if len(covered) > 1 else math.nan
    rows = sorted({own.rows for own in found})
    return (
        problem.name,
        score,
        str(rows[0]) if len(rows) == 1 else f"{rows[0]}-{rows[-1]}",
        f"{100 * promised:.2f} %",
        f"{100 * mean:.2f} ± {100 * error:.2f} %",
        f"{100 * (mean - promised):+.2f} %",
        f"{statistics.mean(own.size for own in found):.2f}",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="What calibrated intervals and sets cover")
    parser.add_argument("--data", type=Path, default=None, help="a folder of more regressions")
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--only", nargs="*", default=None, help="names of sets")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    console = Console(highlight=False, width=120)
    table = Table(title=f"coverage {COVERAGE:g}, {given.splits} divisions", title_justify="left")
    for heading in ("set", "score", "rows", "promised", "covered", "difference", "size"):
        table.add_column(heading, justify="left" if heading in ("set", "score") else "right")
    begun = time.perf_counter()
    for problem in [*bundled(), *([] if given.data is None else stored(given.data))]:
        if given.only is not None and problem.name not in given.only:
            continue
        schema = profile(problem.data)
        splits = track(range(given.splits), problem.name, console=console, transient=True)
        found = [own for split in splits for own in divided(problem, schema, split)]
        for score in SCORES[problem.form]:
            table.add_row(*line_of(problem, score, [own for own in found if own.score == score]))
    console.print(table)
    seconds = time.perf_counter() - begun
    console.print(f"{seconds:.0f} s; {os.cpu_count()} cores, load {os.getloadavg()[0]:.2f}")


if __name__ == "__main__":
    main()
