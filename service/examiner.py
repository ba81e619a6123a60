"""Models examined on many rows, whose truths may be known, in turn with predictions."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import orjson

from engine.artifact import Model
from engine.feedback import Feedback
from engine.spec import MAX_SEED
from service.evaluations import EvaluateRequest, answer_of, assess
from service.feedback import Compared, FeedbackRequest, refuse_imported
from service.limits import check_evaluation, check_feedback, check_work
from service.predictor import Predictor
from service.rankings import Ranking, RankRequest
from service.store.models import Model as StoredModel
from service.stored_inputs import StoredData, row_numbers
from service.turns import Turn

__all__ = ["Examiner"]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class _Examination(Generic[T]):
    """Work that has been checked."""

    flops: float
    held: int = 0
    """Bytes of rows that came with the request."""
    do: Callable[[Callable[[], bool], int], T]
    """Do it, with so many threads; where its first argument says so, StoppedError ends it."""


class Examiner:
    """Answers what takes all passes of many rows, by the threads that predict.

    Its methods are to be cancelled where nobody wants their answers any more. They raise NotFound,
    Corrupt, EngineError, TooLarge, or QueueFull where too much waits already.
    """

    def __init__(self, *, predictor: Predictor, stored: StoredData) -> None:
        self._predictor = predictor
        self._stored = stored
        self._viewer: str | None = None
        self._owner: str | None = None

    def of_caller(self, viewer: str | None, owner: str | None) -> Examiner:
        """The examiner of one caller: what `viewer` sees may be named, `owner` is the key."""
        own = Examiner(predictor=self._predictor, stored=self._stored.seen_by(viewer))
        own._viewer, own._owner = viewer, owner
        return own

    async def evaluate(self, request: EvaluateRequest) -> bytes:
        """Return how good a model is on rows whose truths are known, as JSON."""

        def prepare(stored: StoredModel, model: Model) -> _Examination[bytes]:
            other = request.ood
            assessment = assess(
                request.spec(),
                model=model,
                data=self._stored.load(request.dataset, "#/dataset"),
                other=None if other is None else self._stored.load(other.dataset, "#/ood/dataset"),
                seed=_seed(request.seed),
            )

            def measure(stop: Callable[[], bool], threads: int) -> bytes:
                assessment.run(stop, threads)
                answer = answer_of(
                    assessment,
                    model_id=stored.id,
                    dataset_id=request.dataset,
                    is_seed_given=request.seed is not None,
                )
                return orjson.dumps(answer)

            return _Examination(flops=check_evaluation(assessment), do=measure)

        return await self._examined(request.model, prepare)

    async def rank(self, request: RankRequest) -> bytes:
        """Return the rows that a model is least sure of, as JSON."""

        def prepare(stored: StoredModel, model: Model) -> _Examination[bytes]:
            ranking = Ranking(
                request.spec(),
                seed=_seed(request.seed),
                model=model,
                data=self._stored.load(request.dataset, "#/dataset"),
            )
            work = f"{ranking.total} rows x {ranking.plan.passes} passes, ranked by {request.by}"

            def rank(stop: Callable[[], bool], threads: int) -> bytes:
                shows_seed = request.seed is not None or ranking.plan.draws
                answer: dict[str, Any] = {
                    "model": stored.id,
                    "dataset": request.dataset,
                    "by": request.by,
                    "rows": ranking.total,
                    **ranking.run(stop, threads),
                    **ranking.describe(),
                    "seed": ranking.seed if shows_seed else None,
                }
                return orjson.dumps(answer)

            advice = (
                "ask for fewer `rows` or passes at a time, or take POST /predictions, whose data "
                "set has the statistics of all rows"
            )
            return _Examination(flops=check_work(work, ranking.flops, advice), do=rank)

        return await self._examined(request.model, prepare)

    async def compare(self, name: str, request: FeedbackRequest) -> Compared:
        """Return what a model's own predictions of rows come to, whose truths are told."""

        def prepare(stored: StoredModel, model: Model) -> _Examination[Compared]:
            refuse_imported(stored.document)
            data = self._stored.of(request.inputs)
            rows = None
            if data is not None and isinstance(request.inputs, dict):
                asked = request.inputs.get("rows")
                rows = None if asked is None else row_numbers(asked, data.rows)
                check_feedback(data.rows if rows is None else len(rows))
            feedback = Feedback(
                model,
                request.spec(),
                inputs=request.inputs,
                data=data,
                rows=rows,
                seed=_seed(request.seed),
            )
            work = f"{feedback.rows} rows x {feedback.plan.passes} passes, and their scores"

            def compare(stop: Callable[[], bool], threads: int) -> Compared:
                return Compared(
                    model=stored.id,
                    feedback=feedback,
                    scores=feedback.scores(stop, threads),
                    is_seed_given=request.seed is not None,
                )

            flops = check_work(work, feedback.flops, "send fewer rows at a time")
            return _Examination(flops=flops, held=feedback.held, do=compare)

        return await self._examined(name, prepare)

    async def _examined(
        self, name: str, prepare: Callable[[StoredModel, Model], _Examination[T]]
    ) -> T:
        """Check work on the model of this id or alias in a thread, then do it in its turn."""
        stored, loaded = await self._predictor.model(name, self._viewer)
        work = await self._predictor.read(partial(prepare, stored, loaded.model))
        stop = threading.Event()
        do = partial(work.do, stop.is_set)
        turn = Turn(flops=work.flops, held=work.held, alone=do, owner=self._owner, stop=stop)
        return await self._predictor.turns.take(turn)


def _seed(given: int | None) -> int:
    return secrets.randbelow(MAX_SEED + 1) if given is None else given
