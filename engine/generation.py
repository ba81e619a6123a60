"""Sequences that a classifier goes on with: each class drawn becomes the next step's input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.data.categories import Categories, spelled
from engine.data.category_arrays import CategoryArray
from engine.data.encoding import Encoding
from engine.data.inputs import Inputs
from engine.data.lengths import steps_of
from engine.errors import SpecError
from engine.prediction import PredictionPlan
from engine.sampling import Sampler
from engine.spec import GenerateSpec, PredictSpec
from engine.streams import row_states, stream_key, uniforms
from engine.summary import Tree, renormalised

__all__ = ["Generation", "plan_generation"]

_TILE = 32
_NEEDLESS = ("abstain", "num_samples", "statistics", "tolerance", "budget_ms", "start")

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


@dataclass(kw_only=True)
class Generation:
    """A request to go on with sequences, resolved against its model."""

    plan: PredictionPlan
    """The passes: one for each step."""
    spec: GenerateSpec
    input: str
    """The output of the one input layer."""
    steps: int
    """How many steps the network reads at most: those of its training."""
    columns: Rows
    """The input that stands for each class."""

    @property
    def draws(self) -> bool:
        """Whether classes are drawn, and not just the most likely taken."""
        return self.spec.temperature > 0

    def cost(self, rows: int) -> float:
        """Return about how many floating-point operations so many rows take."""
        tiles = -(-rows // _TILE) * _TILE
        given = steps_of(self.plan.model.encoding) or 1
        return self.spec.steps * self.plan.cost(tiles)[0] * max(1.0, self.steps / given)

    def run(
        self,
        x: Inputs,
        row_ids: Rows,
        *,
        stop: Callable[[], bool] = lambda: False,
        threads: int = 1,
    ) -> Tree:
        """Return the answer's `outputs`: `generated`, labels (rows, steps), and `text`.

        `x` are the sequences to go on with, all of one length. `text` is there where all classes
        are texts of one character.
        """
        seen: Floats = np.asarray(x.values[self.input][:])
        ids = row_ids + self.plan.spec.row_offset
        classes = np.empty((len(seen), self.spec.steps), dtype=np.int64)
        key = stream_key(self.plan.seed, "generate")
        sampler_of = cache(partial(self._sampler, stop, threads))
        for step in range(self.spec.steps):
            seen = seen[:, -self.steps :]
            shares = self._next(sampler_of(seen.shape[1]), seen, ids, step)
            states = row_states(key, np.full_like(ids, step), ids)
            classes[:, step] = drawn(shares, uniforms(states, 1)[:, 0], self.spec)
            one_hot = np.zeros((len(seen), 1, seen.shape[2]), dtype=np.float32)
            one_hot[np.arange(len(seen)), 0, self.columns[classes[:, step]]] = 1
            seen = np.concatenate([seen, one_hot], axis=1)
        known = self.plan.model.encoding.classes or ()
        labels = np.array(known, dtype=object)[classes]
        answer: Tree = {"generated": labels}
        if all(isinstance(label, str) and len(label) == 1 for label in known):
            answer["text"] = np.array(["".join(row) for row in labels.tolist()], dtype=object)
        return answer

    def _next(self, sampler: Sampler, seen: Floats, ids: Rows, step: int) -> Doubles:
        """Return the probabilities (rows, classes) of what follows."""
        last = self.plan.model.graph.last.out
        rows = Inputs({self.input: seen})
        if sampler.stochastic:
            shares = sampler.samples(rows, ids, np.array([step]))[last][0]
        else:
            shares = sampler.deterministic(rows)[last]
        shares = renormalised(shares)
        return (shares[:, -1] if shares.ndim == 3 else shares).astype(np.float64)

    def _sampler(self, stop: Callable[[], bool], threads: int, steps: int) -> Sampler:
        model = self.plan.model.of_steps(steps)
        return Sampler(
            model.network,
            self.plan.regularizers,
            wanted=(model.graph.last.out,),
            seed=self.plan.seed,
            masks=self.plan.spec.masks,
            stop=stop,
            threads=threads,
            tile=_TILE,
        )


def plan_generation(plan: PredictionPlan, *, trained_steps: int | None) -> Generation:
    """Resolve a request with `generate`, whose model reads sequences of the length that is given.

    `trained_steps` are those of the model as it was trained. Raises SpecError where the model does
    not predict what it reads.
    """
    spec = plan.spec
    assert spec.generate is not None
    _refuse_needless(spec)
    encoding = plan.model.encoding
    columns = _columns(encoding)
    steps = steps_of(encoding)
    if columns is None or steps is None or trained_steps is None:
        raise SpecError(
            "sequences go on where a classifier reads the categories of one column (or array of "
            "texts), a sequence of them, and predicts the same column's next; this model does not",
            pointer="#/generate",
        )
    return Generation(
        plan=plan,
        spec=spec.generate,
        input=encoding.groups[0].output if encoding.groups else "in:out",
        steps=trained_steps,
        columns=columns,
    )


def drawn(shares: Doubles, uniform: Doubles, spec: GenerateSpec) -> Rows:
    """Return a class for each row (rows, classes), by inversion of its distribution."""
    if spec.temperature == 0:
        return np.asarray(shares.argmax(axis=1), dtype=np.int64)
    if spec.top_k is not None and spec.top_k < shares.shape[1]:
        kept = np.argsort(-shares, axis=1, kind="stable")[:, : spec.top_k]
        mask = np.zeros(shares.shape, dtype=np.bool_)
        np.put_along_axis(mask, kept, True, axis=1)
        shares = np.where(mask, shares, 0.0)
    with np.errstate(divide="ignore", over="ignore"):
        # Against the largest, so that no power leaves the range of a float.
        logs = np.log(shares / shares.max(axis=1, keepdims=True))
        sums = np.exp(logs / spec.temperature).cumsum(axis=1)
    chosen = (sums <= uniform[:, None] * sums[:, -1:]).sum(axis=1)
    return np.asarray(np.minimum(chosen, shares.shape[1] - 1), dtype=np.int64)


def _refuse_needless(spec: PredictSpec) -> None:
    for name in _NEEDLESS:
        if getattr(spec, name) is not None:
            raise SpecError(
                "`generate` draws one sequence for each that is given (give one several times for "
                f"several); leave `{name}` out",
                pointer=f"#/{name}",
            )
    if spec.outputs:
        raise SpecError("`generate` answers with no other outputs", pointer="#/outputs")


def _columns(encoding: Encoding) -> Rows | None:
    """Return the number of the input that stands for each class; None where there is none."""
    if encoding.classes is None or len(encoding.inputs) != 1:
        return None
    (column,) = encoding.inputs
    if isinstance(column, Categories):
        sequence = encoding.sequence
        if sequence is None or sequence.horizon != 1 or encoding.target != column.name:
            return None
    elif not isinstance(column, CategoryArray):
        return None
    known: dict[str, Any] = dict(column.codes)
    numbers = [known.get(spelled(label)) for label in encoding.classes]
    if None in numbers:
        return None
    return np.array(numbers, dtype=np.int64)
