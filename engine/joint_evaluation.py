"""What the networks of an ensemble are worth together on the validation rows.

The numbers are those of predictions: without passes the mean over the networks, and of passes those
of all together, each network's with its own noise (Lakshminarayanan et al. 2017).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from engine.calibration import mixture_log_likelihood
from engine.data.inputs import Inputs
from engine.ensembles import member_seed
from engine.evaluation import NUM_SAMPLES, by_target, parts_of, sampled_rows
from engine.losses import PROBABILITY_FLOOR, prediction_loss
from engine.metrics import DeterministicMetrics
from engine.network import Network
from engine.plan import TrainingPlan
from engine.regularizers import is_stochastic, learnt
from engine.run import EncodedRows, Measured, Outcome
from engine.sampling import Sampler
from engine.statistics import pass_mean
from engine.summary import noise_variance, renormalised

__all__ = ["JointEvaluation"]

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


class JointEvaluation:
    """The metrics of an ensemble: `pieces` to measure it, then `metrics`."""

    def __init__(self, members: Sequence[tuple[TrainingPlan, Outcome]], rows: EncodedRows) -> None:
        """`members` are what variants of a search have left, the best first; `rows` are theirs."""
        self._rows = rows
        self._outcomes = [outcome for _, outcome in members]
        seed = members[0][0].spec.seed
        self._members = [
            _Member(plan, outcome, rows, seed=member_seed(seed, index))
            for index, (plan, outcome) in enumerate(members)
        ]
        self._found: dict[str, float] | None = None

    def pieces(self) -> Iterator[float]:
        """Measure the ensemble, yielding the share that is done; nothing without such rows."""
        measured = self._rows.measured
        if measured is None:
            self._found = {}
        if self._found is not None or measured is None:
            return
        count = len(self._members)
        total: Doubles | float = 0.0
        for index, member in enumerate(self._members):
            outputs = []
            for part in parts_of(slice(0, len(measured.x))):
                outputs.append(member.plain(measured.x[part]))
                yield (index + part.stop / len(measured.x)) / (2 * count)
            total = total + np.concatenate(outputs).astype(np.float64)
        found = self._deterministic((np.asarray(total) / count).astype(np.float32))
        rows = self._sampled_rows(len(measured.x))
        truth = measured.truth(rows)
        likely: Doubles | None = None
        for index, member in enumerate(self._members):
            pieces = []
            for part in member.parts(len(rows)):
                pieces.append(member.likely(measured, truth[part], rows[part]))
                yield 0.5 + (index + part.stop / len(rows)) / (2 * count)
            own = np.concatenate(pieces, axis=-1)
            likely = own if likely is None else np.logaddexp(likely, own)
        assert likely is not None
        logs = likely - np.log(count)
        if self._members[0].is_classifier:
            logs = np.maximum(logs, np.log(PROBABILITY_FLOOR))
        self._found = found | {"log_likelihood": float(logs.mean())}

    def metrics(self) -> dict[str, Any]:
        """Return `train` and `valid` metrics; what has not been measured is measured now.

        `train.loss` is the mean of the members', where all minimised the same.
        """
        for _ in self.pieces():
            pass
        assert self._found is not None
        train: dict[str, float] = {}
        if self._is_alike:
            losses = [outcome.metrics["train"]["loss"] for outcome in self._outcomes]
            train["loss"] = float(np.mean(losses))
        return {"train": train, "valid": dict(self._found)}

    @property
    def _is_alike(self) -> bool:
        """Whether all members compare the same with the same."""
        terms = {member.graph.losses for member in self._members}
        return len(terms) == 1

    def _deterministic(self, mean: npt.NDArray[np.float32]) -> dict[str, float]:
        """Return the metrics of the members' mean."""
        first, valid = self._members[0], self._rows.valid
        assert valid is not None
        batch_size = first.plan.spec.batch_size
        pieces = [(piece.y[:], piece.weights) for piece in valid.pieces(batch_size)]
        targets = torch.cat([y for y, _ in pieces]).cpu()
        loss = None
        if self._is_alike:
            given = [weights[:] for _, weights in pieces if weights is not None]
            weights = torch.cat(given).cpu() if given else None
            loss = prediction_loss(first.graph, mean, targets, weights, batch_size=batch_size)
        scale = None if first.is_classifier else first.plan.encoding.target_scale
        metrics = DeterministicMetrics(first.graph, targets.numpy(), target_scale=scale)
        return ({} if loss is None else {"loss": loss}) | metrics.of(mean)

    def _sampled_rows(self, count: int) -> Rows:
        """Return which rows are sampled: all members' passes take no longer than one's may."""
        flops = sum(m.passes * max(1, m.graph.flops_per_row) for m in self._members)
        return sampled_rows(
            count,
            numbers=max(m.passes * math.prod(m.graph.last.shape) for m in self._members),
            flops=flops,
        )


class _Member:
    """One network, and what its passes say of truths."""

    def __init__(
        self, plan: TrainingPlan, outcome: Outcome, rows: EncodedRows, *, seed: int
    ) -> None:
        self.plan = plan
        self.graph = plan.graph
        self.is_classifier = plan.graph.form == "classifier"
        self._precision = outcome.noise_precision
        network = Network(plan.graph, outcome.parameters, device=rows.device)
        acting = learnt(plan.regularizers, outcome.rates)
        noise = self.graph.noise_output
        wanted = [self.graph.last.out, *([] if noise is None else [noise])]
        self._plain = Sampler(network, (), wanted=wanted[:1], seed=seed)
        self._sampler = Sampler(network, acting, wanted=wanted, seed=seed)
        self.passes = NUM_SAMPLES if is_stochastic(acting) else 1

    def plain(self, x: Inputs) -> Array:
        """Return the outputs of the deterministic pass, (rows, *shape)."""
        return self._plain.deterministic(x)[self.graph.last.out]

    def parts(self, rows: int) -> Iterator[slice]:
        """Cut rows so that the passes of each part take well under a second."""
        for chunk in self._sampler.chunks(rows, self.passes):
            yield from parts_of(chunk)

    def likely(self, measured: Measured, truth: Any, rows: Rows) -> Doubles:
        """Return the logarithm of how likely the truths of some rows are, (…, numbers)."""
        x = measured.x[rows]
        drawn = {name: value[None] for name, value in self._sampler.deterministic(x).items()}
        if self._sampler.stochastic:
            numbers = np.arange(self.passes, dtype=np.int64)
            drawn |= self._sampler.samples(x, measured.row_ids[rows], numbers)
        samples = drawn[self.graph.last.out]
        if self.is_classifier:
            mean = pass_mean(renormalised(samples))
            chosen = np.take_along_axis(mean, np.asarray(truth)[..., None], axis=-1)
            with np.errstate(divide="ignore"):  # the floor is that of all members together
                return np.log(chosen.reshape(-1))
        encoding = self.plan.encoding
        decoded = encoding.decode(samples)
        precision: list[Any]
        if self.graph.noise_output is not None:
            variance = noise_variance(self.graph, encoding, drawn[self.graph.noise_output])
            decoded, variance = np.broadcast_arrays(decoded, variance)
            precision = [1 / own for own in by_target(encoding, variance)]
        else:
            assert self._precision is not None
            precision = [self._precision[name] for name in encoding.target_names]
        cut = (by_target(encoding, decoded), by_target(encoding, truth[None]), precision)
        return np.stack(
            [mixture_log_likelihood(own, true[0], tau) for own, true, tau in zip(*cut, strict=True)]
        )
