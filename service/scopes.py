"""Scopes: who calls, and what a key has to allow for each route, by method and path alone.

Looked up before anything else of a request is: a route that is not listed here needs `admin`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.store.keys import Scope
from service.store.quotas import NO_QUOTAS, Quotas

__all__ = ["Caller", "actor_of", "caller_of", "is_prediction", "needed_scopes", "viewer_of"]

_ANY: tuple[Scope, ...] = ("predict", "train", "admin")
_READ: tuple[Scope, ...] = ("predict", "train")
"""Also of jobs and data sets: a prediction of many rows is the one, and leaves the other. And what
became of predictions is told by those who made them."""
_CHANGED_BY_TRAINING = frozenset({"datasets", "models", "aliases", "jobs", "train"})
_PREDICTING = frozenset({"predict", "predictions", "rank", "evaluate", "evaluations"})
_ONLINE = frozenset({"/predict", "/rank", "/evaluate"})
_TOLD_TO_ALL = frozenset({"metrics", "capabilities"})


@dataclass(frozen=True)
class Caller:
    """Who has come in with a key, and what the key allows."""

    id: str
    """Of the key; what the caller makes belongs to it."""
    scopes: tuple[Scope, ...]
    quotas: Quotas = NO_QUOTAS

    @property
    def is_admin(self) -> bool:
        """Whether everything is allowed, with what belongs to other keys, too."""
        return "admin" in self.scopes

    @property
    def viewer(self) -> str | None:
        """Whose things the store is to show: see `service.store.visibility`."""
        return None if self.is_admin else self.id

    def may(self, needed: tuple[Scope, ...]) -> bool:
        """Whether the key has one of these scopes, or all."""
        return self.is_admin or any(scope in self.scopes for scope in needed)


def caller_of(scope: Mapping[str, Any]) -> Caller | None:
    """Return who made the request of this ASGI scope; None where no key is asked for."""
    caller: Caller | None = scope.get("bernoulli.caller")
    return caller


def actor_of(scope: Mapping[str, Any]) -> str | None:
    """Return the id of the key that the request of this ASGI scope came with; None without keys."""
    caller = caller_of(scope)
    return None if caller is None else caller.id


def viewer_of(scope: Mapping[str, Any]) -> str | None:
    """Return whose things the request of this ASGI scope may see; None for all."""
    caller = caller_of(scope)
    return None if caller is None else caller.viewer


def is_prediction(method: str, path: str) -> bool:
    """Whether a request is answered by a prediction, which a key may have so many of a minute."""
    return method == "POST" and path in _ONLINE


def needed_scopes(method: str, path: str) -> tuple[Scope, ...]:
    """Return the scopes of which a key needs one; `admin` stands for all of them."""
    first, *others = path.strip("/").split("/")
    if first in _TOLD_TO_ALL:
        return _ANY
    if first in _PREDICTING:
        return ("predict",)
    if first in _CHANGED_BY_TRAINING:
        is_read = method in ("GET", "HEAD") and first != "train"
        is_cancel = first == "jobs" and others[1:] == ["cancel"]
        is_told = first == "models" and others[1:] == ["feedback"] and method == "POST"
        return _READ if is_read or is_cancel or is_told else ("train",)
    return ("admin",)
