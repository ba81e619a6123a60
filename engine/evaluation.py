"""What a trained network is worth on its validation rows: noise precision and log-likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.calibration import fit_noise_precision, mixture_log_likelihood
from engine.data.encoding import Encoding
from engine.data.inputs import Inputs
from engine.data.splits import random_order
from engine.losses import PROBABILITY_FLOOR
from engine.mapped_rows import MappedInputs
from engine.names import array_of
from engine.network import Network
from engine.regularizers import Regularizer, is_stochastic
from engine.sampling import Sampler
from engine.spec import TrainSpec
from engine.statistics import pass_mean
from engine.summary import noise_variance, renormalised

__all__ = [
    "NUM_SAMPLES",
    "Evaluation",
    "by_target",
    "evaluate_on_validation",
    "given_precision",
    "parts_of",
    "sampled_rows",
]

NUM_SAMPLES = 100
_MAX_SAMPLES = 5_000_000
"""Numbers held at once: 100 passes of 50 000 rows of one target; of more rows so many are drawn."""

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]

_MAX_FLOPS = 4e11
"""About ten seconds of products; of more rows so many are drawn."""
_MIN_ROWS = 100
_SAMPLED = 13
"""The seed by which rows are drawn, so that all variants of a search are measured on the same."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Of 100 passes with the dropout of training, or of one pass without any."""

    noise_precision: dict[str, float] | None
    """By target, in original units^-2; None for a classifier."""
    log_likelihood: float
    """Mean over the rows (and the targets), in original units."""


def evaluate_on_validation(
    network: Network,
    encoding: Encoding,
    regularizers: Sequence[Regularizer],
    spec: TrainSpec,
    *,
    x: Inputs | MappedInputs,
    truth: Callable[[Rows], Any],
    row_ids: npt.NDArray[np.int64],
) -> Generator[float, None, Evaluation]:
    """Sample the validation rows, yielding the share that is done; return the evaluation.

    `x` are encoded rows, `truth` what `Encoding.encode_truth` says of some of them. A regressor's
    noise precision is the spec's, or fitted by maximum likelihood of the mixture of passes; a
    classifier's likelihood is that of the mean probabilities.
    """
    graph = network.graph
    passes = NUM_SAMPLES if is_stochastic(regularizers) else 1
    rows = sampled_rows(
        len(x),
        numbers=passes * math.prod(graph.last.shape),
        flops=passes * max(1, graph.flops_per_row),
    )
    wanted = [graph.last.out] + ([graph.noise_output] if graph.noise_output else [])
    sampler = Sampler(network, regularizers, wanted=wanted, seed=spec.seed)
    numbers = np.arange(passes, dtype=np.int64)
    pieces: dict[str, list[Array]] = {name: [] for name in wanted}
    for chunk in sampler.chunks(len(rows), passes):
        for part in parts_of(chunk):
            own = x[rows[part]]
            drawn = {name: value[None] for name, value in sampler.deterministic(own).items()}
            if sampler.stochastic:
                drawn |= sampler.samples(own, row_ids[rows[part]], numbers)
            for name, value in drawn.items():
                pieces[name].append(value)
            yield part.stop / len(rows)
    samples = np.concatenate(pieces[graph.last.out], axis=1)
    true = truth(rows)
    if graph.form == "classifier":
        mean = pass_mean(renormalised(samples))
        likely = np.take_along_axis(mean, true[..., None], axis=-1)
        logs = np.log(np.maximum(likely, PROBABILITY_FLOOR))
        return Evaluation(noise_precision=None, log_likelihood=float(logs.mean()))
    decoded = encoding.decode(samples)
    if graph.noise_output is not None:
        noise = np.concatenate(pieces[graph.noise_output], axis=1)
        variance = noise_variance(graph, encoding, noise)
        decoded, variance = np.broadcast_arrays(decoded, variance)
        return _learnt_noise(encoding, decoded, variance, true)
    return _regression(encoding, spec, decoded, true)


def _learnt_noise(encoding: Encoding, samples: Array, variance: Array, truth: Array) -> Evaluation:
    """Evaluate a network that says its noise itself, of each row and pass."""
    likelihoods = [
        mixture_log_likelihood(own, true, 1 / noise).mean()
        for own, true, noise in zip(
            by_target(encoding, samples),
            by_target(encoding, truth[None]),
            by_target(encoding, variance),
            strict=True,
        )
    ]
    return Evaluation(noise_precision=None, log_likelihood=float(np.mean(likelihoods)))


def sampled_rows(count: int, *, numbers: int, flops: float) -> Rows:
    """Return which of so many rows are sampled, ascending: all, or as many as are not too much.

    `numbers` and `flops` are those of one row. Rows may stand in the order of their targets, so
    that the first ones would be no likeness of all: they are drawn, the same for whoever asks.
    """
    size = min(count, max(_MIN_ROWS, min(_MAX_SAMPLES // numbers, int(_MAX_FLOPS / flops))))
    if size == count:
        return np.arange(count, dtype=np.int64)
    return np.sort(random_order(count, _SAMPLED)[:size])


def by_target(encoding: Encoding, values: Array) -> list[Array]:
    """Cut (passes, rows, *shape) into (passes, numbers) for each target."""
    axis = -3 if values.ndim == 5 else -1
    count = len(encoding.target_names)
    cut = (np.take(values, index, axis=axis) for index in range(count))
    return [own.reshape(len(own), -1).astype(np.float64) for own in cut]


def parts_of(chunk: slice, size: int = 256) -> list[slice]:
    """Cut a chunk of rows so that each part takes well under a second."""
    starts = range(chunk.start, chunk.stop, size)
    return [slice(start, min(start + size, chunk.stop)) for start in starts]


def _regression(encoding: Encoding, spec: TrainSpec, samples: Array, truth: Array) -> Evaluation:
    names = encoding.target_names
    precision: dict[str, float] = {}
    likelihoods: list[float] = []
    cut = (by_target(encoding, samples), by_target(encoding, truth[None]))
    for name, own, (true,) in zip(names, *cut, strict=True):
        if spec.noise_precision == "fit":
            tau = fit_noise_precision(own, true)
        else:
            tau = given_precision(spec.noise_precision, name)
        precision[name] = tau
        likelihoods.append(float(mixture_log_likelihood(own, true, tau).mean()))
    return Evaluation(noise_precision=precision, log_likelihood=float(np.mean(likelihoods)))


def given_precision(given: str | float | Mapping[str, float], name: str) -> float:
    """Return the precision that the caller gave for a target.

    Alone, by the target's name, or by that of the array whose column it is (`y` for `y[0]`).
    """
    if not isinstance(given, Mapping):
        return float(given)
    return float(given[name] if name in given else given[array_of(name)])
