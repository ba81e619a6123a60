"""Tables as series: rows in groups, each in its order, and the windows that fit into them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from engine.data.dataset import Data
from engine.errors import DataError
from engine.spec import SequenceSpec

__all__ = ["Series"]

Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Series:
    """The rows of a table by series: positions count rows in sorted order, series by series."""

    order: Rows
    """(positions,) row numbers, sorted by series, by the order column, and as the table has them;
    rows without a series or a place in it are left out."""
    codes: Rows
    """(positions,) the number of each position's series, ascending."""
    place: Rows
    """(rows,) position of each row; -1 where it has none."""
    ties: int
    """How many rows stand at the same point of their series as the row before."""

    @classmethod
    def of(cls, data: Data, spec: SequenceSpec, used: Rows | None = None) -> Series:
        """Sort a table; a row among `used` (all by default) without its place is refused."""
        there = np.ones(data.rows, dtype=np.bool_)
        wanted = np.ones(data.rows, dtype=np.bool_)
        if used is not None:
            wanted[:] = False
            wanted[used] = True
        for key, name in (("group", spec.group), ("order", spec.order)):
            if name is not None:
                there &= _present(data, name, wanted, f"#/sequence/{key}")
        rows = np.flatnonzero(there)
        codes = np.zeros(len(rows), dtype=np.int64)
        if spec.group is not None:
            codes = _codes(data, spec.group)[rows]
        keys = [codes]
        if spec.order is not None:
            values = data.column(spec.order, rows)
            keys.insert(0, np.unique(values, return_inverse=True)[1])
        sorted_rows = np.lexsort(keys)
        order, codes = rows[sorted_rows], codes[sorted_rows]
        ties = 0
        if spec.order is not None:
            when = keys[0][sorted_rows]
            ties = int(((when[1:] == when[:-1]) & (codes[1:] == codes[:-1])).sum())
        place = np.full(data.rows, -1, dtype=np.int64)
        place[order] = np.arange(len(order))
        return cls(order=order, codes=codes, place=place, ties=ties)

    @cached_property
    def start(self) -> Rows:
        """(positions,) where each position's series begins."""
        return np.searchsorted(self.codes, self.codes, side="left").astype(np.int64)

    def windows(self, member: Mask, *, window: int, span: int, stride: int) -> Rows:
        """Return the row at the end of each window whose rows are all members.

        A window has `window` rows; `span` counts those up to its last target as well. `member` is
        by row number. Windows are `stride` rows apart, from the first that fits of every run of
        members on. The rows are sorted as the series are.
        """
        inside = member[self.order]
        breaks = np.ones(len(inside), dtype=np.bool_)
        breaks[1:] = (self.codes[1:] != self.codes[:-1]) | ~inside[:-1]
        firsts = np.flatnonzero(inside & breaks)
        ends = np.flatnonzero(inside & np.append(breaks[1:] | ~inside[1:], True)) + 1
        counts = np.maximum(ends - firsts - span, -1) // stride + 1
        counts = np.maximum(counts, 0)
        steps = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        lasts: Rows = self.order[np.repeat(firsts, counts) + steps * stride + window - 1]
        return lasts

    def covered(self, lasts: Rows, window: int, *, after: int = 0) -> tuple[Rows, Rows]:
        """Return the rows of the windows that end at `lasts`, and where each window begins in them.

        `after` moves the windows on by so many rows. What overlaps is there once.
        """
        begins = self.place[lasts] - window + 1 + after
        change = np.zeros(len(self.order) + 1, dtype=np.int64)
        np.add.at(change, begins, 1)
        np.add.at(change, begins + window, -1)
        needed = np.cumsum(change[:-1]) > 0
        compact = np.cumsum(needed) - 1
        return self.order[needed], compact[begins]

    def ahead(self, lasts: Rows, horizon: int) -> Rows:
        """Return the rows that lie `horizon` rows after others in their series."""
        return self.order[self.place[lasts] + horizon]

    def complete(self, rows: Rows, window: int, horizon: int = 0) -> Mask:
        """Say which rows end a window whose target, too, lies in their series."""
        place = self.place[rows]
        known = place >= 0
        at = np.where(known, place, 0)
        target = np.minimum(at + horizon, len(self.order) - 1)
        fits = (at - window + 1 >= self.start[at]) & (at + horizon < len(self.order))
        whole: Mask = known & fits & (self.codes[target] == self.codes[at])
        return whole


def _present(data: Data, name: str, wanted: Mask, pointer: str) -> Mask:
    """Say which rows have a value; a wanted one without is refused."""
    if data.table is None or name not in data.names:
        raise DataError(f"the data set has no column {name!r} to make series of", pointer=pointer)
    missing: Mask = data.table.column(name).is_null().to_numpy()
    if data.type_of(name) == "number":
        missing = missing | np.isnan(data.column(name))
    count = int((missing & wanted).sum())
    if count:
        raise DataError(
            f"column {name!r} has {count} missing values; each row needs one, to have its place in "
            "a series",
            pointer=pointer,
        )
    return ~missing


def _codes(data: Data, name: str) -> Rows:
    """Return the number of each row's group, in sorted order of the groups; any where missing."""
    assert data.table is not None
    column = data.table.column(name)
    distinct = column.unique().drop_null()
    groups = distinct.take(pc.array_sort_indices(distinct))
    codes = pc.index_in(column, value_set=groups).fill_null(0)
    return codes.to_numpy().astype(np.int64)  # type: ignore[no-any-return]
