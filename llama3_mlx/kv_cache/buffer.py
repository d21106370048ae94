"""Arrays of rows and positions that grow together: (rows, K, positions, width) each, a row a sequence."""

from collections.abc import Sequence

import mlx.core as mx

STEP = 256


class Buffer:
    """Capacity for rows of positions, allocated ahead in steps; the arrays may differ in width and dtype.

    Positions grow by an eighth of the length, so that copying stays linear in the length and waste stays small.
    """

    def __init__(self, max_positions: int | None = None) -> None:
        """`max_positions` bounds the positions, for buffers that are reused in a ring."""
        self._max_positions = max_positions
        self.arrays = []

    @property
    def arrays(self) -> list[mx.array]:
        """The arrays, all of the same rows and positions."""
        return self._arrays

    @arrays.setter
    def arrays(self, arrays: list[mx.array]) -> None:
        self._arrays = arrays
        # Kept as numbers: asking an array for its shape takes the host half as long as building an operation.
        self.rows, _, self.positions, _ = arrays[0].shape if arrays else (0, 0, 0, 0)

    @property
    def nbytes(self) -> int:
        """Allocated bytes."""
        return sum(array.nbytes for array in self.arrays)

    def reserve(self, rows: int, positions: int, like: Sequence[mx.array]) -> None:
        """Allocate capacity for `rows` and `positions` of the widths and dtypes of `like`."""
        if rows <= self.rows and positions <= self.positions:
            return
        if not self.arrays:
            capacity = self._capacity(positions)
            self.arrays = [mx.zeros((rows, a.shape[1], capacity, a.shape[3]), a.dtype) for a in like]
            return
        more_rows = max(0, rows - self.rows)
        more = self._capacity(positions) - self.positions if positions > self.positions else 0
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
        """Free rows and positions where less than a quarter of them is used."""
        capacity = self._capacity(positions)
        if self.arrays and (rows * 4 <= self.rows or capacity * 4 <= self.positions):
            self.arrays = [mx.contiguous(a[:rows, :, : min(capacity, a.shape[2])]) for a in self.arrays]

    def copy(self) -> "Buffer":
        """Return a buffer of the same content; arrays are shared until either one writes."""
        twin = Buffer(self._max_positions)
        twin.arrays = [mx.array(array) for array in self.arrays]
        return twin

    def _capacity(self, positions: int) -> int:
        capacity = -(-(positions + positions // 8) // STEP) * STEP
        return capacity if self._max_positions is None else min(capacity, self._max_positions)
