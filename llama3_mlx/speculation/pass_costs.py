"""What a forward pass over several positions costs: measured, for how many drafted tokens are worth verifying."""

import time
from collections.abc import Sequence

import mlx.core as mx

from ..model.transformer import LlamaForCausalLM

_TIMINGS, _FEWEST = 16, 3
_SECONDS = 0.1
# Over a plain step, the least that a further position is taken to cost, and the most.
_LEAST, _MOST = 0.03, 1.0
_WIDEST = 64
# Passes of as many positions tell whether any number gains from being run together.
_TELLING, _GAINLESS = 4, 3.2


class PassCosts:
    """The cost of a pass over so many positions, in passes over one.

    Timed when it is first asked for, in milliseconds, on one layer's MLP, where most of a step goes: next to nothing
    for a few positions where decoding is bound by memory, a whole pass each where a matrix product gains nothing from
    several rows. Measured are powers of two up to 64; between two of them the cost is taken to grow evenly.
    """

    def __init__(self, model: LlamaForCausalLM) -> None:
        self._mlp, self._width = model.model.layers[0].mlp, model.config.hidden_size
        self._dtype = model.dtype
        self._seconds: dict[int, float] = {}
        self._costs: dict[int, float] = {1: 1.0}

    def __call__(self, rows: int) -> float:
        """Return the cost of a pass over `rows` positions."""
        if rows not in self._costs:
            self._costs[rows] = min(1 + _MOST * (rows - 1), max(1 + _LEAST * (rows - 1), self._between(rows)))
        return self._costs[rows]

    def _between(self, rows: int) -> float:
        if not self._seconds:
            self._measure((1, 2, _TELLING))
        if rows > _TELLING and self._time(_TELLING) / self._time(1) > _GAINLESS:
            return rows
        if rows > _WIDEST:
            return self(_WIDEST) * rows / _WIDEST
        above = 1 << (rows - 1).bit_length()
        if above not in self._seconds:
            self._measure(tuple(2**power for power in range((_WIDEST - 1).bit_length() + 1)))
        if above == rows:
            return self._time(rows) / self._time(1)
        share = (rows - above // 2) / (above - above // 2)
        return (1 - share) * self(above // 2) + share * self(above)

    def _time(self, rows: int) -> float:
        """Return the least time of a pass over so many positions or more: what took longer was disturbed."""
        return min(seconds for known, seconds in self._seconds.items() if known >= rows)

    def _measure(self, sizes: Sequence[int]) -> None:
        """Time passes of these sizes in turn, so that what else the machine does disturbs all alike."""
        inputs = {rows: mx.zeros((1, rows, self._width), self._dtype) for rows in sizes}
        began = time.perf_counter()
        for number in range(1 + _TIMINGS):
            if number > _FEWEST and time.perf_counter() - began > _SECONDS:
                break
            for rows, x in inputs.items():
                started = time.perf_counter()
                mx.eval(self._mlp(x))
                # The first round makes kernels ready.
                if number:
                    took = time.perf_counter() - started
                    self._seconds[rows] = min(took, self._seconds.get(rows, took))
