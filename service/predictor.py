"""Networks in memory, and the predictions made with them."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Annotated, Any

import anyio
import anyio.to_thread
import numpy as np
import numpy.typing as npt
import orjson
from pydantic import Field

from engine import artifact
from engine.data import formats
from engine.data.dataset import Data
from engine.data.inputs import Inputs
from engine.data.lengths import given_steps, steps_of, stored_steps
from engine.errors import ArtifactError, DataError
from engine.generation import Generation, plan_generation
from engine.prediction import PredictionPlan, plan_prediction
from engine.regularizers import is_stochastic
from engine.spec import MAX_SEED, Nothing, PredictSpec
from engine.streams import STREAM_VERSION
from service.errors import Corrupt, NotFound, QueueFull, TooLarge
from service.store.blobs import Blobs
from service.store.datasets import Datasets
from service.store.models import Model, Models

__all__ = ["LoadedModels", "PredictRequest", "Predictor"]

MAX_FLOPS = 2e12
"""About a minute on one core; 1e6 rows x passes of a small network are a hundredth of it."""
MAX_SAMPLES = 100_000_000
MAX_ANSWER = 20_000_000
"""Numbers in one answer."""


class PredictRequest(PredictSpec):
    """What to predict, with which model, and what to report of it."""

    model: Annotated[str, Field(min_length=1, max_length=64)]
    """Id or alias of the model."""
    inputs: Annotated[
        list[Any] | dict[str, Any],
        Field(examples=[[[0.1, 0.2]], [{"age": 40, "bmi": 23.1}], {"age": [40], "bmi": [23.1]}]),
    ]
    """Rows as lists or objects, one object of columns, or rows of a stored data set."""
    budget_ms: Nothing = None
    tolerance: Nothing = None

    def spec(self) -> PredictSpec:
        """Return the engine's part of the request."""
        return PredictSpec.model_construct(
            **{name: getattr(self, name) for name in PredictSpec.model_fields}
        )


class LoadedModels:
    """The most recently used models, up to a number of bytes; each is loaded once at a time."""

    def __init__(self, blobs: Blobs, *, max_bytes: int) -> None:
        self._blobs = blobs
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._models: OrderedDict[str, Future[artifact.Model]] = OrderedDict()

    def get(self, stored: Model) -> artifact.Model:
        """Return the model, loading it if need be; others are answered in the meantime."""
        with self._lock:
            future = self._models.get(stored.id)
            loads = future is None
            if future is None:
                future = self._models[stored.id] = Future()
            self._models.move_to_end(stored.id)
        if loads:
            try:
                future.set_result(self._load(stored))
            except BaseException as error:
                self.forget(stored.id)
                future.set_exception(error)
                raise
            self._evict(keep=stored.id)
        return future.result()

    def forget(self, model_id: str) -> None:
        """Drop a model that was deleted."""
        with self._lock:
            self._models.pop(model_id, None)

    def loaded(self) -> tuple[int, int]:
        """Return how many models are loaded, and their bytes."""
        with self._lock:
            ready = [f.result() for f in self._models.values() if f.done() and not f.exception()]
        return len(ready), sum(model.network.bytes for model in ready)

    def _load(self, stored: Model) -> artifact.Model:
        try:
            with self._blobs.open(stored.weights) as stream:
                weights = stream.read()
            return artifact.load_model(stored.document, weights)
        except (ArtifactError, NotFound) as error:
            raise Corrupt(
                f"model {stored.id} cannot be loaded: its stored weights are damaged or missing; "
                "train or import it again"
            ) from error

    def _evict(self, *, keep: str) -> None:
        with self._lock:
            ready = {
                name: future.result().network.bytes
                for name, future in self._models.items()
                if future.done() and not future.exception()
            }
            excess = sum(ready.values()) - self._max_bytes
            for name, size in ready.items():
                if excess <= 0:
                    break
                if name != keep:
                    del self._models[name]
                    excess -= size


class Predictor:
    """Answers prediction requests, a bounded number of them at once."""

    def __init__(
        self,
        *,
        models: Models,
        datasets: Datasets,
        blobs: Blobs,
        max_bytes: int,
        max_running: int,
        max_waiting: int,
        max_wait_s: float = 30.0,
    ) -> None:
        self.loaded = LoadedModels(blobs, max_bytes=max_bytes)
        self._models = models
        self._datasets = datasets
        self._blobs = blobs
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._max_wait_s = max_wait_s
        self._turns = anyio.Semaphore(max_running)
        # Threads of their own: waiting for these is no reason to keep any other route waiting.
        self._threads = anyio.CapacityLimiter(max_running)

    async def answer(self, request: PredictRequest, stop: threading.Event) -> bytes:
        """Answer a request as JSON, in its turn.

        Setting `stop` ends the work with StoppedError. Raises NotFound, EngineError, TooLarge, or
        QueueFull when too many wait already, or this one has for too long.
        """
        waiting = self._turns.statistics().tasks_waiting
        if waiting >= self._max_waiting:
            raise QueueFull(
                f"{waiting} predictions are waiting already; try again shortly", retry_after_s=1
            )
        try:
            with anyio.fail_after(self._max_wait_s):
                await self._turns.acquire()
        except TimeoutError as error:
            raise QueueFull(
                f"other predictions took all turns for {self._max_wait_s:g} s; try again later",
                retry_after_s=5,
            ) from error
        try:
            return await anyio.to_thread.run_sync(
                self._content, request, stop, limiter=self._threads
            )
        finally:
            self._turns.release()

    def _content(self, request: PredictRequest, stop: threading.Event) -> bytes:
        # The numbers are arrays still: they are written once, straight from memory.
        return orjson.dumps(
            self.predict(request, stop=stop.is_set), option=orjson.OPT_SERIALIZE_NUMPY
        )

    def predict(
        self, request: PredictRequest, *, stop: Callable[[], bool] = lambda: False
    ) -> dict[str, Any]:
        """Answer in this thread; raises NotFound, EngineError, TooLarge or StoppedError."""
        stored, model = self._model(request.model)
        seed = request.seed if request.seed is not None else secrets.randbelow(MAX_SEED + 1)
        data = self._data(request.inputs)
        trained = model.encoding
        if request.start is None:
            given = given_steps(trained, request.inputs)
            model = model.of_steps(given if data is None else stored_steps(trained, data))
        plan = plan_prediction(model, request.spec(), seed=seed)
        generation = None
        if request.generate is not None:
            generation = plan_generation(plan, trained_steps=steps_of(trained))
        x, row_ids = self._rows(plan, request.inputs, data)
        _check_size(plan, len(x))
        if generation is None:
            outputs = plan.run(x, row_ids, stop=stop)
        else:
            _check_generation(generation, len(x))
            outputs = generation.run(x, row_ids, stop=stop)
        random = is_stochastic(plan.regularizers) or (generation is not None and generation.draws)
        answer = _answer(stored.id, plan, outputs)
        answer["seed"] = seed if random or request.seed is not None else None
        if data is not None and trained.sequence is not None:
            answer["rows"] = row_ids.tolist()
        return answer

    def _model(self, name: str) -> tuple[Model, artifact.Model]:
        stored = self._models.resolve(name)
        try:
            return stored, self.loaded.get(stored)
        except Corrupt:
            again = self._models.resolve(name)  # NotFound if it was deleted since
            if again.id == stored.id:
                raise
            return again, self.loaded.get(again)  # the alias has moved on

    def _data(self, inputs: Any) -> Data | None:
        """Return the stored data set that `inputs` name; None where they hold the rows."""
        if not isinstance(inputs, Mapping) or not isinstance(inputs.get("dataset"), str):
            return None
        unknown = set(inputs) - {"dataset", "rows"}
        if unknown:
            raise DataError(
                f"`inputs` from a data set take `dataset` and `rows`, not {sorted(unknown)[0]!r}",
                pointer="#/inputs",
            )
        dataset = self._datasets.get(inputs["dataset"], pointer="#/inputs/dataset")
        return self._blobs.load(dataset.blob, partial(formats.load, kind=dataset.kind))

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
            row_ids = encoding.stored_rows(data) if whole else _row_numbers(rows, data.rows)
            _check_size(plan, len(row_ids))
            return encoding.encode_inputs(data, row_ids), row_ids
        except DataError as error:
            of_rows = error.pointer.startswith("#/inputs/rows")
            pointer = error.pointer if of_rows else "#/inputs/dataset"
            raise DataError(error.detail, pointer=pointer) from error


def _answer(model_id: str, plan: PredictionPlan, outputs: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model": model_id,
        "outputs": _plain(outputs),
        "dropout": plan.dropout(),
        "noise": plan.noise(),
        "drop_connect": plan.drop_connect(),
        "num_samples": plan.num_samples,
        "seed": None,
        "masks": plan.spec.masks,
        "row_offset": plan.spec.row_offset,
        "stopped_by": None if plan.num_samples is None else "num_samples",
        "stream": STREAM_VERSION,
        "warnings": plan.warnings,
    }


def _row_numbers(rows: Any, count: int) -> npt.NDArray[np.int64]:
    if not isinstance(rows, list) or not rows:
        raise DataError(
            "`rows` is a non-empty list of row numbers, counted from 0", pointer="#/inputs/rows"
        )
    for index, row in enumerate(rows):
        if isinstance(row, bool) or not isinstance(row, int) or not 0 <= row < count:
            raise DataError(
                f"a row number is an integer from 0 to {count - 1}, got {row!r:.50}",
                pointer=f"#/inputs/rows/{index}",
            )
    return np.array(rows, dtype=np.int64)


def _check_size(plan: PredictionPlan, rows: int) -> None:
    """Refuse what is too large for an online answer, naming the limit."""
    flops, samples = plan.cost(rows)
    work = f"{rows} rows x {plan.passes} passes"
    advice = (
        "take POST /predictions, which does the same for a stored data set as a job, or ask for "
        "fewer rows or passes at a time (`row_offset` keeps the random streams)"
    )
    if flops > MAX_FLOPS or samples > MAX_SAMPLES:
        share = max(flops / MAX_FLOPS, samples / MAX_SAMPLES)
        raise TooLarge(
            f"{work} are too much for an online answer, {share:.3g} times the limit of "
            f"{MAX_FLOPS:g} operations and {MAX_SAMPLES} samples of this network; {advice}"
        )
    numbers = plan.answer_size(rows)
    if numbers > MAX_ANSWER:
        raise TooLarge(
            f"the answer would hold about {numbers} numbers, and at most {MAX_ANSWER} are sent; "
            f"{advice}, or for fewer `statistics` and `outputs`"
        )


def _check_generation(generation: Generation, rows: int) -> None:
    """Refuse sequences that take too long to go on with online, naming the limit."""
    flops = generation.cost(rows)
    if flops > MAX_FLOPS:
        raise TooLarge(
            f"{generation.spec.steps} steps of {rows} sequences are too much for an online answer, "
            f"{flops / MAX_FLOPS:.3g} times the limit of {MAX_FLOPS:g} operations of this network; "
            "ask for fewer, and go on from what they end with"
        )
    numbers = rows * generation.spec.steps
    if numbers > MAX_ANSWER:
        raise TooLarge(
            f"the answer would hold {numbers} labels, and at most {MAX_ANSWER} are sent; ask for "
            "fewer `steps` or sequences"
        )


def _plain(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Make arrays ready for JSON: float64, C-contiguous; labels as lists."""
    plain: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            plain[name] = _plain(value)
        elif value.dtype == object:
            plain[name] = value.tolist()
        else:
            plain[name] = np.ascontiguousarray(value, dtype=np.float64)
    return plain
