"""Reward functions of the user's, called with prompts, answers and the data's other columns."""

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from ...errors import DataError
from ..data.user_code import load_function, own_code

Reward = Callable[..., Sequence[float | None]]


def load_rewards(rewards: Sequence[str | Reward]) -> list[Reward]:
    """Return the functions, which are given as such or as `FILE.py:FUNCTION`.

    Each takes `prompts` (lists of messages), `completions` (texts) and one list for each column, and returns a number
    for each completion, or None where it has nothing to say. Source: TRL's GRPOTrainer.
    """
    return [reward if callable(reward) else _load(reward) for reward in rewards]


def _load(name: str) -> Reward:
    file, _, function = name.rpartition(":")
    path = Path(file).expanduser()
    if not file.endswith(".py") or not path.is_file():
        raise DataError(f"a reward is given as FILE.py:FUNCTION, and {name!r} names no such file")
    return load_function(path, function)


def total_rewards(
    rewards: Sequence[Reward],
    prompts: Sequence[Any],
    completions: Sequence[str],
    columns: Mapping[str, Sequence[Any]],
    weights: Sequence[float] = (),
) -> list[float]:
    """Return the weighted sum of all rewards for each completion; raises DataError for what is not a number."""
    totals = [0.0] * len(completions)
    for reward, weight in zip(rewards, weights or [1.0] * len(rewards), strict=True):
        name = getattr(reward, "__name__", "the reward")
        with own_code(getattr(getattr(reward, "__code__", None), "co_filename", name)):
            values = list(reward(prompts=list(prompts), completions=list(completions), **columns))
        if len(values) != len(completions):
            raise DataError(f"{name} gave {len(values)} rewards for {len(completions)} completions")
        for number, value in enumerate(values):
            if value is not None:
                totals[number] += weight * _number(name, value)
    return totals


def _number(name: str, value: Any) -> float:
    """Return a reward as a number: Python's, numpy's and MLX's scalars count, true as 1."""
    scalar = value.item() if hasattr(value, "item") and getattr(value, "size", 0) == 1 else value
    if not isinstance(scalar, Real) or not math.isfinite(scalar):
        raise DataError(f"{name} gave {value!r:.80} as a reward; accepted are finite numbers and None")
    return float(scalar)
