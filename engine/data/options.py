"""How the caller wants columns to be read: the `columns` of a request, by column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from engine.data.schema import Array, Schema
from engine.errors import PatternError, SpecError
from engine.spec import ColumnSpec, Form, TrainSpec

__all__ = ["column_options"]

_LISTED = 50
_CATEGORIES = ("text", "integer", "number", "boolean")


def column_options(
    schema: Schema, spec: TrainSpec, form: Form, inputs: Sequence[str]
) -> dict[str, ColumnSpec]:
    """Return what is asked for each input column that some glob matches.

    Of several globs that match, the later one's keys come first. Raises SpecError, with a pointer,
    for a glob that matches no input, and for what makes no sense for a column's type.
    """
    types: dict[str, str] = {column.name: column.type for column in schema.columns}
    arrays = {array.name: array for array in schema.arrays}
    merged: dict[str, ColumnSpec] = {}
    for pattern, given in spec.columns.items():
        pointer = "#/columns/" + pattern.replace("~", "~0").replace("/", "~1")
        matched = [name for name in inputs if name == pattern or fnmatchcase(name, pattern)]
        if not matched:
            raise PatternError(
                pattern, kind="input column", exist=inputs[:_LISTED], pointer=pointer
            )
        for name in matched:
            options = _merged(merged.get(name), given)
            if name in arrays:
                _check_array(arrays[name], options, form, pointer)
                merged[name] = options
                continue
            _check(name, types[name], options, form, pointer)
            merged[name] = options
    return merged


def _check_array(array: Array, options: ColumnSpec, form: Form, pointer: str) -> None:
    """Of arrays, integers can be read one-hot; all else is as it is."""
    fits = array.dtype == "text" or array.dtype.startswith(("int", "uint"))
    for key in options.model_dump(exclude_none=True):
        if key != "type" or options.type != "category":
            raise SpecError(
                f"{array.name!r} is an array, of which `columns` takes the type 'category' alone",
                pointer=f"{pointer}/{key}",
            )
    if options.type is not None and (not fits or len(array.shape) > 2 or form == "autoencoder"):
        raise SpecError(
            f"array {array.name!r} of shape {list(array.shape)} holds {array.dtype}; categories "
            "are integers or texts, (rows,) or (rows, steps), and no autoencoder's",
            pointer=f"{pointer}/type",
        )


def _merged(before: ColumnSpec | None, given: ColumnSpec) -> ColumnSpec:
    if before is None:
        return given
    keys = {**before.model_dump(exclude_none=True), **given.model_dump(exclude_none=True)}
    if given.missing not in (None, "constant"):
        keys.pop("fill", None)
    return ColumnSpec.model_validate(keys)


def _check(name: str, kind: str, options: ColumnSpec, form: Form, pointer: str) -> None:
    as_category = options.type == "category" or (kind == "text" and options.type is None)
    if form == "autoencoder":
        told: Mapping[str, object] = options.model_dump(exclude_none=True, exclude={"scale"})
        if told:
            raise SpecError(
                "an autoencoder gives its inputs back, so they are numbers without gaps; of "
                "`columns` it takes `scale` alone",
                pointer=f"{pointer}/{next(iter(told))}",
            )
    if options.type == "category" and kind not in _CATEGORIES:
        raise SpecError(
            f"{name!r} holds {kind}, which is not read as categories", pointer=f"{pointer}/type"
        )
    if options.type == "number" and kind == "datetime":
        raise SpecError(
            f"{name!r} holds times, which are read as seconds; leave `type` out",
            pointer=f"{pointer}/type",
        )
    if as_category:
        _check_category(name, options, pointer)
    else:
        _check_number(name, kind, options, pointer)


def _check_category(name: str, options: ColumnSpec, pointer: str) -> None:
    if options.scale is not None:
        raise SpecError(
            f"{name!r} is read as categories, which have no `scale`", pointer=f"{pointer}/scale"
        )
    if options.missing in ("median", "mean"):
        raise SpecError(
            f"{name!r} is read as categories, which have no {options.missing}; take 'mode', "
            "'constant' or 'refuse'",
            pointer=f"{pointer}/missing",
        )


def _check_number(name: str, kind: str, options: ColumnSpec, pointer: str) -> None:
    if options.unknown is not None:
        raise SpecError(
            f"{name!r} is read as numbers, of which none is unknown; give it the type 'category', "
            "or leave `unknown` out",
            pointer=f"{pointer}/unknown",
        )
    if options.fill is not None and isinstance(options.fill, str):
        raise SpecError(
            f"{name!r} is read as numbers; `fill` is one, not a text", pointer=f"{pointer}/fill"
        )
    if isinstance(options.fill, bool) and kind != "boolean":
        raise SpecError(
            f"{name!r} is read as numbers; `fill` is one, not a boolean", pointer=f"{pointer}/fill"
        )
