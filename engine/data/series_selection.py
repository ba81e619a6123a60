"""Which columns of a table make its rows series, and what a step's target is."""

from __future__ import annotations

from engine.data.schema import Schema
from engine.errors import SpecError
from engine.spec import SequenceSpec, TrainSpec

__all__ = ["predicts_ahead", "select_series", "series_columns"]

_LISTED = 50
_ORDERED = ("number", "integer", "datetime")


def predicts_ahead(spec: TrainSpec) -> bool:
    """Say whether targets lie after the steps they belong to, so that they may be inputs, too."""
    return spec.sequence is not None and _horizon(spec, spec.sequence) > 0


def series_columns(spec: TrainSpec) -> set[str | None]:
    """Return the columns that say where rows stand; no inputs unless they are named."""
    return set() if spec.sequence is None else {spec.sequence.group, spec.sequence.order}


def select_series(schema: Schema, spec: TrainSpec) -> SequenceSpec | None:
    """Check `sequence` against a data set; return it with its horizon given."""
    sequence = spec.sequence
    if sequence is None:
        return None
    if schema.kind != "table":
        raise SpecError(
            "`sequence` makes sequences of a table's rows; these data are arrays, of which "
            "(rows, steps, features) are sequences already: leave it out",
            pointer="#/sequence",
        )
    known = {column.name: column for column in schema.columns}
    for key, name in (("group", sequence.group), ("order", sequence.order)):
        if name is not None and name not in known:
            names = [*known][:_LISTED]
            raise SpecError(
                f"there is no column {name!r}; these exist: {', '.join(names)}"
                + (f", … ({len(known) - _LISTED} more)" if len(known) > _LISTED else ""),
                pointer=f"#/sequence/{key}",
            )
    if sequence.order is not None and known[sequence.order].type not in _ORDERED:
        raise SpecError(
            f"column {sequence.order!r} holds {known[sequence.order].type}; numbers or times give "
            "rows an order",
            pointer="#/sequence/order",
        )
    if sequence.order is not None and sequence.order == sequence.group:
        raise SpecError(
            "one column cannot both name the series and order its rows", pointer="#/sequence/order"
        )
    horizon = _horizon(spec, sequence)
    if spec.network.form == "autoencoder" and (horizon or sequence.predict == "last"):
        key = "horizon" if horizon else "predict"
        raise SpecError(
            "an autoencoder gives back the steps that it reads: leave `horizon` and `predict` out",
            pointer=f"#/sequence/{key}",
        )
    return sequence.model_copy(update={"horizon": horizon})


def _horizon(spec: TrainSpec, sequence: SequenceSpec) -> int:
    if sequence.horizon is not None:
        return sequence.horizon
    return 0 if spec.network.form == "autoencoder" else 1
