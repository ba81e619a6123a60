"""What is answered in general, and lists."""

from __future__ import annotations

from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict

__all__ = ["ListView", "View"]

T = TypeVar("T")


class View(BaseModel):
    """Base of what is answered."""

    model_config = ConfigDict(frozen=True)


class ListView(View, Generic[T]):
    """A part of a list, newest first; `after` the last entry's id gives what follows."""

    data: list[T]
    has_more: bool
