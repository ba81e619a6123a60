"""Schedules: how the learning rate changes while a network is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Strict

from engine.spec.values import Count, Spec

__all__ = [
    "SCHEDULES",
    "CosineSpec",
    "ExponentialSpec",
    "LinearSpec",
    "OneCycleSpec",
    "PlateauSpec",
    "ScheduleSpec",
    "StepSpec",
]

#: What a rate is multiplied by.
Factor = Annotated[float, Strict(), Field(gt=0, lt=1)]
Share = Annotated[float, Strict(), Field(ge=0, le=1)]
Epochs = Annotated[int, Strict(), Field(ge=0, le=10_000_000)]
Span = Annotated[int, Strict(), Field(ge=1, le=10_000_000)]


class _WarmedUp(Spec):
    warmup_epochs: Epochs = 0
    """Epochs at the beginning in which the rate grows, step by step and in proportion, to
    `learning_rate`; the schedule begins after them."""


class CosineSpec(_WarmedUp):
    """Half a cosine from `learning_rate` down, step by step (Loshchilov & Hutter 2017)."""

    form: Literal["cosine"]
    min_factor: Share = 0.0
    """The last rate, as a factor of `learning_rate`."""
    epochs: Span | None = None
    """Epochs that it takes, with the warm-up; the job's own by default. The last rate stays."""


class LinearSpec(_WarmedUp):
    """A straight line from `learning_rate` down, step by step."""

    form: Literal["linear"]
    min_factor: Share = 0.0
    """The last rate, as a factor of `learning_rate`."""
    epochs: Span | None = None
    """Epochs that it takes, with the warm-up; the job's own by default. The last rate stays."""


class OneCycleSpec(Spec):
    """Up to `learning_rate` and down to almost nothing, along cosines (Smith & Topin 2019)."""

    form: Literal["one_cycle"]
    pct_start: Annotated[float, Strict(), Field(gt=0, lt=1)] = 0.3
    """The share of the steps in which the rate grows."""
    div_factor: Annotated[float, Strict(), Field(ge=1, allow_inf_nan=False)] = 25.0
    """`learning_rate` over the first rate."""
    final_div_factor: Annotated[float, Strict(), Field(ge=1, allow_inf_nan=False)] = 1e4
    """The first rate over the last."""
    epochs: Span | None = None
    """Epochs that it takes; the job's own by default. The last rate stays."""


class StepSpec(_WarmedUp):
    """The rate is multiplied by `gamma` after every `step_size` epochs."""

    form: Literal["step"]
    step_size: Count
    """Epochs between two changes."""
    gamma: Factor = 0.1


class ExponentialSpec(_WarmedUp):
    """The rate is multiplied by `gamma` after every epoch."""

    form: Literal["exponential"]
    gamma: Factor


class PlateauSpec(Spec):
    """The rate is multiplied by `factor` where the validation loss no longer falls."""

    form: Literal["plateau"]
    factor: Factor = 0.1
    patience: Epochs = 10
    """Epochs without an improvement that are borne; the next one changes the rate."""
    threshold: Annotated[float, Strict(), Field(ge=0, lt=1)] = 1e-4
    """Relative improvement of the validation loss that counts as one."""
    cooldown: Epochs = 0
    """Epochs after a change that do not count."""
    min_factor: Share = 0.0
    """The smallest rate, as a factor of `learning_rate`."""


ScheduleSpec = Annotated[
    CosineSpec | LinearSpec | OneCycleSpec | StepSpec | ExponentialSpec | PlateauSpec,
    Field(discriminator="form"),
]


SCHEDULES: tuple[str, ...] = (
    "cosine",
    "linear",
    "one_cycle",
    "step",
    "exponential",
    "plateau",
)
