"""How the caller wants columns to be read: the `columns` of a request, by column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from engine.data.schema import Array, Schema
from engine.data.spelling import seconds_in, writes_dates
from engine.errors import DataError, PatternError, SpecError
from engine.spec import ColumnSpec, Form, TrainSpec

__all__ = ["OptionError", "column_options", "option_pointer"]

_LISTED = 50
_CATEGORIES = ("text", "integer", "number", "boolean")


class OptionError(SpecError):
    """What a column holds in the training rows does not go with what is asked of it.

    `option_pointer` tells which of the globs asked.
    """

    def __init__(self, detail: str, *, column: str, key: str) -> None:
        super().__init__(detail, pointer="#/columns")
        self.column = column
        self.key = key


def option_pointer(spec: TrainSpec, error: OptionError) -> str:
    """Return the pointer to the option of a request that an error is about."""
    for pattern, given in reversed(spec.columns.items()):
        if _matches(error.column, pattern) and getattr(given, error.key) is not None:
            return f"{_pointer(pattern)}/{error.key}"
    return error.pointer


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)


def _pointer(pattern: str) -> str:
    return "#/columns/" + pattern.replace("~", "~0").replace("/", "~1")


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
        pointer = _pointer(pattern)
        matched = [name for name in inputs if _matches(name, pattern)]
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
    if given.missing == "refuse" and given.indicator is None:
        keys.pop("indicator", None)
    if given.indicator is not None and keys.get("missing") == "refuse":
        keys.pop("missing")
    if given.type not in (None, "datetime"):
        keys.pop("format", None)
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
        return
    if options.unknown is not None:
        raise SpecError(
            f"{name!r} is not read as categories, and has no unknown ones; give it the type "
            "'category', or leave `unknown` out",
            pointer=f"{pointer}/unknown",
        )
    if options.type == "datetime" or kind == "datetime":
        _check_time(name, kind, options, pointer)
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


def _check_time(name: str, kind: str, options: ColumnSpec, pointer: str) -> None:
    if kind not in ("text", "datetime"):
        raise SpecError(
            f"{name!r} holds {kind}; times are texts, or are stored as times",
            pointer=f"{pointer}/type",
        )
    if options.format is not None and kind == "datetime":
        raise SpecError(
            f"{name!r} is stored as times already; leave `format` out", pointer=f"{pointer}/format"
        )
    if options.format is not None and not writes_dates(options.format):
        raise SpecError(
            f"{options.format!r} is no format of dates with year, month and day, as "
            "'%d.%m.%Y' or '%m/%d/%Y %H:%M' are",
            pointer=f"{pointer}/format",
        )
    if options.fill is None:
        return
    try:
        if not isinstance(options.fill, str):
            raise DataError("a time is given as a text")
        seconds_in(options.fill, options.format)
    except DataError as error:
        raise SpecError(f"`fill` of {name!r}: {error.detail}", pointer=f"{pointer}/fill") from error


def _check_number(name: str, kind: str, options: ColumnSpec, pointer: str) -> None:
    fill = options.fill
    if isinstance(fill, str):
        raise SpecError(
            f"{name!r} is read as numbers; `fill` is one, not a text", pointer=f"{pointer}/fill"
        )
    if isinstance(fill, bool) and kind != "boolean":
        raise SpecError(
            f"{name!r} is read as numbers; `fill` is one, not a boolean", pointer=f"{pointer}/fill"
        )
    if kind == "boolean" and fill is not None and not 0 <= fill <= 1:
        raise SpecError(
            f"{name!r} holds booleans; `fill` is true, false, or a number from 0 to 1",
            pointer=f"{pointer}/fill",
        )
