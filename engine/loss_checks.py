"""Losses in view of the data: what they compare with, and what cannot be compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.data.dataset import Data, pieces_of
from engine.data.encoding import Encoding
from engine.data.loss_selection import targets_pointer
from engine.data.selection import Selection
from engine.data.splits import Split
from engine.errors import DataError, SpecError
from engine.graph import Graph
from engine.layers import shown
from engine.regularizers import Perturbation, Regularizer
from engine.spec import TrainSpec

__all__ = ["check_losses", "check_targets", "check_weights", "describe_losses", "noise_warnings"]

MAX_PAIRS = 1 << 24
"""Of rows and steps whose distances are held at once."""
_SHARE_ERROR = 1e-3
_CHECKED_ROWS = 2**17

Rows = npt.NDArray[np.int64]


def describe_losses(graph: Graph, selection: Selection, encoding: Encoding) -> list[dict[str, Any]]:
    """Return what a plan tells of each loss: its output, its weight, what it compares with."""
    told = []
    for loss in graph.losses:
        own = encoding if loss.target is None else encoding.auxiliary[loss.target]
        targets = (
            selection.targets if loss.target is None else selection.auxiliary[loss.target].names
        )
        described: dict[str, Any] = {
            "form": loss.form,
            "weight": loss.weight,
            "output": loss.output,
            "targets": list(targets),
            "classes": None if own.classes is None else list(own.classes),
        }
        if loss.form == "mmd":
            described["kernel"] = loss.kernel
        if loss.covar is not None:
            described |= {"covar": loss.covar, "covar_eps": loss.covar_eps}
        told.append(described)
    return told


def noise_warnings(graph: Graph, regularizers: Sequence[Regularizer]) -> list[str]:
    """Warn of masks and noise on what the network says of its own noise."""
    name = graph.noise_output
    acting = any(
        isinstance(r, Perturbation) and r.weight > 0 and name in r.matched for r in regularizers
    )
    if name is None or not acting:
        return []
    return [
        f"dropout or noise acts on {name!r}, the variances; where one is dropped it is "
        "`covar_eps`, and the loss large wherever the mean is off: name other outputs in `dropout`"
    ]


def check_losses(
    spec: TrainSpec,
    graph: Graph,
    selection: Selection,
    encoding: Encoding,
    data: Data,
    chosen: Split,
) -> None:
    """Refuse targets that a loss cannot compare with, and options that it cannot honour."""
    if graph.noise_output is not None and spec.noise_precision != "fit":
        raise SpecError(
            "loss 'gll' learns the noise as an output of the network; leave `noise_precision` out",
            pointer="#/noise_precision",
        )
    _check_pairs(spec, graph, data)
    for index, own in _distributions(selection, encoding):
        _check_shares(own, data, chosen.train, _pointer(selection, index))


def check_targets(selection: Selection, encoding: Encoding, data: Data, rows: Rows | None) -> None:
    """Refuse rows whose targets the encoding, learnt on others, cannot read.

    `rows` are None for all of another data set; in the same one only classes may be unknown.
    """
    for index, own in enumerate((encoding, *encoding.auxiliary)):
        if own.classes is None and rows is not None:
            continue
        try:
            for some in _pieces(own, data, rows):
                own.encode_targets(data, some)
        except DataError as error:
            pointer = _pointer(selection, index - 1) if index else error.pointer
            raise DataError(error.detail, pointer=pointer) from error
    for at, own in _distributions(selection, encoding):
        _check_shares(own, data, rows, _pointer(selection, at))


def _pointer(selection: Selection, auxiliary: int | None) -> str:
    """Return where targets stand in the spec: those of a loss, or the job's own."""
    if auxiliary is not None:
        return targets_pointer(selection.auxiliary[auxiliary].loss)
    return "#/inputs" if selection.form == "autoencoder" else "#/targets"


def _distributions(
    selection: Selection, encoding: Encoding
) -> Iterator[tuple[int | None, Encoding]]:
    if selection.is_distribution:
        yield None, encoding
    for index, (own, learnt) in enumerate(
        zip(selection.auxiliary, encoding.auxiliary, strict=True)
    ):
        if own.is_distribution:
            yield index, learnt


def _pieces(own: Encoding, data: Data, rows: Rows | None) -> Iterator[Rows | None]:
    """Cut rows into pieces that are looked at one after another; windows stay together."""
    if own.sequence is not None:
        yield rows
        return
    count = data.rows if rows is None else len(rows)
    for _, some in pieces_of(count, rows, _CHECKED_ROWS):
        yield some


def _check_shares(own: Encoding, data: Data, rows: Rows | None, pointer: str) -> None:
    for some in _pieces(own, data, rows):
        _check_some_shares(own, data, some, pointer)


def _check_some_shares(own: Encoding, data: Data, rows: Rows | None, pointer: str) -> None:
    shares = own.encode_targets(data, rows)[:]  # windows become an array
    sums = shares.sum(axis=-1, dtype=np.float64)
    worst = float(sums.flat[np.abs(sums - 1).argmax()])
    if (shares < 0).any():
        what = f"{float(shares.min()):.6g} is one of them"
    elif abs(worst - 1) > _SHARE_ERROR:
        what = f"those of one add up to {worst:.6g}"
    else:
        return
    raise DataError(
        f"loss 'kl' compares distributions: the {shares.shape[-1]} targets of each row (or step) "
        f"are 0 or more and add up to 1, but {what}",
        pointer=pointer,
    )


def _check_pairs(spec: TrainSpec, graph: Graph, data: Data) -> None:
    """Refuse batches in which a discrepancy would compare more rows than fit into memory."""
    batch = min(spec.batch_size, data.rows)
    for loss in graph.losses:
        shape = graph.outputs[loss.output]
        pairs = batch**2 * (shape[0] if len(shape) == 2 else 1)
        if loss.form == "mmd" and pairs > MAX_PAIRS:
            raise SpecError(
                f"loss 'mmd' compares all rows of a batch, at each step, with each other: {pairs} "
                f"pairs for {batch} rows, and at most {MAX_PAIRS} are held; take a smaller "
                "`batch_size`",
                pointer="#/batch_size",
            )


def check_weights(spec: TrainSpec, graph: Graph, weights: Any) -> None:
    """Refuse weights of steps where the loss has none, or not so many."""
    if weights is None or len(weights.shape) == 1:
        return
    sequences = (loss.output for loss in graph.losses if len(graph.outputs[loss.output]) == 2)
    for name in (graph.last.out, *sequences):
        shape = graph.outputs[name]
        if shape[:-1] != weights.shape[1:]:
            raise SpecError(
                f"{spec.sample_weight!r} weights {weights.shape[1]} steps of a row, but {name!r} "
                f"gives {shown(shape)} values a row; give one weight a row",
                pointer="#/sample_weight",
            )
