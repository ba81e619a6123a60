"""Evaluations online: from a request to its rows, then to its scores, in their turn."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from functools import partial

import orjson

from engine.assessment import Assessment
from engine.data import formats
from engine.data.dataset import Data
from engine.spec import MAX_SEED
from service.evaluations import EvaluateRequest, answer_of, assess
from service.limits import check_evaluation
from service.predictor import Predictor
from service.store.blobs import Blobs
from service.store.datasets import Datasets
from service.turns import Turn

__all__ = ["Evaluator"]


class Evaluator:
    """Answers evaluation requests, in turn with predictions and by the same threads."""

    def __init__(self, *, predictor: Predictor, datasets: Datasets, blobs: Blobs) -> None:
        self._predictor = predictor
        self._datasets = datasets
        self._blobs = blobs

    async def evaluate(
        self, request: EvaluateRequest, *, viewer: str | None = None, owner: str | None = None
    ) -> bytes:
        """Return the answer; to be cancelled where nobody wants it any more.

        `viewer` is whose model and data sets it may name, `owner` the key that asks. Raises
        NotFound, Corrupt, EngineError, TooLarge, or QueueFull where too much waits already.
        """
        stored, loaded = await self._predictor.model(request.model, viewer)

        def prepare() -> tuple[Assessment, float]:
            seed = request.seed if request.seed is not None else secrets.randbelow(MAX_SEED + 1)
            assessment = assess(
                request.spec(),
                model=loaded.model,
                data=self.data(request.dataset, "#/dataset", viewer),
                other=None
                if request.ood is None
                else self.data(request.ood.dataset, "#/ood/dataset", viewer),
                seed=seed,
            )
            return assessment, check_evaluation(assessment)

        assessment, flops = await self._predictor.read(prepare)
        stop = threading.Event()
        measure = partial(self._measured, assessment, request, stored.id, stop.is_set)
        return await self._predictor.turns.take(
            Turn(flops=flops, held=0, alone=measure, owner=owner, stop=stop)
        )

    def data(self, dataset_id: str, pointer: str, viewer: str | None = None) -> Data:
        """Return a stored data set that `viewer` sees; NotFound points at `pointer`."""
        dataset = self._datasets.seen_by(viewer).get(dataset_id, pointer=pointer)
        return self._blobs.load(dataset.blob, partial(formats.load, kind=dataset.kind))

    @staticmethod
    def _measured(
        assessment: Assessment,
        request: EvaluateRequest,
        model_id: str,
        stop: Callable[[], bool],
        threads: int,
    ) -> bytes:
        assessment.run(stop, threads)
        answer = answer_of(
            assessment,
            model_id=model_id,
            dataset_id=request.dataset,
            is_seed_given=request.seed is not None,
        )
        return orjson.dumps(answer)
