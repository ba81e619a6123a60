"""Which columns (arrays) of a data set a training run reads, and as what."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from engine.data.categories import MAX_CATEGORIES
from engine.data.loss_selection import (
    AuxiliaryTargets,
    auxiliary_targets,
    has_divergence,
    named_targets,
)
from engine.data.matching import (
    check_nulls,
    content_of,
    items_of,
    listed,
    match_names,
    noun_of,
    some,
    union,
)
from engine.data.options import column_options
from engine.data.schema import Array, Column, Kind, Schema
from engine.data.series_selection import predicts_ahead, select_series, series_columns
from engine.errors import PatternError, SpecError
from engine.spec import (
    ColumnSpec,
    Form,
    NetworkSpec,
    SequenceSpec,
    TrainSpec,
    ValidationSpec,
)

__all__ = ["Selection", "select", "uncategorised"]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Names of what is read, in the order in which features and outputs stand."""

    kind: Kind
    form: Form
    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    """An autoencoder's targets are its inputs."""
    sample_weight: str | None = None
    groups: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """For each input layer of the network its name and the inputs that it reads."""
    options: Mapping[str, ColumnSpec] = field(default_factory=dict)
    """How inputs are read where the usual way will not do."""
    sequence: SequenceSpec | None = None
    """How rows become sequences, with the horizon given."""
    auxiliary: tuple[AuxiliaryTargets, ...] = ()
    """What losses compare with beside the job's targets, in the order of the losses."""
    is_distribution: bool = False
    """Whether the targets are shares that add up to one, and are read as they are."""
    network: NetworkSpec | None = None
    """The network, whose losses name targets only where these are not the job's."""


def select(schema: Schema, spec: TrainSpec) -> Selection:
    """Resolve `inputs`, `targets`, `sample_weight` and the form against a data set.

    Patterns keep the order in which they were given, and what each one matches that of the data
    set; a column's own name always matches it, even where it reads as a glob of something else.
    """
    weight = _weight(schema, spec)
    named = named_targets(schema, spec, weight)
    if spec.network.form == "autoencoder":
        return _autoencoder(schema, spec, weight, named)
    targets = _targets(schema, spec, weight)
    form = _form(schema, spec, targets)
    network, auxiliary = auxiliary_targets(spec, named, targets)
    others = {name for names in named.values() for name in names}
    inputs = _inputs(schema, spec, targets, weight, others)
    _check_inputs(schema, form, inputs)
    _check_targets(schema, form, targets)
    return Selection(
        kind=schema.kind,
        form=form,
        inputs=inputs,
        targets=targets,
        sample_weight=weight,
        groups=_groups(spec, inputs),
        options=column_options(schema, spec, form, inputs),
        sequence=select_series(schema, spec),
        auxiliary=auxiliary,
        is_distribution=has_divergence(network),
        network=network,
    )


def _autoencoder(
    schema: Schema, spec: TrainSpec, weight: str | None, named: Mapping[int, tuple[str, ...]]
) -> Selection:
    if spec.targets is not None:
        raise SpecError(
            "an autoencoder's targets are its inputs; leave `targets` out", pointer="#/targets"
        )
    inputs = _inputs(schema, spec, (), weight, {n for names in named.values() for n in names})
    network, auxiliary = auxiliary_targets(spec, named, inputs)
    _check_inputs(schema, "autoencoder", inputs)
    return Selection(
        kind=schema.kind,
        form="autoencoder",
        inputs=inputs,
        targets=inputs,
        sample_weight=weight,
        groups=_groups(spec, inputs),
        options=column_options(schema, spec, "autoencoder", inputs),
        sequence=select_series(schema, spec),
        auxiliary=auxiliary,
        is_distribution=has_divergence(network),
        network=network,
    )


def _groups(spec: TrainSpec, inputs: Sequence[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Share the inputs out among the network's input layers.

    A layer reads what its `columns` match; one that has none the input of its own name, or else all
    that no other names.
    """
    layers = spec.network.input_layers
    if len(layers) > 1 and spec.network.form == "autoencoder":
        raise SpecError("an autoencoder has one input layer", pointer="#/network/layers")
    named: dict[str, tuple[str, ...]] = {}
    for name, index in layers.items():
        columns = spec.network.layers[index].columns
        if columns is not None:
            pointer = f"#/network/layers/{index}/columns"
            matched = tuple(
                column
                for column in inputs
                if any(column == p or fnmatchcase(column, p) for p in columns)
            )
            if not matched:
                raise PatternError(
                    " ".join(columns), kind="input", exist=listed(inputs), pointer=pointer
                )
            named[name] = matched
        elif len(layers) > 1 and name in inputs:
            named[name] = (name,)
    taken = {column for columns in named.values() for column in columns}
    rest = tuple(column for column in inputs if column not in taken)
    unnamed = [name for name in layers if name not in named]
    if len(unnamed) > 1 or (unnamed and not rest):
        index = layers[unnamed[-1]]
        raise SpecError(
            f"input layer {unnamed[-1]!r} needs `columns`: globs over the inputs that it reads, "
            f"which are {', '.join(listed(inputs))}",
            pointer=f"#/network/layers/{index}/columns",
        )
    if rest and not unnamed:
        raise SpecError(
            f"no input layer reads {some(rest)}; name them in the `columns` of one, or choose "
            "other `inputs`",
            pointer="#/network/layers",
        )
    return tuple((name, named.get(name, rest)) for name in layers)


def _weight(schema: Schema, spec: TrainSpec) -> str | None:
    name = spec.sample_weight
    if name is None:
        return None
    pointer = "#/sample_weight"
    what = noun_of(schema)
    if name not in schema.names:
        raise SpecError(
            f"there is no {what} {name!r}; these exist: {', '.join(listed(schema.names))}",
            pointer=pointer,
        )
    (item,) = items_of(schema, [name])
    if isinstance(item, Array):
        if len(item.shape) > 2 or item.dtype == "text":
            raise SpecError(
                f"array {name!r} must hold one number for each row, or for each step of a row",
                pointer=pointer,
            )
        return name
    if item.type not in ("number", "integer", "boolean"):
        raise SpecError(f"column {name!r} holds {item.type}, not weights", pointer=pointer)
    if item.nulls:
        raise SpecError(f"column {name!r} has {item.nulls} missing values", pointer=pointer)
    if item.min is not None and item.min < 0:
        raise SpecError(f"weights are 0 or more; the least is {item.min!r}", pointer=pointer)
    if item.max == 0:
        raise SpecError(f"all weights in column {name!r} are 0", pointer=pointer)
    return name


def _targets(schema: Schema, spec: TrainSpec, weight: str | None) -> tuple[str, ...]:
    if spec.targets is not None:
        matched = match_names(schema, spec.targets, "targets")
        for index, (pattern, names) in enumerate(matched):
            if weight in names and pattern == weight:
                raise SpecError(
                    f"{weight!r} is the sample weight; it cannot be a target too",
                    pointer=f"#/targets/{index}",
                )
        targets = union(names for _, names in matched)
        targets = tuple(name for name in targets if name != weight)
        if not targets:
            raise SpecError("the patterns match the sample weight only", pointer="#/targets")
        return targets
    if schema.kind == "table":
        taken = {weight, *series_columns(spec)}
        names = tuple(name for name in schema.names if name not in taken)
        if not names:
            raise SpecError("no column is left to be a target", pointer="#/targets")
        return names[-1:]
    return (_default_array(schema, "y", "targets"),)


def _inputs(
    schema: Schema,
    spec: TrainSpec,
    targets: Sequence[str],
    weight: str | None,
    others: Collection[str] = (),
) -> tuple[str, ...]:
    """Return the inputs; without patterns all but targets, weight, and what `others` names.

    The pattern `*` stands for what is read without patterns; a narrower one for all it matches.
    """
    others = () if predicts_ahead(spec) else others
    taken = {weight} if predicts_ahead(spec) else {*targets, weight}
    series = series_columns(spec)
    if spec.inputs is None:
        if schema.kind == "arrays":
            return _default_inputs(schema, spec, taken)
        taken |= _dividing(schema, spec) | series | set(others)
        taken |= set(uncategorised(schema, spec))
        inputs = tuple(name for name in schema.names if name not in taken)
        if not inputs:
            raise SpecError("no column is left to be an input", pointer="#/inputs")
        return inputs
    matched = match_names(schema, spec.inputs, "inputs")
    for index, (pattern, names) in enumerate(matched):
        left = [name for name in names if name not in taken | (series - {pattern})]
        if (pattern in taken and pattern in names) or not left:
            role = "the sample weight" if weight in names else "a target"
            raise SpecError(
                f"{pattern!r} is {role}; it cannot be an input too"
                if pattern in taken
                else f"pattern {pattern!r} matches nothing but targets, the sample weight, and the "
                "columns of `sequence`, which are inputs where they are named",
                pointer=f"#/inputs/{index}",
            )
    taken |= series - set(spec.inputs)
    wanted = (
        [name for name in names if pattern != "*" or name not in others]
        for pattern, names in matched
    )
    inputs = tuple(name for name in union(wanted) if name not in taken)
    if not inputs:
        raise SpecError("no column is left to be an input", pointer="#/inputs")
    return inputs


def uncategorised(schema: Schema, spec: TrainSpec) -> tuple[str, ...]:
    """Return the texts that are keys or prose, which are no inputs unless the spec names them."""
    if spec.inputs is not None or schema.kind != "table":
        return ()
    return tuple(
        column.name
        for column in schema.columns
        if column.type == "text" and len(column.categories or ()) >= MAX_CATEGORIES
    )


def _dividing(schema: Schema, spec: TrainSpec) -> set[str]:
    """Return the columns (arrays) by which rows are divided; they are no inputs unless named."""
    validation = spec.validation
    if not isinstance(validation, ValidationSpec):
        return set()
    for key in ("group", "time", "stratify"):
        name = getattr(validation, key)
        if isinstance(name, str) and name not in schema.names:
            raise SpecError(
                f"there is no {noun_of(schema)} {name!r}; these exist: "
                f"{', '.join(listed(schema.names))}",
                pointer=f"#/validation/{key}",
            )
    return {name for name in (validation.group, validation.time) if name is not None}


def _default_inputs(
    schema: Schema, spec: TrainSpec, taken: Collection[str | None]
) -> tuple[str, ...]:
    """Return the arrays that the input layers name, by `columns` or their own names; else `x`."""
    named: dict[str, None] = {}
    left = tuple(name for name in schema.names if name not in taken)
    layers = spec.network.input_layers
    for name, index in layers.items():
        columns = spec.network.layers[index].columns
        if columns is not None:
            matches = (n for n in left if any(n == p or fnmatchcase(n, p) for p in columns))
            named |= dict.fromkeys(matches)
        elif len(layers) > 1 and name in left:
            named[name] = None
        else:
            named[_default_array(schema, "x", "inputs")] = None
    return tuple(named) or (_default_array(schema, "x", "inputs"),)


def _default_array(schema: Schema, name: str, role: str) -> str:
    if name not in schema.names:
        raise SpecError(
            f"`{role}` is array {name!r} unless given, and there is none; "
            f"these exist: {', '.join(schema.names)}",
            pointer=f"#/{role}",
        )
    return name


def _form(schema: Schema, spec: TrainSpec, targets: Sequence[str]) -> Form:
    if spec.network.form is not None:
        return spec.network.form
    if len(targets) == 1 and content_of(items_of(schema, targets)[0]) in ("text", "boolean"):
        return "classifier"
    return "regressor"


def _check_inputs(schema: Schema, form: Form, names: Sequence[str]) -> None:
    items = items_of(schema, names)
    if form == "autoencoder":
        _check_reproducible(items, noun_of(schema))
    for item in items:
        dimensions = 4
        if isinstance(item, Array) and item.dtype == "text":
            dimensions = 2
        if isinstance(item, Array) and len(item.shape) > dimensions:
            raise SpecError(
                f"array {item.name!r} has shape {list(item.shape)}; "
                + (
                    "inputs are (rows, features), sequences (rows, steps, features) or images "
                    "(rows, channels, height, width)"
                    if dimensions == 4
                    else "an input of texts is a text for each row, or sequences (rows, steps)"
                ),
                pointer="#/inputs",
            )


def _check_reproducible(items: Sequence[Column | Array], noun: str) -> None:
    """Refuse what an autoencoder cannot give back: its targets are its inputs."""
    bad = [item.name for item in items if content_of(item) in ("text", "datetime")]
    if bad:
        raise SpecError(
            f"{noun}s {some(bad)} hold text or times; an autoencoder's inputs, which are its "
            "targets, are numbers and booleans: choose others by `inputs`, or send them as numbers",
            pointer="#/inputs",
        )
    check_nulls(items, "inputs", "an autoencoder's inputs, which are its targets,")


def _check_targets(schema: Schema, form: Form, names: Sequence[str]) -> None:
    items = items_of(schema, names)
    check_nulls(items, "targets", "targets")
    times = [item.name for item in items if content_of(item) == "datetime"]
    if times:
        raise SpecError(
            f"columns {some(times)} hold times; targets are numbers, or class labels",
            pointer="#/targets",
        )
    dimensions = 2 if form == "classifier" else 4
    for item in items:
        if isinstance(item, Array) and len(item.shape) > dimensions:
            raise SpecError(
                f"array {item.name!r} has shape {list(item.shape)}; "
                + (
                    "a classifier's labels are one for each row, or (rows, steps)"
                    if dimensions == 2
                    else "targets are (rows, outputs), sequences (rows, steps, outputs) or images"
                ),
                pointer="#/targets",
            )
    if form == "classifier":
        if len(names) != 1:
            raise SpecError(
                f"a classifier has exactly one target; these are {len(names)}: {some(names)}",
                pointer="#/targets",
            )
        return
    text = [item.name for item in items if content_of(item) == "text"]
    if text:
        raise SpecError(
            f"{noun_of(schema)}s {some(text)} hold text; a regressor's targets are numbers "
            "(for class labels take one target and the form `classifier`)",
            pointer="#/targets",
        )
