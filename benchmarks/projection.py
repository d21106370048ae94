"""What drafts would gain on Apple GPUs: a projection from published costs of passes over 1 to 8 positions.

Nothing here was measured by this project on such a machine. For M2 Pro mlx#3764 gives ratios between two kernels and no
cost of a pass, and says that its affine 4-bit products stay on the kernel that reads the weights for each row anew.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

# What a draft step reads of what the model's step does, at the shapes of Llama 3.1 8B: tests/bench/test_draft_work.py.
DRAFT_COST = 1 / 20
LONGEST = 7


@dataclass(frozen=True)
class Published:
    """Costs of passes by positions, in passes over one."""

    machine: str
    what: str
    costs: tuple[tuple[int, float], ...]

    def of(self, rows: int) -> float:
        """Return the cost of a pass over `rows` positions, on the straight line between the published neighbors."""
        for (low, first), (high, second) in pairwise(self.costs):
            if rows <= high:
                return first + (second - first) * (rows - low) / (high - low)
        raise ValueError(f"no cost of {rows} rows was published for {self.machine}")


PUBLISHED = (
    # Whole model, 4 bits, groups of 64, "this PR": 75.9, 84.8, 112.7, 170.8 ms.
    Published(
        "M5 Max", "70B, whole passes (mlx#3791)", ((1, 1.0), (3, 84.8 / 75.9), (5, 112.7 / 75.9), (8, 170.8 / 75.9))
    ),
    # 4096 x 24576, 4 bits, MLX 0.32.0.
    Published(
        "M4 Pro", "one matrix of an MLP (mlx#3839)", ((1, 1.0), (2, 1.03), (3, 1.22), (4, 1.47), (6, 2.07), (8, 2.69))
    ),
    # 5120 -> 17408, 4 bits, a comment's table for main: 0.129, 0.129, 0.165, 0.263, 0.323 ms.
    Published(
        "M3 Max",
        "one matrix of an MLP (mlx#3863)",
        ((1, 1.0), (2, 1.0), (4, 165 / 129), (6, 263 / 129), (8, 323 / 129)),
    ),
    # 17408 x 5120, 4 bits, MLX 0.32.0.
    Published("M3 Ultra", "one matrix of an MLP (mlx#4265)", ((1, 1.0), (2, 1.83), (4, 3.26), (7, 5.28), (8, 6.12))),
)


def expected(rates: Sequence[float], length: int) -> float:
    """Return the tokens of a pass that verifies `length` drafted ones, of which the i-th is right with rates[i]."""
    tokens, reached = 1.0, 1.0
    for rate in rates[:length]:
        reached *= rate
        tokens += reached
    return tokens


def best(rates: Sequence[float], cost: Callable[[int], float]) -> tuple[int, float]:
    """Return the length of drafts with the highest rate, and that rate in those of plain decoding."""
    found = (0, 1.0)
    for length in range(1, min(LONGEST, len(rates)) + 1):
        rate = expected(rates, length) / (cost(1 + length) + DRAFT_COST * length)
        if rate > found[1]:
            found = length, rate
    return found


def projected(acceptance: Sequence[tuple[str, Sequence[float]]]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the table, a column for each acceptance by place in the draft."""
    header = ["", "cost of 2, 4, 8 rows", *(name for name, _ in acceptance)]
    rows = []
    for machine in PUBLISHED:
        costs = ", ".join(f"{machine.of(n):.2f}" for n in (2, 4, 8))
        gains = [best(rates, machine.of) for _, rates in acceptance]
        shown = [f"{rate:.2f} ({length})" if length else "1.00 (no drafts)" for length, rate in gains]
        rows.append([f"{machine.machine}: {machine.what}", costs, *shown])
    return header, rows
