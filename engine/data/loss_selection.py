"""Which columns (arrays) losses compare with, where these are not the job's targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.data.matching import (
    check_nulls,
    content_of,
    items_of,
    match_names,
    noun_of,
    some,
    union,
)
from engine.data.schema import Array, Schema
from engine.errors import SpecError
from engine.spec import Form, LossSpec, NetworkSpec, TrainSpec

__all__ = [
    "AuxiliaryTargets",
    "auxiliary_targets",
    "has_divergence",
    "named_targets",
    "targets_pointer",
]

_OF_CLASSES = ("xe", "hinge")


@dataclass(frozen=True, kw_only=True)
class AuxiliaryTargets:
    """Targets of one loss that are not the job's."""

    loss: int
    """Its number among the network's `losses`."""
    form: Form
    """`classifier` for one column of classes, else `regressor`."""
    names: tuple[str, ...]
    is_distribution: bool = False


def targets_pointer(loss: int) -> str:
    """Return where the targets of a loss stand in the spec."""
    return f"#/network/losses/{loss}/targets"


def named_targets(
    schema: Schema, spec: TrainSpec, weight: str | None
) -> dict[int, tuple[str, ...]]:
    """Match the `targets` of losses that have some; return the names by the number of the loss."""
    found: dict[int, tuple[str, ...]] = {}
    for index, loss in enumerate(spec.network.losses or ()):
        if loss.targets is None:
            continue
        role = targets_pointer(index).removeprefix("#/")
        matched = union(names for _, names in match_names(schema, loss.targets, role))
        names = tuple(name for name in matched if name != weight)
        if not names:
            raise SpecError(
                f"{weight!r} is the sample weight; it cannot be a target too",
                pointer=f"#/{role}",
            )
        _check(schema, loss, names, role)
        found[index] = names
    return found


def auxiliary_targets(
    spec: TrainSpec, named: Mapping[int, tuple[str, ...]], targets: Sequence[str]
) -> tuple[NetworkSpec, tuple[AuxiliaryTargets, ...]]:
    """Return the targets of losses that have their own, and the network without the others'."""
    network = spec.network
    if network.losses is None:
        return network, ()
    losses = tuple(
        loss.model_copy(update={"targets": None}) if named.get(index) == tuple(targets) else loss
        for index, loss in enumerate(network.losses)
    )
    own = tuple(
        AuxiliaryTargets(
            loss=index,
            form="classifier" if loss.form in _OF_CLASSES else "regressor",
            names=named[index],
            is_distribution=loss.form == "kl",
        )
        for index, loss in enumerate(losses)
        if loss.targets is not None
    )
    return network.model_copy(update={"losses": losses}), own


def has_divergence(network: NetworkSpec) -> bool:
    """Say whether the job's own targets are compared as distributions."""
    if network.losses is None:
        return network.loss == "kl"
    return any(loss.form == "kl" and loss.targets is None for loss in network.losses)


def _check(schema: Schema, loss: LossSpec, names: Sequence[str], role: str) -> None:
    items = items_of(schema, names)
    of_classes = loss.form in _OF_CLASSES
    pointer = f"#/{role}"
    check_nulls(items, role, "targets")
    if of_classes and len(names) != 1:
        raise SpecError(
            f"loss {loss.form!r} has exactly one target, of classes; these are {len(names)}: "
            f"{some(names)}",
            pointer=pointer,
        )
    refused = ("datetime",) if of_classes else ("datetime", "text")
    bad = [item for item in items if content_of(item) in refused]
    if bad:
        raise SpecError(
            f"{noun_of(schema)}s {some([item.name for item in bad])} hold {content_of(bad[0])}; "
            f"the targets of loss {loss.form!r} are {'classes' if of_classes else 'numbers'}",
            pointer=pointer,
        )
    dimensions = 2 if of_classes else 4
    for item in items:
        if isinstance(item, Array) and len(item.shape) > dimensions:
            raise SpecError(
                f"array {item.name!r} has shape {list(item.shape)}; targets of loss "
                f"{loss.form!r} have at most {dimensions} dimensions",
                pointer=pointer,
            )
