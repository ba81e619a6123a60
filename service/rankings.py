"""Rankings: rows of a stored data set by how unsure a model is of them, piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field

from engine.acquisition import predict_spec, scores
from engine.artifact import Model
from engine.batch_acquisition import CONFIGURATIONS, choose
from engine.data.dataset import Data
from engine.errors import DataError, EngineError, StoppedError
from engine.spec import PredictSpec, RankSpec
from engine.streams import STREAM_VERSION
from service.batch import Batch

__all__ = ["RankRequest", "Ranking"]

Numbers = npt.NDArray[np.int64]

MAX_JOINT = 1 << 22
"""Probabilities of candidates for `batch_bald`: passes x rows x classes."""


class RankRequest(RankSpec):
    """Which rows of a stored data set to label next."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "mdl_01k9t3v5rqk2m8xw4c7h1n6b0e",
                    "dataset": "ds_01k9t3v5rqk2m8xw4c7h1n6b0e",
                    "by": "mutual_information",
                    "top_k": 20,
                    "num_samples": 100,
                }
            ]
        }
    )

    model: Annotated[str, Field(min_length=1, max_length=64)]
    """Id or alias of the model."""
    dataset: Annotated[str, Field(min_length=1, max_length=64)]
    """Id of the data set; it needs no targets."""

    def spec(self) -> RankSpec:
        """Return the engine's part of the request."""
        return RankSpec.model_construct(
            **{name: getattr(self, name) for name in RankSpec.model_fields}
        )


class Ranking:
    """A request for a ranking, resolved against its model and data set."""

    def __init__(self, spec: RankSpec, *, seed: int, model: Model, data: Data) -> None:
        """Raise EngineError, with a pointer, for what cannot be ranked so."""
        self.spec = spec
        self.seed = seed
        self._model = model
        self._data = data
        rows = None
        if spec.rows is not None:
            rows = _distinct(spec.rows, data.rows)
        self._predicted = predict_spec(model, spec)
        self._batch = self._of(self._predicted, rows)
        self.plan = self._batch.plan
        self.total = self._batch.total

    @property
    def candidates(self) -> int:
        """How many rows are compared with each other, by `batch_bald`."""
        numbers = self._passes * self.plan.model.graph.size_of(self.plan.model.graph.last.out)
        return min(self.total, max(1, MAX_JOINT // numbers))

    @property
    def flops(self) -> float:
        """About how many floating-point operations it takes."""
        flops, _ = self.plan.cost(self.total)
        if self.spec.by == "batch_bald":
            classes = self.plan.model.graph.size_of(self.plan.model.graph.last.out)
            joint = 2.0 * CONFIGURATIONS * self._passes * self.candidates * classes
            flops += self.plan.cost(self.candidates)[0]
            flops += joint * min(self.spec.top_k, self.candidates)
        return flops

    def run(self, stop: Callable[[], bool], threads: int) -> dict[str, Any]:
        """Return the rows, the least sure first, and what is said of all of them."""
        own: list[npt.NDArray[np.float64]] = []
        ids: list[Numbers] = []
        with _Located():
            for x, numbers in self._batch.parts():
                outputs = self.plan.run(x, numbers, stop=stop, threads=threads)
                own.append(scores(self.spec, outputs, self.plan.model))
                ids.append(numbers)
        found, numbers = np.concatenate(own), np.concatenate(ids)
        order = np.lexsort((numbers, -found))
        if self.spec.by == "batch_bald":
            return self._joint(numbers, found, order, stop, threads)
        data = [
            {"row": int(numbers[at]), "score": float(found[at])}
            for at in order[: self.spec.top_k].tolist()
        ]
        return {"data": data, "candidates": None, "warnings": list(self.plan.warnings)}

    def _joint(
        self,
        numbers: Numbers,
        found: npt.NDArray[np.float64],
        order: Numbers,
        stop: Callable[[], bool],
        threads: int,
    ) -> dict[str, Any]:
        """Choose among the rows that tell most alone: what a label adds is never more than that."""
        places = np.sort(order[: self.candidates])
        rest = order[self.candidates :]
        asked = self._predicted.model_copy(update={"statistics": ("samples",)})
        batch = self._of(asked, numbers[places])
        shares = np.concatenate(
            [
                batch.plan.run(x, ids, stop=stop, threads=threads)["samples"]
                for x, ids in batch.parts()
            ],
            axis=1,
        )

        def go_on() -> None:
            if stop():
                raise StoppedError("the work was asked to stop")

        chosen = list(choose(shares, self.spec.top_k, seed=self.seed, go_on=go_on))
        data, information = [], 0.0
        for each in chosen:
            at = int(places[each.index])
            information += each.gain
            data.append(
                {
                    "row": int(numbers[at]),
                    "score": each.gain,
                    "mutual_information": float(found[at]),
                    "information": information,
                }
            )
        warnings = list(self.plan.warnings)
        if len(rest) and found[rest[0]] > min(each.gain for each in chosen):
            warnings.append(
                f"only the {len(places)} rows with the largest mutual information were compared "
                "with each other, and a row beyond might have told more than the last of these; "
                "ask for fewer rows at a time, or fewer passes"
            )
        if not all(each.is_exact for each in chosen):
            warnings.append(
                f"from some row on scores are means over {CONFIGURATIONS} drawn labels of the rows "
                "before it, of which there are too many"
            )
        return {"data": data, "candidates": len(places), "warnings": warnings}

    @property
    def _passes(self) -> int:
        return self.plan.passes * max(1, len(self._model.members))

    def _of(self, spec: PredictSpec, rows: Numbers | None) -> Batch:
        with _Located():
            return Batch(spec, seed=self.seed, model=self._model, data=self._data, rows=rows)

    def describe(self) -> dict[str, Any]:
        """Return what acted, as an answer of `/predict` says it."""
        plan = self.plan
        return {
            "dropout": plan.dropout(),
            "noise": plan.noise(),
            "drop_connect": plan.drop_connect(),
            "num_samples": plan.num_samples,
            "masks": plan.spec.masks,
            "row_offset": plan.spec.row_offset,
            "stream": STREAM_VERSION,
        }


class _Located:
    """Has errors point into a request whose data set and rows are not within `inputs`."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, EngineError):
            error.pointer = error.pointer.replace("#/inputs", "#", 1)


def _distinct(rows: Sequence[int], count: int) -> Numbers:
    """Return the row numbers, each once; raise DataError for one that there is not."""
    for index, row in enumerate(rows):
        if row >= count:
            raise DataError(
                f"a row number is an integer from 0 to {count - 1}, got {row}",
                pointer=f"#/rows/{index}",
            )
    return np.array(list(dict.fromkeys(rows)), dtype=np.int64)
