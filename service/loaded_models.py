"""Models in memory: the most recently used ones, up to a number of bytes."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor

from engine import artifact
from engine.data.lengths import steps_of
from engine.errors import ArtifactError
from engine.prediction import PredictionPlan
from service.errors import Corrupt, NotFound
from service.kept_plans import KeptPlan
from service.store.blobs import Blobs
from service.store.models import Model

__all__ = ["LoadedModel", "LoadedModels"]

_LOADING = 2  # at once; more would only take turns at the disk
_PLANS = 64


class LoadedModel:
    """A model, and the plans of the requests that came for it last."""

    def __init__(self, model: artifact.Model) -> None:
        self.model = model
        self.steps = steps_of(model.encoding)
        """How many steps the sequences have that it reads; None where it reads none."""
        self._plans: OrderedDict[Hashable, KeptPlan] = OrderedDict()

    def plan(self, key: Hashable, make: Callable[[], PredictionPlan]) -> KeptPlan:
        """Return the plan that was made for this key, or make it; for the event loop alone."""
        kept = self.kept(key)
        if kept is None:
            kept = self._plans[key] = KeptPlan(make())
            if len(self._plans) > _PLANS:
                self._plans.popitem(last=False)
        return kept

    def kept(self, key: Hashable) -> KeptPlan | None:
        """Return the plan that was made for this key, if there is one; likewise."""
        kept = self._plans.get(key)
        if kept is not None:
            self._plans.move_to_end(key)
        return kept


class LoadedModels:
    """Keeps models for as long as they fit; each is loaded once, for all who wait for it.

    A model that is asked for while others have to go stays, however large it is.
    """

    def __init__(self, blobs: Blobs, *, max_bytes: int) -> None:
        self._blobs = blobs
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._models: OrderedDict[str, Future[LoadedModel]] = OrderedDict()
        self._settled: dict[str, LoadedModel] = {}
        """Those of them that are loaded: to ask a future takes longer than to look them up."""
        self._threads = ThreadPoolExecutor(_LOADING, thread_name_prefix="load")

    def peek(self, model_id: str) -> LoadedModel | None:
        """Return a model that is in memory; None where it would have to be loaded."""
        with self._lock:
            loaded = self._settled.get(model_id)
            if loaded is not None:
                self._models.move_to_end(model_id)
            return loaded

    async def load(self, stored: Model) -> LoadedModel:
        """Return the model, loading it in another thread if need be; raises Corrupt."""
        return await asyncio.shield(asyncio.wrap_future(self._future(stored)))

    def get(self, stored: Model) -> artifact.Model:
        """Return the model, for a thread that may wait; raises Corrupt."""
        return self._future(stored).result().model

    def forget(self, model_id: str) -> None:
        """Drop a model that was deleted."""
        with self._lock:
            self._models.pop(model_id, None)
            self._settled.pop(model_id, None)

    def loaded(self) -> tuple[int, int]:
        """Return how many models are in memory, and their bytes."""
        with self._lock:
            sizes = self._sizes()
        return len(sizes), sum(sizes.values())

    def close(self) -> None:
        """End the threads that load."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _future(self, stored: Model) -> Future[LoadedModel]:
        with self._lock:
            future = self._models.get(stored.id)
            if future is not None:
                self._models.move_to_end(stored.id)
                return future
            future = self._models[stored.id] = self._threads.submit(self._load, stored)
        # Called at once where the load is done already, so not with the lock held.
        future.add_done_callback(lambda done: self._settle(stored.id, done))
        return future

    def _load(self, stored: Model) -> LoadedModel:
        try:
            with self._blobs.open(stored.weights) as stream:
                weights = stream.read()
            return LoadedModel(artifact.load_model(stored.document, weights))
        except (ArtifactError, NotFound) as error:
            raise Corrupt(
                f"model {stored.id} cannot be loaded: its stored weights are damaged or missing; "
                "train or import it again"
            ) from error

    def _settle(self, model_id: str, done: Future[LoadedModel]) -> None:
        """Make room after a load; forget one that failed, so that the next asks again."""
        with self._lock:
            if done.cancelled() or done.exception() is not None:
                if self._models.get(model_id) is done:
                    del self._models[model_id]
                return
            if self._models.get(model_id) is done:  # else it was deleted meanwhile
                self._settled[model_id] = done.result()
            sizes = self._sizes()
            excess = sum(sizes.values()) - self._max_bytes
            for name, size in sizes.items():
                if excess <= 0:
                    break
                if name != model_id:
                    del self._models[name]
                    self._settled.pop(name, None)
                    excess -= size

    def _sizes(self) -> dict[str, int]:
        """Return the bytes of each model in memory, the longest unused first."""
        return {
            name: future.result().model.bytes
            for name, future in self._models.items()
            if future.done() and not future.cancelled() and future.exception() is None
        }
