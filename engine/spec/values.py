"""What all specs are made of: numbers in their ranges, patterns, and the closed base class."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    Strict,
    model_serializer,
    model_validator,
)

MAX_SEED = 2**53 - 1
MAX_LAYERS = 256
MAX_SIZE = 1_000_000
MAX_ENTRIES = 1000
"""Keys of one map or object; the largest spec has some fifty fields."""


def at_most(count: int) -> BeforeValidator:
    """Refuse what is too large at once, instead of finding each of its entries wrong."""

    def check(value: Any) -> Any:
        if isinstance(value, dict | list | tuple) and len(value) > count:
            raise ValueError(f"must have at most {count} entries, has {len(value)}")
        return value

    return BeforeValidator(check)


Real = Annotated[float, Strict(), Field(allow_inf_nan=False)]
NonNegative = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]
#: A probability of dropping, never of keeping.
Rate = Annotated[float, Strict(), Field(ge=0, lt=1, allow_inf_nan=False)]
Count = Annotated[int, Strict(), Field(ge=1)]
Index = Annotated[int, Strict(), Field(ge=0, le=2**53 - 1)]
Size = Annotated[int, Strict(), Field(ge=1, le=MAX_SIZE)]
Seed = Annotated[int, Strict(), Field(ge=0, le=MAX_SEED)]
#: A shell-style glob, as `fnmatch.fnmatchcase` reads it.
Pattern = Annotated[str, Field(min_length=1, max_length=256)]
#: The name of an output, `hid1:out`, or of a layer for its `out`.
OutputName = Annotated[str, Field(min_length=1, max_length=128)]
DropoutMap = Annotated[dict[Pattern, Rate], Field(max_length=MAX_ENTRIES), at_most(MAX_ENTRIES)]
NoiseMap = Annotated[
    dict[Pattern, NonNegative], Field(max_length=MAX_ENTRIES), at_most(MAX_ENTRIES)
]
Level = Annotated[float, Strict(), Field(allow_inf_nan=False)]
#: A layer's name: a glob-free identifier, so that a name is also the pattern of itself.
LayerName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=64)]


class Spec(BaseModel):
    """Base of every spec: immutable, and closed against unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _is_not_huge(cls, value: Any) -> Any:
        """Refuse an object with very many fields at once, instead of naming each as unknown."""
        if isinstance(value, dict) and len(value) > MAX_ENTRIES:
            raise ValueError(f"must have at most {MAX_ENTRIES} fields, has {len(value)}")
        return value


class SparseSpec(Spec):
    """A spec with many keys, of which each use has few: what is not given is not told either."""

    @model_serializer(mode="wrap")
    def _without_nulls(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value is not None}


Form = Literal["regressor", "classifier", "autoencoder"]
