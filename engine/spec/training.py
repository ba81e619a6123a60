"""Training runs: everything that decides what they compute, apart from the data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
    Strict,
    model_validator,
)

from engine.spec.calibration import CalibrateSpec
from engine.spec.data import ColumnSpec, SequenceSpec, ValidationSpec
from engine.spec.network import NetworkSpec
from engine.spec.optimizers import AdamSpec, OptimizerSpec
from engine.spec.regularizers import RegularizationSpec
from engine.spec.values import (
    MAX_ENTRIES,
    Count,
    Index,
    Level,
    NonNegative,
    Pattern,
    Positive,
    Seed,
    Spec,
    at_most,
)


class StagesSpec(Spec):
    """What happens to the parameters before the network as a whole is trained."""

    form: Literal["layerwise", "pretrain", "sample"]
    """`layerwise`: the first hidden layers are trained below an output layer of their own, one more
    at each stage (Bengio et al. 2006); with tied layers, the outermost pair first. `pretrain`: a
    tied autoencoder of the hidden layers is trained layerwise on the inputs, and leaves its
    weights. `sample`: weights begin as rows of the data, normalised, and not at random."""
    epochs: Annotated[int, Strict(), Field(ge=1, le=10_000_000)] | None = None
    """Of each stage; as many as the job's own by default. Not for `sample`."""

    @model_validator(mode="after")
    def _sampling_takes_no_epochs(self) -> StagesSpec:
        if self.form == "sample" and self.epochs is not None:
            raise ValueError("`sample` only sets the first weights; leave out `epochs`")
        return self


class TrainSpec(RegularizationSpec):
    """Everything that decides what a training run computes, apart from the data themselves."""

    inputs: Annotated[tuple[Pattern, ...], Field(min_length=1, fail_fast=True)] | None = None
    """Globs over columns (arrays: names); by default all that is neither target nor weight."""
    targets: Annotated[tuple[Pattern, ...], Field(min_length=1, fail_fast=True)] | None = None
    """Globs over columns (arrays: names); by default the last column (arrays: `y`)."""
    columns: Annotated[
        dict[Pattern, ColumnSpec], Field(max_length=MAX_ENTRIES), at_most(MAX_ENTRIES)
    ] = Field(default_factory=dict)
    """How input columns of a table are read, by glob; of several that match a column, the later
    one's keys come first. Of arrays, (rows,) or (rows, steps) of integers, the type `category`."""
    sample_weight: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """Column (array) of non-negative weights of the rows in the loss."""
    rows: Annotated[tuple[Index, ...], Field(min_length=1, fail_fast=True)] | None = None
    """Rows of the data set that the job may use; all by default."""
    sequence: SequenceSpec | None = None
    """Make sequences of a table's rows."""
    validation: Annotated[float, Strict(), Field(ge=0, lt=1)] | ValidationSpec | None = 0.1
    """A fraction, or how to choose the rows; null or 0 for none."""
    network: NetworkSpec
    optimizer: OptimizerSpec = AdamSpec(form="adam")
    epochs: Annotated[int, Strict(), Field(ge=1, le=10_000_000)] = 100
    batch_size: Annotated[int, Strict(), Field(ge=1, le=10_000_000)] = 32
    training: StagesSpec | None = None
    """What comes before the epochs of the whole network; nothing by default."""
    monitors: Annotated[
        dict[Pattern, Level | Annotated[tuple[Level, ...], Field(min_length=1, max_length=100)]],
        Field(max_length=100),
        at_most(100),
    ] = Field(default_factory=dict)
    """Levels by pattern over outputs and parameters: the share of values below each is reported
    with every epoch's metrics, ``{"hid1:out": [0.1, 0.9]}`` as ``hid1:out<0.1``, …"""
    monitor_gradients: Annotated[bool, Strict()] = False
    """Report the squared norm of each parameter's gradient, before any clipping, the mean over an
    epoch's batches, with the epoch's training metrics as ``∂hid1.w``, …"""
    patience: Count | None = None
    """Stop after this many epochs without improvement of the validation loss."""
    min_improvement: NonNegative = 0.0
    """Relative improvement of the validation loss that counts as one."""
    restore_best: Annotated[bool, Strict()] = True
    """Keep the parameters of the epoch with the least validation loss; if false, the last one's."""
    gradient_clip: Positive | None = None
    """Largest Euclidean norm of the gradient; larger ones are scaled down to it."""
    seed: Seed = 13
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the products in training; parameters, losses and what is measured stay in float32."""
    noise_precision: (
        Literal["fit"] | Positive | Annotated[dict[str, Positive], at_most(MAX_ENTRIES)]
    ) = "fit"
    """Precision of the observation noise, in target units^-2; `fit` by maximum likelihood."""
    calibrate: CalibrateSpec | None = None
    """Intervals that hold their coverage, by rows that are used for nothing else."""
