"""The job that calibrates a stored model on other rows and leaves a new one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from engine.artifact import load_model
from engine.calibrating import Calibrating, told
from engine.errors import ArtifactError
from engine.spec import ScoreSpec
from service.errors import Corrupt
from service.model_calibration import progress
from service.steps import NewModel, Step, TaskContext, TaskResult, attend
from service.store.jobs import Job

__all__ = ["calibrate", "score_spec", "with_precisions"]


def score_spec(spec: Mapping[str, Any]) -> ScoreSpec:
    """Return the engine's part of a calibration job's spec."""
    return ScoreSpec.model_validate({k: spec[k] for k in ScoreSpec.model_fields if k in spec})


def with_precisions(
    document: Mapping[str, Any], precisions: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    """Return the document of a model whose members have another noise; the first one's is told."""
    changed: dict[str, Any] = {**document, "noise_precision": precisions[0]}
    if "members" in document:
        changed["members"] = [
            {**own, "noise_precision": precision}
            for own, precision in zip(document["members"], precisions, strict=True)
        ]
    return changed


def calibrate(job: Job, context: TaskContext) -> Iterator[Step]:
    """Calibrate the job's model; one that is stopped begins anew, to the same end."""
    spec = job.spec
    document, weights = context.model(spec["model"])
    try:
        model = load_model(document, weights)
    except ArtifactError as error:
        raise Corrupt(
            f"model {spec['model']} cannot be loaded: its stored weights are damaged"
        ) from error
    rows = spec["rows"]
    run = Calibrating(
        model,
        score_spec(spec),
        context.data(spec["dataset"]),
        None if rows is None else np.array(sorted(rows), dtype=np.int64),
        seed=spec["seed"],
        threads=context.threads,
        fits_noise=spec.get("noise_precision") == "fit",
    )

    def step() -> Step:
        return Step(progress=progress(run.done, run.total))

    message = f"calibrating model {spec['model']} on {run.total} rows of {spec['dataset']}"
    yield replace(step(), events=(("log", {"message": message}),))
    with ThreadPoolExecutor(max_workers=1) as thread:
        for piece in run.pieces():
            yield from attend(thread, piece, step)
            yield step()
    calibration = run.calibration()
    summary = told(calibration)
    if spec.get("noise_precision") == "fit":
        precisions = run.noise_precision()
        document = with_precisions(document, precisions)
        summary["noise_precision"] = precisions[0]
    metrics = {**document["metrics"], "calibration": summary}
    made = NewModel(
        name=job.name,
        document={
            **document,
            "metrics": metrics,
            "calibration": calibration.model_dump(mode="json"),
            "calibrated_from": spec["model"],
        },
        weights=weights,
    )
    result = TaskResult(metrics=metrics, model=made)
    yield replace(step(), metrics=metrics, result=lambda: result)
