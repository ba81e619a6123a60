"""Predictions: from a request to its plan and rows, then to its answer, inline or in its turn."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import AsyncGenerator, Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from engine.data.dataset import Data
from engine.data.inputs import Inputs
from engine.data.lengths import given_steps, steps_of, stored_steps
from engine.ensembles import plan_model
from engine.errors import DataError
from engine.explanation import plan_explanation
from engine.generation import plan_generation
from engine.prediction import PredictionPlan
from engine.spec import MAX_SEED
from service.errors import Corrupt
from service.kept_plans import KeptPlan
from service.latencies import Latencies, Took
from service.limits import check_explanation, check_generation, check_size
from service.loaded_models import LoadedModel, LoadedModels
from service.prepared import INLINE_BYTES, PredictRequest, Prepared
from service.repeats import Repeats
from service.store.blobs import Blobs
from service.store.models import Model, Models
from service.stored_inputs import StoredData, is_stored, row_numbers
from service.turns import Joinable, Turn, Turns

__all__ = ["Predictor"]

T = TypeVar("T")


class Predictor:
    """Answers prediction requests: small ones at once, others in threads, a bounded number."""

    def __init__(
        self,
        *,
        models: Models,
        stored: StoredData,
        blobs: Blobs,
        max_bytes: int,
        max_running: int,
        max_waiting: int,
        max_waiting_bytes: int,
        max_wait_s: float = 30.0,
        max_run_s: float = 600.0,
    ) -> None:
        self.loaded = LoadedModels(blobs, max_bytes=max_bytes)
        self.turns = Turns(
            max_running=max_running,
            max_waiting=max_waiting,
            max_waiting_bytes=max_waiting_bytes,
            max_wait_s=max_wait_s,
            max_run_s=max_run_s,
        )
        self.latencies = Latencies()
        self.repeats = Repeats(models, self.loaded, self.latencies)
        self._models = models
        self._stored = stored
        # For reading large inputs, which no prediction has to wait for.
        self._readers = ThreadPoolExecutor(max_running, thread_name_prefix="read")

    def close(self) -> None:
        """Stop what runs, and end the threads."""
        self.turns.close()
        self.loaded.close()
        self._readers.shutdown(wait=False, cancel_futures=True)

    def at_once(self, ready: Prepared) -> bytes:
        """Answer a small request in this thread."""
        began = time.perf_counter()
        outputs = ready.plan.run(ready.x, ready.row_ids)
        answer = ready.content_of(outputs, time.perf_counter() - began)
        self._count(ready)
        return answer

    async def in_turn(self, ready: Prepared, arrived: float, *, owner: str | None = None) -> bytes:
        """Answer a request in a thread; to be cancelled where nobody wants it any more.

        `arrived` is when it came, in `time.monotonic` seconds, `owner` the key that asks. Raises
        EngineError, or QueueFull where too much waits already.
        """
        stop = threading.Event()
        joinable = None
        if ready.generation is None and ready.explanation is None:
            joinable = Joinable(
                key=ready.plan.batch_key,
                plan=ready.plan,
                x=ready.x,
                row_ids=ready.row_ids,
                finish=ready.content_of,
            )
        turn = Turn(
            flops=ready.flops,
            held=ready.held,
            alone=partial(ready.compute, stop.is_set, ready.deadline(arrived)),
            joinable=joinable,
            owner=owner,
            stop=stop,
        )
        answer = await self.turns.take(turn)
        self._count(ready, turn)
        return answer

    async def estimates(
        self,
        request: PredictRequest,
        *,
        size: int,
        arrived: float,
        viewer: str | None = None,
        owner: str | None = None,
    ) -> AsyncGenerator[tuple[str, bytes], None]:
        """Return `estimate` after `estimate` as it sharpens, then the `result`, in its turn.

        What is wrong with the request is raised before the first of them.
        """
        ready = await self.prepare(request, size=size, viewer=viewer)
        loop = asyncio.get_running_loop()
        told: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        stop = threading.Event()

        def tell(content: bytes) -> None:
            loop.call_soon_threadsafe(told.put_nowait, ("estimate", content))

        compute = partial(ready.sharpen, stop.is_set, ready.deadline(arrived), tell)
        turn = Turn(flops=ready.flops, held=ready.held, alone=compute, owner=owner, stop=stop)
        return _follow(self.turns, turn, told, partial(self._count, ready, turn))

    def _count(self, ready: Prepared, turn: Turn[bytes] | None = None) -> None:
        """Count what a prediction that is answered took."""
        took = ready.took
        waited_s = 0.0 if turn is None else turn.waited_s
        self.latencies.add(waited_s, took.compute_s, took.encode_s, took.passes)

    # -- from a request to plan and rows -----------------------------------------------------------

    async def prepare(
        self,
        request: PredictRequest,
        *,
        size: int,
        key: Hashable = None,
        viewer: str | None = None,
    ) -> Prepared:
        """Resolve a request of `size` bytes: its model, plan and rows; large ones in a thread.

        `key` is of all in the request but model, inputs, seed and row offset; with one the plan is
        kept for the next. `viewer` is whose models and data sets it may name. Raises NotFound,
        Corrupt, EngineError or TooLarge.
        """
        stored, loaded = await self.model(request.model, viewer)
        data = partial(self._stored.seen_by(viewer).of, request.inputs)
        if size <= INLINE_BYTES and not is_stored(request.inputs):
            return self._prepare(request, key, stored, loaded, data)
        return await self.read(partial(self._prepare, request, None, stored, loaded, data))

    def prepare_at_once(
        self, request: PredictRequest, key: Hashable, viewer: str | None = None
    ) -> Prepared | None:
        """Do what `prepare` does of a small request; None where it would have to wait."""
        stored = self._models.find(request.model, viewer=viewer)
        loaded = self.loaded.peek(stored.id)
        if loaded is None or is_stored(request.inputs):
            return None
        return self._prepare(request, key, stored, loaded, lambda: None)

    async def parse(self, size: int, parse: Callable[[], T]) -> T:
        """Return what a body of `size` bytes is parsed to; large ones in a thread."""
        return parse() if size <= INLINE_BYTES else await self.read(parse)

    async def read(self, work: Callable[[], T]) -> T:
        """Return what `work`, which reads much, returns from a thread of its own."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    async def model(self, name: str, viewer: str | None = None) -> tuple[Model, LoadedModel]:
        """Return the model of this id or alias that `viewer` sees. Raises NotFound or Corrupt."""
        stored = self._models.find(name, viewer=viewer)
        loaded = self.loaded.peek(stored.id)
        if loaded is not None:
            return stored, loaded
        try:
            return stored, await self.loaded.load(stored)
        except Corrupt:
            again = self._models.seen_by(viewer).resolve(name)  # NotFound if it was deleted since
            if again.id == stored.id:
                raise
            return again, await self.loaded.load(again)  # the alias has moved on

    def _prepare(
        self,
        request: PredictRequest,
        key: Hashable | None,
        stored: Model,
        loaded: LoadedModel,
        read: Callable[[], Data | None],
    ) -> Prepared:
        """Make the plan, or find it by its key, and encode the rows, of the data set if `read`."""
        began = time.perf_counter()
        data = read()
        trained = loaded.model.encoding
        model = loaded.model
        if request.start is None:
            given = given_steps(trained, request.inputs)
            model = model.of_steps(given if data is None else stored_steps(trained, data))

        def make() -> PredictionPlan:
            return plan_model(model, request.spec(), seed=0)

        if key is None or model is not loaded.model:
            kept = KeptPlan(make())
        else:
            kept = loaded.plan(key, make)
        plan = kept.plan.again(seed=_seed(request, kept), row_offset=request.row_offset)
        generation = None
        if request.generate is not None:
            generation = plan_generation(plan, trained_steps=steps_of(trained))
        x, row_ids = self._rows(plan, request.inputs, data)
        flops = kept.flops(len(x))
        if generation is not None:
            flops = check_generation(generation, len(x))
        explanation = None
        if request.explain:
            explanation = plan_explanation(plan)
            flops = check_explanation(explanation, len(x), flops)
        random = kept.is_stochastic or (generation is not None and generation.draws)
        return Prepared(
            model_id=stored.id,
            kept=kept,
            plan=plan,
            generation=generation,
            explanation=explanation,
            x=x,
            row_ids=row_ids,
            flops=flops,
            shows_seed=random or request.seed is not None,
            shows_rows=data is not None and trained.sequence is not None,
            took=Took(encode_s=time.perf_counter() - began),
        )

    def _rows(
        self, plan: PredictionPlan, inputs: Any, data: Data | None
    ) -> tuple[Inputs, npt.NDArray[np.int64]]:
        """Return the encoded rows and their positions in the random streams."""
        encoding = plan.model.encoding
        if plan.start is not None:
            if data is not None:
                raise DataError(
                    f"with `start` the inputs are values of {plan.start!r}, given as a list of "
                    "rows; a stored data set holds what the input layers read",
                    pointer="#/inputs",
                )
            shape = plan.model.graph.outputs[plan.start]
            x = encoding.encode_values(inputs, plan.start, shape)
            return x, np.arange(len(x), dtype=np.int64)
        if data is None:
            x = encoding.encode_records(inputs)
            return x, np.arange(len(x), dtype=np.int64)
        rows = inputs.get("rows")
        try:
            whole = rows is None
            row_ids = encoding.stored_rows(data) if whole else row_numbers(rows, data.rows)
            check_size(plan, len(row_ids))
            return encoding.encode_inputs(data, row_ids), row_ids
        except DataError as error:
            of_rows = error.pointer.startswith("#/inputs/rows")
            pointer = error.pointer if of_rows else "#/inputs/dataset"
            raise DataError(error.detail, pointer=pointer) from error


def _seed(request: PredictRequest, kept: KeptPlan) -> int:
    """Return the seed that was given, else one that is drawn where anything may depend on it."""
    if request.seed is not None:
        return request.seed
    draws = kept.is_stochastic or request.generate is not None
    return secrets.randbelow(MAX_SEED + 1) if draws else 0


async def _follow(
    turns: Turns,
    turn: Turn[bytes],
    told: asyncio.Queue[tuple[str, bytes]],
    count: Callable[[], None],
) -> AsyncGenerator[tuple[str, bytes], None]:
    """Yield what a turn tells until it ends, then its answer; closing this ends the turn."""
    answer = asyncio.ensure_future(turns.take(turn))
    try:
        while not answer.done():
            news = asyncio.ensure_future(told.get())
            await asyncio.wait((answer, news), return_when=asyncio.FIRST_COMPLETED)
            if news.done():
                yield news.result()
            else:
                news.cancel()
        while not told.empty():
            yield told.get_nowait()
        content = answer.result()
        count()
        yield "result", content
    finally:
        answer.cancel()
