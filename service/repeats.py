"""Requests like earlier ones, in all but rows and seed: answered without checking the rest anew."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Hashable, Mapping
from time import perf_counter
from typing import Any

from engine.spec import MAX_SEED
from service.latencies import Latencies
from service.loaded_models import LoadedModels
from service.store.models import Model, Models

__all__ = ["Repeats"]


class Repeats:
    """Answers to requests whose plan was made before; for the event loop alone."""

    def __init__(self, models: Models, loaded: LoadedModels, latencies: Latencies) -> None:
        self._models = models
        self._latencies = latencies
        self._loaded = loaded
        self._found: dict[tuple[str | None, str], Model] | None = None

    def answer(
        self, request: Mapping[str, Any], key: Hashable, viewer: str | None = None
    ) -> bytes | None:
        """Answer a small request that differs from an earlier one in rows and seed alone.

        `request` is parsed and not checked yet, `key` and `viewer` as for `prepare`: what the key
        is of was good in that other request, and is so here. None where there was none, or where
        anything else is to be looked at, in the way that others go. Raises EngineError, NotFound or
        TooLarge.
        """
        began = perf_counter()
        name, inputs = request.get("model"), request.get("inputs")
        seed, row_offset = request.get("seed"), request.get("row_offset", 0)
        if type(name) is not str or type(inputs) is not list or not _is_index(row_offset):
            return None
        if seed is not None and not _is_index(seed):
            return None
        stored = self._find(name, viewer)
        loaded = self._loaded.peek(stored.id)
        kept = None if loaded is None or loaded.steps is not None else loaded.kept(key)
        if loaded is None or kept is None or kept.plan.start is not None:
            return None
        x = loaded.model.encoding.encode_records(inputs)
        if not kept.is_small(x) or loaded.model.encoding.ranges.outside(x) is not None:
            return None
        if seed is None and kept.is_stochastic:
            seed = secrets.randbelow(MAX_SEED + 1)
        plan = kept.plan.again(seed=seed or 0, row_offset=row_offset)
        row_ids = kept.row_ids(len(x))
        read = perf_counter()
        outputs = plan.outputs(x, row_ids + row_offset if row_offset else row_ids)
        computed = perf_counter()
        content = kept.written(stored.id, outputs, seed=seed, row_offset=row_offset)
        encode_s = read - began + perf_counter() - computed
        passes = plan.passes if kept.is_stochastic else 0
        self._latencies.add(0.0, computed - read, encode_s, passes)
        return content

    def _find(self, name: str, viewer: str | None) -> Model:
        """Return the model; looked up once in a round of the loop.

        All requests of a round were there before it began, and whoever has been told of a change
        was told in an earlier one: they see it.
        """
        if self._found is None:
            self._found = {}
            asyncio.get_running_loop().call_soon(self._end_round)
        model = self._found.get((viewer, name))
        if model is None:
            model = self._found[viewer, name] = self._models.find(name, viewer=viewer)
        return model

    def _end_round(self) -> None:
        self._found = None


def _is_index(value: Any) -> bool:
    """Whether it is a seed, or the position of a row, as requests have to have them."""
    return type(value) is int and 0 <= value <= MAX_SEED
