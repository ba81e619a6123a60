"""Variants: a job's spec with some of its fields, named by dotted paths, set to other values."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pydantic

from engine.errors import SpecError
from engine.spec import RangeSpec, SearchSpec, TrainSpec, ValidationSpec
from engine.streams import generator

__all__ = ["FIXED", "InvalidVariantError", "Variant", "spec_of", "variants_of"]

FIXED = (
    *("inputs", "targets", "columns", "sample_weight", "rows", "sequence", "validation"),
    *("calibrate", "device"),
)
"""Fields that are the same in all variants: what decides the rows, and where these are."""
_MAPS = ("dropout", "noise", "monitors", "noise_precision")
"""Fields whose keys may hold dots."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What is different in one variant."""

    index: int
    overrides: dict[str, Any]
    """Values by path."""
    places: Mapping[str, str] = field(repr=False)
    """Where the request gives each path's value: pointers."""

    def located(self, pointer: str) -> str:
        """Return where the request has what stands at `pointer` in the variant's own spec."""
        tokens = tuple(pointer.removeprefix("#/").replace("~1", "/").replace("~0", "~").split("/"))
        for path, place in self.places.items():
            own = tokens_of(path)
            if tokens[: len(own)] == own:
                return "/".join([place, *map(_escaped, tokens[len(own) :])])
            if own[: len(tokens)] == tokens:
                return place
        return pointer


class InvalidVariantError(SpecError):
    """A variant whose values their fields do not take."""

    def __init__(
        self, variant: Variant, document: Mapping[str, Any], found: Sequence[Mapping[str, Any]]
    ) -> None:
        """`found` is what pydantic says of the variant's whole `document`."""
        place = next(iter(variant.places.values()), "#/search")
        super().__init__(
            f"variant {variant.index}: its fields do not take these values", pointer=place
        )
        self.variant = variant
        self.document = document
        self.found = found


def tokens_of(path: str) -> tuple[str, ...]:
    """Split a path: at dots, but what follows the name of a map is one key."""
    head, _, rest = path.partition(".")
    return (head, rest) if rest and head in _MAPS else tuple(path.split("."))


def _escaped(token: str) -> str:
    return token.replace("~", "~0").replace("/", "~1")


def variants_of(search: SearchSpec, *, seed: int) -> list[Variant]:
    """Return all variants, in order; raises SpecError for paths that may not vary."""
    variants = []
    for index, (overrides, places) in enumerate(_overrides(search, seed)):
        for path, place in places.items():
            _check_path(path, place, overrides)
        variants.append(Variant(index=index, overrides=overrides, places=places))
    return variants


def _overrides(search: SearchSpec, seed: int) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
    if search.variants is not None:
        for index, overrides in enumerate(search.variants):
            yield (
                dict(overrides),
                {path: f"#/search/variants/{index}/{_escaped(path)}" for path in overrides},
            )
    elif search.grid is not None:
        for positions in itertools.product(*(range(len(v)) for v in search.grid.values())):
            chosen = dict(zip(search.grid, positions, strict=True))
            yield (
                {path: search.grid[path][position] for path, position in chosen.items()},
                {path: f"#/search/grid/{_escaped(path)}/{at}" for path, at in chosen.items()},
            )
    else:
        assert search.random is not None
        for index in range(search.random.num_variants):
            overrides, places = {}, {}
            for path, distribution in search.random.distributions.items():
                overrides[path], at = _drawn(distribution, seed, index, path)
                places[path] = f"#/search/random/distributions/{_escaped(path)}{at}"
            yield overrides, places


def _drawn(
    distribution: RangeSpec | tuple[Any, ...], seed: int, index: int, path: str
) -> tuple[Any, str]:
    """Draw a value, as a function of seed, variant and path alone; say which of several it is."""
    share = float(generator(seed, "search", index, path).random())
    if isinstance(distribution, tuple):
        position = int(share * len(distribution))
        return distribution[position], f"/{position}"
    low, high = distribution.min, distribution.max
    end = high + 1 if distribution.integer else high
    if distribution.log:
        value = math.exp(math.log(low) + share * (math.log(end) - math.log(low)))
    else:
        value = low + share * (end - low)
    value = min(max(value, low), high if not distribution.integer else high + 0.5)
    return (math.floor(value) if distribution.integer else value), ""


def _check_path(path: str, place: str, overrides: Mapping[str, Any]) -> None:
    head = tokens_of(path)[0]
    taken = [name for name in TrainSpec.model_fields if name not in FIXED]
    if head in FIXED:
        raise SpecError(
            f"{head!r} is the same in all variants, which are compared on the same rows and the "
            f"same device; these may vary: {', '.join(taken)}",
            pointer=place,
        )
    if head not in taken:
        raise SpecError(
            f"a path begins with a field of the job, and {head!r} is none that may vary; these "
            f"may: {', '.join(taken)}",
            pointer=place,
        )
    for other in overrides:
        own, theirs = tokens_of(path), tokens_of(other)
        if other != path and theirs[: len(own)] == own:
            raise SpecError(
                f"{path!r} and {other!r} set the same field; leave one of them out", pointer=place
            )


def spec_of(base: TrainSpec, variant: Variant) -> TrainSpec:
    """Return the whole spec of a variant: what a job alone would be asked with.

    Raises SpecError, with a pointer into the request, for a path that leads nowhere, and its
    InvalidVariantError for values that their fields do not take.
    """
    document = base.model_dump(mode="json", exclude=set(FIXED))
    for path, value in variant.overrides.items():
        _set(document, path, copy.deepcopy(value), variant.places[path])
    fixed: dict[str, Any] = {name: getattr(base, name) for name in FIXED}
    if "seed" in variant.overrides:
        fixed["validation"] = _drawn_by(base)
        if base.calibrate is not None and base.calibrate.seed is None:
            fixed["calibrate"] = base.calibrate.model_copy(update={"seed": base.seed})
    try:
        return TrainSpec.model_validate(document).model_copy(update=fixed)
    except pydantic.ValidationError as error:
        found = error.errors(include_url=False, include_context=True)
        raise InvalidVariantError(variant, document, found) from error


def _drawn_by(base: TrainSpec) -> float | ValidationSpec | None:
    """Return the validation that a draw by the job's own seed is, whatever a variant's seed."""
    validation = base.validation
    if isinstance(validation, ValidationSpec):
        draws = validation.fraction is not None and validation.time is None
        if draws and validation.seed is None:
            return validation.model_copy(update={"seed": base.seed})
        return validation
    if not validation:
        return validation
    return ValidationSpec(fraction=validation, seed=base.seed)


def _set(document: dict[str, Any], path: str, value: Any, place: str) -> None:
    tokens = tokens_of(path)
    container: Any = document
    for depth, token in enumerate(tokens[:-1]):
        if depth == 0 and token in _MAPS and not isinstance(container.get(token), dict):
            container[token] = {}
        container = container[_key(container, token, path, place)]
    key = tokens[-1]
    if isinstance(container, dict):
        container[key] = value
    else:
        container[_key(container, key, path, place)] = value


def _key(container: Any, token: str, path: str, place: str) -> str | int:
    """Return how to index a container by a token; raises SpecError where it has no such thing."""
    if isinstance(container, list):
        if (
            token.isascii()
            and token.isdecimal()
            and len(token) < 10
            and int(token) < len(container)
        ):
            return int(token)
        exist = f"the list has {len(container)} entries, counted from 0"
    elif isinstance(container, dict) and token in container:
        return token
    elif isinstance(container, dict):
        exist = f"there are {', '.join(container) or 'no fields'}"
    else:
        exist = "the job gives no object or list there; set it as a whole"
    raise SpecError(f"the path {path!r} leads nowhere: at {token!r}, {exist}", pointer=place)
