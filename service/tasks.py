"""What a job runs, by its kind: iterators of steps that the worker records and can stop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from engine.data.inputs import Inputs
from engine.graph import build_graph
from engine.spec import TrainSpec
from engine.training import Training, TrainingData
from service.calibration_job import calibrate
from service.evaluation_job import evaluate
from service.prediction_job import predict
from service.search_job import search
from service.steps import Step, Task, TaskContext
from service.store.jobs import Job
from service.training_job import train

__all__ = ["TASKS", "warm"]


def warm() -> None:
    """Pay for the first step before the first job: PyTorch loads much of itself on first use."""
    spec = TrainSpec.model_validate({"network": {"layers": [2, 2, 1]}, "epochs": 1})
    graph = build_graph(
        spec.network, form="regressor", input_shapes={"in": (2,)}, output_shape=(1,)
    )
    rows = TrainingData(x=Inputs({"in:out": torch.zeros(4, 2)}), y=torch.zeros(4, 1))
    for _ in Training(graph, spec, (), rows, rows):
        pass


def _train(job: Job, context: TaskContext) -> Iterator[Step]:
    return train(job, context) if job.spec.get("search") is None else search(job, context)


TASKS: Mapping[str, Task] = {
    "train": _train,
    "predict": predict,
    "evaluate": evaluate,
    "calibrate": calibrate,
}
