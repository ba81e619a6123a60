"""Losses: what outputs and targets are compared by."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from engine.spec.values import MAX_ENTRIES, OutputName, Pattern, Positive, SparseSpec

LossName = Literal["mse", "mae", "xe", "hinge", "kl", "mmd", "gll"]
LOSSES: tuple[str, ...] = LossName.__args__  # type: ignore[attr-defined]
_SPELLINGS = {"cross_entropy": "xe", "cross-entropy": "xe", "kld": "kl"}


def _spelling(value: Any) -> Any:
    """Map other spellings of theanets and the field onto ours."""
    return _SPELLINGS.get(value, value) if isinstance(value, str) else value


LossForm = Annotated[LossName, BeforeValidator(_spelling)]


class LossSpec(SparseSpec):
    """One of several terms of a network's loss, or one with options."""

    form: LossForm
    """`mse`, `mae`: mean squared or absolute difference; `xe`: cross-entropy, `hinge`: how far the
    likeliest class is before the true one; `kl`: divergence of distributions; `mmd`: maximum mean
    discrepancy between the outputs and targets of a batch; `gll`: negative log-likelihood of a
    normal distribution whose mean and diagonal covariance are outputs."""
    weight: Positive = 1.0
    """Factor of the term."""
    output_name: OutputName | None = None
    """The output (`hid2:out`), or the layer, that is compared; by default the last layer's."""
    targets: (
        Annotated[tuple[Pattern, ...], Field(min_length=1, max_length=MAX_ENTRIES, fail_fast=True)]
        | None
    ) = None
    """Globs over columns (arrays) to compare with; the job's targets by default."""
    kernel: Positive | None = None
    """For `mmd`: the width s of its kernel exp(-||x - y||^2 / s); 1 by default."""
    mean_name: OutputName | None = None
    """For `gll`: the output that is the mean, instead of `output_name`."""
    covar_name: OutputName | None = None
    """For `gll`: the output whose size is the covariance's diagonal; layer `covar` by default."""
    covar_eps: Positive | None = None
    """For `gll`: what is added to every variance; 1e-3 by default."""

    @model_validator(mode="after")
    def _options_are_of_their_forms(self) -> LossSpec:
        for key, form in (
            ("kernel", "mmd"),
            ("mean_name", "gll"),
            ("covar_name", "gll"),
            ("covar_eps", "gll"),
        ):
            if getattr(self, key) is not None and self.form != form:
                raise ValueError(f"`{key}` is for `{form}`")
        if self.mean_name is not None and self.output_name is not None:
            raise ValueError("`mean_name` and `output_name` say the same; give one")
        return self
