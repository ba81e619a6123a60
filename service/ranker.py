"""Rankings online: from a request to its rows, then to the least sure of them, in their turn."""

from __future__ import annotations

import secrets
import threading
from functools import partial

import orjson

from engine.data import formats
from engine.spec import MAX_SEED
from service.limits import check_work
from service.predictor import Predictor
from service.rankings import Ranking, RankRequest
from service.store.blobs import Blobs
from service.store.datasets import Datasets
from service.turns import Turn

__all__ = ["Ranker"]


class Ranker:
    """Answers ranking requests, in turn with predictions and by the same threads."""

    def __init__(self, *, predictor: Predictor, datasets: Datasets, blobs: Blobs) -> None:
        self._predictor = predictor
        self._datasets = datasets
        self._blobs = blobs

    async def rank(
        self, request: RankRequest, *, viewer: str | None = None, owner: str | None = None
    ) -> bytes:
        """Return the answer; to be cancelled where nobody wants it any more.

        `viewer` is whose model and data set it may name, `owner` the key that asks. Raises
        NotFound, Corrupt, EngineError, TooLarge, or QueueFull where too much waits already.
        """
        stored, loaded = await self._predictor.model(request.model, viewer)

        def prepare() -> tuple[Ranking, float]:
            datasets = self._datasets.seen_by(viewer)
            dataset = datasets.get(request.dataset, pointer="#/dataset")
            ranking = Ranking(
                request.spec(),
                seed=request.seed if request.seed is not None else secrets.randbelow(MAX_SEED + 1),
                model=loaded.model,
                data=self._blobs.load(dataset.blob, partial(formats.load, kind=dataset.kind)),
            )
            work = f"{ranking.total} rows x {ranking.plan.passes} passes, ranked by {request.by}"
            return ranking, check_work(work, ranking.flops)

        ranking, flops = await self._predictor.read(prepare)
        stop = threading.Event()

        def rank(threads: int) -> bytes:
            shows_seed = request.seed is not None or ranking.plan.draws
            answer = {
                "model": stored.id,
                "dataset": request.dataset,
                "by": request.by,
                "rows": ranking.total,
                **ranking.run(stop.is_set, threads),
                **ranking.describe(),
                "seed": ranking.seed if shows_seed else None,
            }
            return orjson.dumps(answer)

        return await self._predictor.turns.take(
            Turn(flops=flops, held=0, alone=rank, owner=owner, stop=stop)
        )
