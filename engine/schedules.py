"""Schedules of the learning rate: a rate for every step, from its place in the training alone.

Only a plateau depends on more, the validation losses of the epochs before; what it remembers of
them is its state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.spec import (
    CosineSpec,
    ExponentialSpec,
    LinearSpec,
    OneCycleSpec,
    OptimizerSpec,
    PlateauSpec,
    RpropSpec,
    ScheduleSpec,
    StepSpec,
)
from engine.spec.optimizers import rate_of

__all__ = ["Schedule", "schedule_of", "with_span"]

Doubles = npt.NDArray[np.float64]
Factors = Callable[[Doubles], Doubles]


def schedule_of(spec: OptimizerSpec) -> ScheduleSpec | None:
    """Return an optimizer's schedule, if it has one."""
    return None if isinstance(spec, RpropSpec) else spec.schedule


def with_span(spec: OptimizerSpec, epochs: int) -> OptimizerSpec:
    """Return an optimizer whose schedule takes so many epochs, however many are trained."""
    schedule = schedule_of(spec)
    if not isinstance(schedule, CosineSpec | LinearSpec | OneCycleSpec) or schedule.epochs:
        return spec
    fixed = schedule.model_copy(update={"epochs": epochs})
    return spec.model_copy(update={"schedule": fixed})


class Schedule:
    """The learning rates of one training."""

    def __init__(self, spec: OptimizerSpec, *, epochs: int, steps: int) -> None:
        """`epochs` are those of the job, each of `steps` steps."""
        schedule = schedule_of(spec)
        self._rate = rate_of(spec)
        self._steps = steps
        self._plateau = _Plateau(schedule) if isinstance(schedule, PlateauSpec) else None
        self._factors = _factors(schedule, epochs, steps)
        self._constant = np.full(steps, self._rate) if schedule is None else None

    def rates(self, epoch: int, first_step: int, count: int) -> Doubles:
        """Return the rates of `count` steps of an epoch, from `first_step` on; steps count from 0.

        Epochs count from 1.
        """
        if self._constant is not None:
            return self._constant[:count]
        if self._plateau is not None:
            return np.full(count, self._rate * self._plateau.factor)
        before = (epoch - 1) * self._steps + first_step
        return self._rate * self._factors(np.arange(before, before + count, dtype=np.float64))

    def end_epoch(self, valid_loss: float | None) -> None:
        """Take note of the validation loss at the end of an epoch, where there is one."""
        if self._plateau is not None and valid_loss is not None:
            self._plateau.see(valid_loss)

    def state(self) -> dict[str, Any]:
        """Return what it remembers, as JSON can tell it."""
        if self._plateau is None:
            return {}
        return {name: value for name, value in vars(self._plateau).items() if name != "spec"}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        if self._plateau is not None:
            for name, value in state.items():
                setattr(self._plateau, name, value)


@dataclass
class _Plateau:
    """What a plateau remembers of the losses."""

    spec: PlateauSpec
    factor: float = 1.0
    best: float = math.inf
    waited: int = 0
    cooldown: int = 0

    def see(self, loss: float) -> None:
        spec = self.spec
        # A negative loss, of a density, improves by its size and not against it.
        margin = 0.0 if math.isinf(self.best) else spec.threshold * abs(self.best)
        if loss < self.best - margin:
            self.best = loss
            self.waited = 0
        else:
            self.waited += 1
        if self.cooldown > 0:
            self.cooldown -= 1
            self.waited = 0
        if self.waited > spec.patience:
            self.factor = max(self.factor * spec.factor, spec.min_factor)
            self.cooldown = spec.cooldown
            self.waited = 0


def _factors(spec: ScheduleSpec | None, epochs: int, steps: int) -> Factors:
    """Return what gives the factor of `learning_rate` of each step, counted from the very first."""
    match spec:
        case OneCycleSpec():
            return lambda at: _one_cycle(spec, at, (spec.epochs or epochs) * steps)
        case CosineSpec() | LinearSpec():
            length = max(1, ((spec.epochs or epochs) - spec.warmup_epochs) * steps)
            is_cosine = isinstance(spec, CosineSpec)

            def falling(at: Doubles) -> Doubles:
                done = np.minimum(at / length, 1.0)
                left = (1 + np.cos(np.pi * done)) / 2 if is_cosine else 1 - done
                return spec.min_factor + (1 - spec.min_factor) * left

            return _warmed_up(falling, spec.warmup_epochs * steps)
        case StepSpec() | ExponentialSpec():
            size = steps * (spec.step_size if isinstance(spec, StepSpec) else 1)
            gamma = spec.gamma
            return _warmed_up(lambda at: gamma ** (at // size), spec.warmup_epochs * steps)
    return np.ones_like


def _warmed_up(following: Factors, warmup: int) -> Factors:
    """Put so many steps, the last at the full rate, before those of `following`."""

    def factors(at: Doubles) -> Doubles:
        after = following(np.maximum(at - warmup, 0))
        return np.where(at < warmup, (at + 1) / warmup, after)

    return factors if warmup else following


def _one_cycle(spec: OneCycleSpec, at: Doubles, length: int) -> Doubles:
    top, last = max(spec.pct_start * length - 1, 0.0), max(length - 1, 1)
    first = 1 / spec.div_factor
    up = _along_cosine(first, 1.0, at / max(top, 1e-9))
    down = _along_cosine(1.0, first / spec.final_div_factor, (at - top) / max(last - top, 1e-9))
    return np.where(at <= top, up, down)


def _along_cosine(start: float, end: float, share: Doubles) -> Doubles:
    return end + (start - end) / 2 * (1 + np.cos(np.pi * np.clip(share, 0.0, 1.0)))
