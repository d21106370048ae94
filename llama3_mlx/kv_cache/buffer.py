"""Arrays of rows and positions that grow together: (rows, K, positions, width) each."""

from collections.abc import Sequence

import mlx.core as mx

STEP = 256


class Buffer:
    """Room for rows of positions, allocated ahead in steps; the arrays may differ in width and dtype.

    Positions grow by an eighth of the length, so that copying stays linear in the length and waste stays small.
    """

    def __init__(self, most: int | None = None) -> None:
        """`most` bounds the positions, for buffers that are reused in a ring."""
        self.arrays: list[mx.array] = []
        self._most = most

    @property
    def rows(self) -> int:
        """Rows there is room for."""
        return self.arrays[0].shape[0] if self.arrays else 0

    @property
    def positions(self) -> int:
        """Positions there is room for."""
        return self.arrays[0].shape[2] if self.arrays else 0

    @property
    def nbytes(self) -> int:
        """Allocated bytes."""
        return sum(array.nbytes for array in self.arrays)

    def reserve(self, rows: int, positions: int, like: Sequence[mx.array]) -> None:
        """Make room for `rows` and `positions` of the widths and dtypes of `like`."""
        if not self.arrays:
            room = self._room(positions)
            self.arrays = [mx.zeros((rows, a.shape[1], room, a.shape[3]), a.dtype) for a in like]
            return
        more_rows = max(0, rows - self.rows)
        more = self._room(positions) - self.positions if positions > self.positions else 0
        if more_rows or more:
            self.arrays = [mx.pad(a, [(0, more_rows), (0, 0), (0, more), (0, 0)]) for a in self.arrays]

    def write(self, start: int, parts: Sequence[mx.array]) -> None:
        """Put `parts`, (rows, K, n, width) each, at the positions from `start` on, the same in every row."""
        rows, _, n, _ = parts[0].shape
        self.reserve(rows, start + n, parts)
        for array, part in zip(self.arrays, parts, strict=True):
            array[:rows, :, start : start + n] = part

    def write_at(self, slots: mx.array, last: int, parts: Sequence[mx.array]) -> None:
        """Put `parts`, (rows, K, n, width) each, at `slots` (rows, n), of which none exceeds `last`."""
        rows, heads, _, _ = parts[0].shape
        self.reserve(rows, last + 1, parts)
        at = (mx.arange(rows)[:, None, None], mx.arange(heads)[None, :, None], slots[:, None])
        for array, part in zip(self.arrays, parts, strict=True):
            array[at] = part

    def read(self, rows: int, stop: int, start: int = 0) -> list[mx.array]:
        """Return the first `rows` of every array from position `start` to `stop`."""
        return [array[:rows, :, start:stop] for array in self.arrays]

    def move(self, source: int, target: int) -> None:
        """Copy one row over another."""
        for array in self.arrays:
            array[target] = array[source]

    def put_row(self, row: int, parts: Sequence[mx.array]) -> None:
        """Make `parts`, (1, K, n, width) each, the content of `row`."""
        n = parts[0].shape[2]
        self.reserve(row + 1, n, parts)
        for array, part in zip(self.arrays, parts, strict=True):
            array[row : row + 1, :, :n] = part

    def shrink(self, rows: int, positions: int) -> None:
        """Give back rows and positions where less than a quarter of them is used."""
        room = self._room(positions)
        if self.arrays and (rows * 4 <= self.rows or room * 4 <= self.positions):
            self.arrays = [mx.contiguous(a[:rows, :, : min(room, a.shape[2])]) for a in self.arrays]

    def copy(self) -> "Buffer":
        """Return a buffer of the same content; arrays are shared until either one writes."""
        twin = Buffer(self._most)
        twin.arrays = [mx.array(array) for array in self.arrays]
        return twin

    def _room(self, positions: int) -> int:
        room = -(-(positions + positions // 8) // STEP) * STEP
        return room if self._most is None else min(room, self._most)
