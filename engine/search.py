"""A search: an iterator over the training of all variants, and of the best once more.

Each variant is trained and measured by the same `TrainingRun` as a job alone, so its numbers are
those of that job. Like `Training` a search can be stopped at any event and resumed to the bit:
which variants stood where when it was stopped changes nothing of what any of them comes to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import safetensors
import safetensors.numpy
import torch

from engine.data.dataset import Data
from engine.data.scratch import Scratch
from engine.epochs import BlockEnd, EpochEnd
from engine.errors import ArtifactError, DataError, DivergedError
from engine.groups import Group, grouped
from engine.joint_evaluation import JointEvaluation
from engine.lanes import Lanes
from engine.plan import TrainingPlan, plan_training
from engine.pretraining import StageEvent
from engine.rate_finding import RateFound
from engine.run import EncodedRows, Outcome, TrainingRun, encode_rows
from engine.search_plan import SearchPlan, refit_spec
from engine.snapshots import Snapshot
from engine.variant_run import VariantRun

__all__ = ["RefitEvent", "Search", "SearchEvent", "Selected", "Standing", "VariantEvent"]

VariantStatus = Literal["queued", "running", "succeeded", "stopped", "failed"]


@dataclass(kw_only=True)
class Standing:
    """How far a variant has come."""

    status: VariantStatus = "queued"
    epochs: int = 0
    """Of the whole network, completed when this was last told."""
    rows_done: int = 0
    """Rows trained on by then, counted anew in every epoch."""
    kept_epoch: int | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    noise_precision: dict[str, float] | None = None
    measured: int = 0
    """How often: at each rung, and at the end."""
    is_out: bool = False
    """Not among those that went on at a rung."""
    detail: str | None = None
    """Why it failed."""

    def told(self) -> dict[str, Any]:
        """Return what is told of it, as JSON."""
        return {
            "status": self.status,
            "epochs": self.epochs,
            "kept_epoch": self.kept_epoch,
            "metrics": self.metrics,
            "noise_precision": self.noise_precision,
            "error": self.detail,
        }


@dataclass(frozen=True, kw_only=True)
class VariantEvent:
    """A variant has begun, has been measured at a rung, or has ended."""

    index: int
    standing: Standing


@dataclass(frozen=True, kw_only=True)
class Moved:
    """Some variant has moved on."""


@dataclass(frozen=True, kw_only=True)
class Selected:
    """All variants have ended, and this one is the best."""

    index: int


@dataclass(frozen=True, kw_only=True)
class RefitEvent:
    """What happened in training the best once more."""

    event: RateFound | StageEvent | BlockEnd | EpochEnd


SearchEvent = VariantEvent | Moved | Selected | RefitEvent


class Search:
    """All variants of one job, on one device."""

    def __init__(
        self,
        plan: SearchPlan,
        data: Data,
        validation_data: Data | None = None,
        *,
        calibration_data: Data | None = None,
        device: torch.device,
        threads: int = 1,
        scratch: Scratch | None = None,
    ) -> None:
        """Prepare to train the variants of `plan` on so many threads, as many side by side as fit.

        The data are those that the plan was made for. As for a job alone, `threads` are part of
        what decides last bits, where a network is large enough to be trained by several.
        """
        self.plan = plan
        self.standings = [Standing() for _ in plan.variants]
        self.selected: int | None = None
        self._data = (data, validation_data)
        self._scratch = scratch
        self._calibration_data = calibration_data
        self._device = device
        self._threads = threads
        self._lanes: Lanes[VariantRun | Group] = Lanes(threads)
        self._rows: EncodedRows | None = None
        self._runs: dict[int, VariantRun] = {}
        self._round = 0
        self._untold: list[int] = []
        self._best: int | None = None
        self._best_history = bytearray()
        """The ends of its epochs, as `VariantRun.history`."""
        self._outcomes: dict[int, Outcome] = {}
        self._refit: TrainingRun | None = None
        self._joint: tuple[list[int], JointEvaluation] | None = None

    # -- the search --------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[SearchEvent]:
        """Train until finished, from wherever this search stands.

        A variant that diverges has failed and the others go on; raises DivergedError where all
        have, DataError where none has the deciding metric.
        """
        yield from self._tell()
        while self.selected is None:
            yield from self._train_round()
            yield from self._end_round()
        if self.plan.refits and self._refit is None:
            self._rows = None
            self._refit = self._refit_run()
        yield Selected(index=self.selected)
        if self._refit is not None:
            for event in self._refit.staged:
                yield RefitEvent(event=event)

    def _train_round(self) -> Iterator[SearchEvent]:
        """Train all that are in the running up to the next rung, or to their ends."""
        for _ in self._lanes.drive(grouped(self._participants(), threads=self._threads)):
            yield from self._tell()
            yield Moved()
            for index in sorted(self._runs):
                run = self._runs[index]
                if run.ended:
                    self._record(index, run)
            yield from self._tell()

    def _participants(self) -> Iterator[VariantRun]:
        until = self.plan.rungs[self._round] if self._round < len(self.plan.rungs) else None
        for index, standing in enumerate(self.standings):
            if standing.status not in ("queued", "running") or standing.measured > self._round:
                continue
            run = self._runs.get(index) or self._run_of(index)
            run.go_on(until)
            if standing.status == "queued":
                standing.status = "running"
                self._untold.append(index)
            yield run

    def _run_of(self, index: int) -> VariantRun:
        plan = self.plan.variants[index].plan
        run = VariantRun(
            TrainingRun(plan, self._encoded(), threads=self._threads),
            keeps_epochs=not self.plan.refits,
        )
        self._runs[index] = run
        return run

    def _encoded(self) -> EncodedRows:
        if self._rows is None:
            first = self.plan.variants[0].plan
            self._rows = encode_rows(first, *self._data, self._device, scratch=self._scratch)
        return self._rows

    def _record(self, index: int, run: VariantRun) -> None:
        """Take down what a run that has come to a rung, or to its end, is worth."""
        standing = self.standings[index]
        if standing.measured > self._round or standing.status == "failed":
            return
        standing.epochs = run.epochs
        standing.rows_done = run.run.staged.rows_done
        if run.outcome is None:
            standing.status, standing.detail = "failed", run.failure
        else:
            standing.measured = self._round + 1
            standing.kept_epoch = run.outcome.kept_epoch
            standing.metrics = run.outcome.metrics
            standing.noise_precision = run.outcome.noise_precision
            if run.is_finished:
                standing.status = "succeeded"
            self._keep(index, run.outcome, run.history)
        if standing.status != "running":
            del self._runs[index]
        self._untold.append(index)

    def _keep(self, index: int, outcome: Outcome, history: bytearray) -> None:
        """Hold on to the best, and where all become an ensemble to those at their end."""
        best = self._best
        if best is None or self._worth(index) >= self._worth(best):
            self._best = index
            self._best_history = history[:]
        self._outcomes[index] = outcome
        for held in list(self._outcomes):
            if held != self._best and not self._is_member(held):
                del self._outcomes[held]

    def _is_member(self, index: int) -> bool:
        is_ensemble = self.plan.search.keep == "ensemble"
        return is_ensemble and self.standings[index].status == "succeeded"

    def _worth(self, index: int) -> tuple[bool, int, bool, float, int]:
        """Order variants: those at their end, those further on, and then by the metric."""
        standing = self.standings[index]
        score = self.plan.score(standing.metrics)
        ended = standing.status == "succeeded"
        return (ended, 0 if ended else standing.measured, score is not None, score or 0.0, -index)

    def _end_round(self) -> Iterator[SearchEvent]:
        """Stop those that do not go on; once none is left, choose the best."""
        self._round += 1
        if self._round <= len(self.plan.rungs):
            self._halve()
        for run in self._runs.values():
            run.ended = False
        if not self._runs:
            self.selected = self._chosen()
        yield from self._tell()

    def _halve(self) -> None:
        going = sorted(
            (
                index
                for index, standing in enumerate(self.standings)
                if standing.status in ("running", "succeeded") and not standing.is_out
            ),
            key=lambda index: self._worth(index)[2:],
            reverse=True,
        )
        for index in sorted(going[self.plan.left_after(self._round) :]):
            standing = self.standings[index]
            standing.is_out = True
            if standing.status == "running":
                standing.status = "stopped"
                del self._runs[index]
                self._untold.append(index)

    def _chosen(self) -> int:
        if self._best is None:
            raise DivergedError(
                f"the losses of all {len(self.standings)} variants became infinite or NaN; of the "
                f"first: {self.standings[0].detail}",
                pointer="#/search",
            )
        if self.plan.score(self.standings[self._best].metrics) is None:
            raise DataError(
                f"no variant has a finite {self.plan.select!r}; select by another metric",
                pointer="#/search/select",
            )
        return self._best

    def _tell(self) -> Iterator[VariantEvent]:
        while self._untold:
            index = self._untold.pop(0)
            yield VariantEvent(index=index, standing=replace(self.standings[index]))

    def _refit_run(self) -> TrainingRun:
        assert self._best is not None
        outcome = self._outcomes[self._best]
        chosen = self.plan.variants[self._best].plan
        data = self._data[0]
        plan = plan_training(
            refit_spec(chosen.spec, outcome.kept_epoch, outcome.noise_precision),
            data,
            calibration_data=self._calibration_data,
            reserved=chosen.split.reserved,
            resident_bytes=self.plan.resident_bytes,
        )
        self._rows = None  # the variants have ended: what their rows take is the refit's
        rows = encode_rows(plan, data, None, self._device, scratch=self._scratch)
        return TrainingRun(plan, rows, threads=self._threads)

    # -- what is told and kept ---------------------------------------------------------------------

    @property
    def epochs(self) -> int:
        """Epochs done over all variants."""
        moving = self.running
        return sum(moving.get(i, s.epochs) for i, s in enumerate(self.standings))

    @property
    def running(self) -> dict[int, int]:
        """Epochs done by each variant that is neither at its end nor waiting to begin."""
        return {index: run.epochs for index, run in list(self._runs.items())}

    @property
    def rows_done(self) -> int:
        """Rows trained on so far, over all variants and counted anew in every epoch."""
        moving = {index: run.run.staged.rows_done for index, run in list(self._runs.items())}
        return sum(moving.get(i, s.rows_done) for i, s in enumerate(self.standings))

    @property
    def refit(self) -> TrainingRun | None:
        """The training of the best once more, when it has begun."""
        return self._refit

    def best_epochs(self) -> Iterator[EpochEnd]:
        """Yield the epochs of the best variant so far; none where it is trained once more."""
        for line in bytes(self._best_history).splitlines():
            yield EpochEnd(**json.loads(line))

    def members(self) -> list[tuple[TrainingPlan, Outcome]]:
        """Return what the search leaves if it ends here, the best first; empty before any epoch.

        One, or all of an ensemble. Where none has been measured yet, those that run are.
        """
        if self._best is None:
            return self._best_running()
        if self._refit is not None and self._refit.is_finished:
            return [(self._refit.plan, self._refit.outcome())]
        return [(self.plan.variants[index].plan, self._outcomes[index]) for index in self._order()]

    def _order(self) -> list[int]:
        return sorted(self._outcomes, key=lambda index: (index != self._best, index))

    def together(self) -> JointEvaluation:
        """Return what measures all that the search leaves as one model, where they are several.

        Of the same variants it is the same, so that nothing is measured twice.
        """
        order = self._order()
        if self._joint is None or self._joint[0] != order:
            self._joint = (order, JointEvaluation(self.members(), self._encoded()))
        return self._joint[1]

    def _best_running(self) -> list[tuple[TrainingPlan, Outcome]]:
        self._lanes.rest()
        outcomes = {index: run.run.outcome() for index, run in self._runs.items() if run.epochs}
        if not outcomes:
            return []

        def worth(index: int) -> tuple[bool, float, int]:
            score = self.plan.score(outcomes[index].metrics)
            return score is not None, score or 0.0, -index

        best = max(outcomes, key=worth)
        return [(self.plan.variants[best].plan, outcomes[best])]

    def metrics(self) -> dict[str, Any]:
        """Return in `search` the metrics of the best variant so far; empty before there is one."""
        if self._best is None:
            return {}
        chosen = self._outcomes[self._best]
        told = {
            "variant": self._best,
            "overrides": self.plan.variants[self._best].variant.overrides,
            "kept_epoch": chosen.kept_epoch,
            **chosen.metrics,
        }
        return {"search": told}

    # -- exact resume ------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Return a copy of everything that changes in the search."""
        self._lanes.rest()
        parts = {f"run.{index}": run.run.staged.snapshot() for index, run in self._runs.items()}
        if self._refit is not None:
            parts["refit"] = self._refit.staged.snapshot()
        outcomes: dict[int, Any] = {}
        tensors: dict[str, torch.Tensor] = {}
        for index, outcome in self._outcomes.items():
            outcomes[index] = {**vars(outcome), "parameters": None}
            for name, value in outcome.parameters.items():
                tensors[f"{index}/{name}"] = torch.tensor(value)
        histories = {f"history.{index}": run.history for index, run in self._runs.items()}
        for name, lines in (histories | {"history.best": self._best_history}).items():
            if lines:
                tensors[name] = torch.frombuffer(lines[:], dtype=torch.uint8)
        told = {
            "round": self._round,
            "selected": self.selected,
            "untold": self._untold,
            "standings": [vars(standing) for standing in self.standings],
            "best": self._best,
            "outcomes": outcomes,
        }
        return Snapshot(tensors=tensors, entry="search", told=json.dumps(told), parts=parts)

    def state(self) -> bytes:
        """Return everything that changes in the search, as one safetensors file."""
        return self.snapshot().to_bytes()

    def restore(self, state: bytes) -> None:
        """Go on from what `state` returned; raises ArtifactError where it is not of this search."""
        try:
            arrays = safetensors.numpy.load(state)
            header = json.loads(state[8 : 8 + int.from_bytes(state[:8], "little")])
            told = json.loads(header["__metadata__"]["search"])
        except (safetensors.SafetensorError, KeyError, ValueError) as error:
            raise ArtifactError("the checkpoint cannot be read") from error
        if len(told["standings"]) != len(self.standings):
            raise ArtifactError("the checkpoint belongs to another search")
        self._round = told["round"]
        self.selected = told["selected"]
        self._untold = told["untold"]
        self.standings = [Standing(**standing) for standing in told["standings"]]
        self._best = told["best"]
        for name, outcome in told["outcomes"].items():
            self._outcomes[int(name)] = _outcome(outcome, arrays, f"{name}/")

        def lines(name: str) -> bytearray:
            return bytearray(arrays[name].tobytes() if name in arrays else b"")

        self._best_history = lines("history.best")
        for index, standing in enumerate(self.standings):
            if standing.status == "running":
                run = self._run_of(index)
                run.run.staged.restore(arrays[f"run.{index}"].tobytes())
                run.history = lines(f"history.{index}")
        if "refit" in arrays:
            self._refit = self._refit_run()
            self._refit.staged.restore(arrays["refit"].tobytes())


def _outcome(told: dict[str, Any], arrays: dict[str, Any], prefix: str) -> Outcome:
    parameters = {
        name.removeprefix(prefix): value
        for name, value in arrays.items()
        if name.startswith(prefix)
    }
    rates = {int(index): by_output for index, by_output in told["rates"].items()}
    return Outcome(**told | {"parameters": parameters, "rates": rates})
