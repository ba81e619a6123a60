"""Optimizers and their options."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    Strict,
    model_validator,
)

from engine.spec.schedules import ScheduleSpec
from engine.spec.values import (
    NonNegative,
    Positive,
    Spec,
)

#: A step's size, or `find`: the job begins with some steps at rates that grow, and takes one at
#: which their loss falls.
LearningRate = Literal["find"] | Positive


class _Scheduled(Spec):
    """What every optimizer has whose learning rate may change; `rprop` finds its own steps."""

    schedule: ScheduleSpec | None = None
    """How the learning rate changes; by default it stays."""


class SgdSpec(_Scheduled):
    """Stochastic gradient descent, with classical or Nesterov momentum."""

    form: Literal["sgd"]
    learning_rate: LearningRate = 1e-2
    momentum: Annotated[float, Strict(), Field(ge=0, lt=1)] = 0.0
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> SgdSpec:
        if self.nesterov and self.momentum == 0:
            raise ValueError("`nesterov` needs a `momentum` above 0")
        return self


class NagSpec(_Scheduled):
    """Nesterov's accelerated gradient, as downhill names it."""

    form: Literal["nag"]
    learning_rate: LearningRate = 1e-2
    momentum: Annotated[float, Strict(), Field(gt=0, lt=1)] = 0.9


class RpropSpec(Spec):
    """Resilient backpropagation (Riedmiller & Braun 1993): only signs of gradients count."""

    form: Literal["rprop"]
    learning_rate: Positive = 1e-2
    """The first step of every parameter."""
    shrink: Annotated[float, Strict(), Field(gt=0, lt=1)] = 0.5
    """Factor of a step after a change of sign."""
    grow: Annotated[float, Strict(), Field(gt=1, allow_inf_nan=False)] = 1.2
    """Factor of a step after none."""
    min_step: NonNegative = 1e-6
    max_step: Positive = 50.0
    """Bounds of every step, as in the paper; the first one, `learning_rate`, lies between them."""

    @model_validator(mode="after")
    def _steps_are_in_order(self) -> RpropSpec:
        if not self.min_step <= self.learning_rate <= self.max_step:
            raise ValueError("`learning_rate` must lie between `min_step` and `max_step`")
        return self


class AdagradSpec(_Scheduled):
    """Adagrad (Duchi, Hazan & Singer 2011)."""

    form: Literal["adagrad"]
    learning_rate: LearningRate = 1e-2
    epsilon: Positive = 1e-10


class AdadeltaSpec(_Scheduled):
    """Adadelta (Zeiler 2012)."""

    form: Literal["adadelta"]
    learning_rate: LearningRate = 1.0
    decay: Annotated[float, Strict(), Field(ge=0, lt=1)] = 0.9
    """Decay of the running means of squared gradients and steps."""
    epsilon: Positive = 1e-6


class RmspropSpec(_Scheduled):
    """RMSprop (Tieleman & Hinton 2012, lecture 6.5)."""

    form: Literal["rmsprop"]
    learning_rate: LearningRate = 1e-3
    decay: Annotated[float, Strict(), Field(ge=0, lt=1)] = 0.99
    """Decay of the running mean of squared gradients."""
    epsilon: Positive = 1e-8
    momentum: Annotated[float, Strict(), Field(ge=0, lt=1)] = 0.0
    centered: bool = False
    """Divide by the deviation of the gradients, not by their root mean square (Graves 2013)."""


class EsgdSpec(_Scheduled):
    """Equilibrated descent (Dauphin, de Vries & Bengio 2015): divides by rows of the Hessian.

    Every step takes a product with the Hessian, about twice the work of another optimizer's, and
    the first step twenty. The rates that suit it are larger than `adam`'s, 0.01 to 0.3.
    """

    form: Literal["esgd"]
    learning_rate: LearningRate = 1e-2
    decay: Annotated[float, Strict(), Field(ge=0, lt=1)] = 0.99
    """Decay of the running mean of squared products of the Hessian with random vectors."""
    epsilon: Positive = 1e-4
    """Added to that mean's root, so that flat directions are not followed too far."""
    momentum: Annotated[float, Strict(), Field(ge=0, lt=1)] = 0.0
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> EsgdSpec:
        if self.nesterov and self.momentum == 0:
            raise ValueError("`nesterov` needs a `momentum` above 0")
        return self


class AdamSpec(_Scheduled):
    """Adam (Kingma & Ba 2015), or with `adamw` decoupled decay (Loshchilov & Hutter 2019)."""

    form: Literal["adam", "adamw"]
    learning_rate: LearningRate = 1e-3
    beta1: Annotated[float, Strict(), Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Strict(), Field(ge=0, lt=1)] = 0.999
    epsilon: Positive = 1e-8
    weight_decay: NonNegative | None = None
    """Decoupled decay; 0.01 unless given, and only for `adamw`."""

    @model_validator(mode="after")
    def _decay_is_for_adamw(self) -> AdamSpec:
        if self.form == "adam" and self.weight_decay is not None:
            raise ValueError(
                "`weight_decay` is for `adamw`; with `adam` use a weight_l2 regularizer"
            )
        return self


def _optimizer_from_name(value: Any) -> Any:
    return {"form": value} if isinstance(value, str) else value


OptimizerSpec = Annotated[
    Annotated[
        SgdSpec
        | NagSpec
        | RpropSpec
        | RmspropSpec
        | AdagradSpec
        | AdadeltaSpec
        | EsgdSpec
        | AdamSpec,
        Field(discriminator="form"),
    ],
    BeforeValidator(_optimizer_from_name),
]


def finds_rate(spec: OptimizerSpec) -> bool:
    """Whether the learning rate is to be found first."""
    return spec.learning_rate == "find"


def default_rate(spec: OptimizerSpec) -> float:
    """Return the learning rate that an optimizer of this form has where none is given."""
    return float(type(spec).model_fields["learning_rate"].default)


def rate_of(spec: OptimizerSpec) -> float:
    """Return the learning rate; ValueError where it is still to be found."""
    return float(spec.learning_rate)


def with_rate(spec: OptimizerSpec, rate: float) -> OptimizerSpec:
    """Return an optimizer that has this learning rate."""
    return spec.model_copy(update={"learning_rate": rate})


OPTIMIZERS: tuple[str, ...] = (
    "sgd",
    "nag",
    "rprop",
    "rmsprop",
    "adagrad",
    "adadelta",
    "esgd",
    "adam",
    "adamw",
)
