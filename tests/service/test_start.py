"""What a process that runs jobs loads before its first one."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys, torch
from engine.data.inputs import Inputs
from engine.graph import build_graph
from engine.spec import TrainSpec
from engine.training import Training, TrainingData
from service import tasks

tasks.warm()
rows = TrainingData(x=Inputs({"in:out": torch.ones(4, 2)}), y=torch.ones(4, 1))
forms = "adadelta adagrad adam adamw esgd nag rmsprop rprop sgd".split()
for form in forms:
    asked = {"network": {"layers": [2, 2, 1]}, "epochs": 1, "optimizer": {"form": form}}
    spec = TrainSpec.model_validate(asked)
    shapes = {"input_shapes": {"in": (2,)}, "output_shape": (1,)}
    training = Training(
        build_graph(spec.network, form="regressor", **shapes), spec, (), rows, rows
    )
    list(training)
print(len(forms), *(name for name in ("torch._dynamo", "sympy") if name in sys.modules))
"""


def test_a_worker_loads_no_compiler_for_its_optimizers() -> None:
    """PyTorch would for the first one, in as long as itself takes. `rprop` has no kernel."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True)
    assert done.stdout.split() == [b"9"], done.stdout
