"""Split-conformal intervals: how wide, by what rows of their own say, and for which predictions.

Of n + 1 exchangeable scores the last is among the k smallest with a probability of k / (n + 1) at
least, whatever their distribution (Vovk, Gammerman & Shafer 2005; Papadopoulos et al. 2002; Lei et
al. 2018). So an interval out to the k-th smallest of n scores covers with that probability a truth
whose row is as the n are and whose prediction is made as theirs were.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, JsonValue

__all__ = [
    "STD_FLOOR",
    "Acting",
    "Calibration",
    "Way",
    "by_target",
    "conformal_quantile",
    "half_width",
    "least_rows",
    "promised_coverage",
    "rank_of",
    "scores_of",
]

STD_FLOOR = 1e-3
"""Least `std` that divides a residual, in the target's scale: its spread in the training rows."""

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]
Score = Literal["absolute", "normalised", "lac", "aps", "raps"]


# -- scores and their quantile ---------------------------------------------------------------------


def rank_of(rows: int, coverage: float) -> int:
    """Return ceil((rows + 1) coverage), of the coverage as it is written in decimals."""
    return math.ceil((rows + 1) * Fraction(repr(coverage)))


def least_rows(coverage: float) -> int:
    """Return how many rows a coverage takes at least: ceil(1 / (1 - coverage)) - 1."""
    return math.ceil(1 / (1 - Fraction(repr(coverage)))) - 1


def promised_coverage(rows: int, coverage: float) -> float:
    """Return the mean coverage of so many rows: ceil((rows + 1) coverage) / (rows + 1)."""
    return rank_of(rows, coverage) / (rows + 1)


def scores_of(
    truth: npt.ArrayLike, mean: Array, std: Array | None, *, score: Score, scale: Array
) -> Doubles:
    """Return how far truths lie from predictions, (rows, *shape), as the score counts it.

    `scale` are the targets' scales in original units; `std` is needed for `normalised` alone.
    """
    residuals: Doubles = np.abs(np.asarray(truth, dtype=np.float64) - mean)
    return residuals / _unit(std, scale) if score == "normalised" else residuals


def conformal_quantile(scores: Doubles, coverage: float) -> Doubles:
    """Return the ceil((n + 1) coverage)-th smallest of n scores, (n, *shape) -> (*shape)."""
    rank = rank_of(len(scores), coverage)
    quantile: Doubles = np.partition(scores, rank - 1, axis=0)[rank - 1]
    return quantile


def half_width(quantile: Doubles, std: Array | None, *, score: Score, scale: Array) -> Array:
    """Return how far intervals reach on either side of the mean, in original units."""
    if score == "absolute":
        return quantile
    width: Array = quantile * _unit(std, scale)
    return width


def _unit(std: Array | None, scale: Array) -> Array:
    assert std is not None
    return np.maximum(std, STD_FLOOR * scale)


# -- what a model keeps ----------------------------------------------------------------------------


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class _Mask(_Kept):
    pattern: str | None = None
    rate: float
    matched: tuple[str, ...]
    steps: str = "independent"
    spatial: bool = False


class _Noise(_Kept):
    pattern: str | None = None
    std: float
    matched: tuple[str, ...]


class Acting(_Kept):
    """What one network drops and adds while it predicts, as answers tell of it."""

    dropout: tuple[_Mask, ...] = ()
    drop_connect: tuple[_Mask, ...] = ()
    noise: tuple[_Noise, ...] = ()

    def effects(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return what acts on which output or weight, in whatever way it was asked for."""
        masks = {"dropout": self.dropout, "drop_connect": self.drop_connect}
        found: dict[str, list[tuple[Any, ...]]] = {
            kind: sorted(
                (name, own.rate, own.steps, own.spatial)
                for own in of_kind
                if own.rate > 0
                for name in own.matched
            )
            for kind, of_kind in masks.items()
        }
        found["noise"] = sorted(
            (name, own.std) for own in self.noise if own.std > 0 for name in own.matched
        )
        return found


class Way(_Kept):
    """A way of predicting: what acts in each network of a model, by how many passes."""

    num_samples: Annotated[int, Field(ge=1)]
    masks: Literal["independent", "shared"]
    acting: tuple[Acting, ...]
    """One for a network alone, of an ensemble one for each member."""

    @classmethod
    def of(cls, acting: Sequence[Mapping[str, Any]], num_samples: int, masks: str) -> Way:
        """Return a way of predicting by what answers tell of it."""
        return cls.model_validate(
            {"acting": list(acting), "num_samples": num_samples, "masks": masks}
        )

    def differences(self, asked: Way) -> Iterator[str]:
        """Say what is different where a prediction is asked for in another way."""
        own = [one.effects() for one in self.acting]
        other = [one.effects() for one in asked.acting]
        kinds = [kind for kind in _KINDS if _of(kind, own) != _of(kind, other)]
        if kinds:
            yield f"other {' and '.join(map(_KINDS.__getitem__, kinds))}"
        if not any(effects for one in (*own, *other) for effects in one.values()):
            return  # all passes are the same, however many
        if self.num_samples != asked.num_samples:
            yield f"`num_samples` {asked.num_samples} instead of {self.num_samples}"
        if self.masks != asked.masks:
            yield f"`masks` {asked.masks!r} instead of {self.masks!r}"


_KINDS = {"dropout": "dropout", "drop_connect": "`drop_connect`", "noise": "noise"}


def _of(kind: str, effects: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [own[kind] for own in effects]


class Calibration(_Kept):
    """What a model has learnt from calibration rows, and the way of predicting it holds for."""

    coverage: Annotated[float, Field(gt=0, lt=1)]
    score: Score
    rows: Annotated[int, Field(ge=1)]
    quantiles: dict[str, JsonValue]
    """By target, in original units (`normalised`: in standard deviations; of classes: of scores): a
    number, of sequences a list over the steps, of images one over their rows and columns."""
    penalty: Annotated[float, Field(ge=0)] = 0.0
    free_ranks: Annotated[int, Field(ge=0)] = 0
    temperature: Annotated[float, Field(gt=0)] | None = None
    """What a classifier's probabilities are softened by; None where none was fitted."""
    temperature_rows: Annotated[int, Field(ge=0)] = 0
    """By how many other rows it was."""
    way: Way
    seed: int

    @property
    def is_of_sets(self) -> bool:
        """Whether it is of a classifier."""
        return self.score in ("lac", "aps", "raps")

    def of_classes(self) -> Doubles:
        """Return a classifier's quantile: of no axes, or of one for the steps.

        Raises ValueError where it is none.
        """
        (told,) = self.quantiles.values()
        quantile = np.asarray(told, dtype=np.float64)
        if quantile.ndim > 1 or not np.isfinite(quantile).all() or not self.is_of_sets:
            raise ValueError("the quantile is not that of a classifier")
        return quantile

    def along(self, names: Sequence[str], rank: int) -> Doubles:
        """Return the quantiles of targets of these names as an output of so many axes has them.

        Raises KeyError or ValueError where they are not of these targets.
        """
        stacked = np.stack([np.asarray(self.quantiles[name], dtype=np.float64) for name in names])
        if (
            self.is_of_sets
            or stacked.ndim != rank
            or not np.isfinite(stacked).all()
            or (stacked < 0).any()
        ):
            raise ValueError("the quantiles are not those of the model's targets")
        return np.moveaxis(stacked, 0, _target_axis(rank))


def by_target(quantile: Doubles, names: Sequence[str]) -> dict[str, Any]:
    """Return a quantile, (*shape), as a document tells of it."""
    apart = np.moveaxis(quantile, _target_axis(quantile.ndim), 0)
    return {name: own.tolist() for name, own in zip(names, apart, strict=True)}


def _target_axis(rank: int) -> int:
    """Return which axis counts the targets: of images, (channels, height, width), the first."""
    return 0 if rank == 3 else rank - 1
