"""Reward functions of the user's: `FILE.py:FUNCTION`, called with prompts, answers and the data's other columns."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import DataError
from ..data.user_code import load_function, own_code

Reward = Callable[..., Sequence[float | None]]


def load_rewards(names: Sequence[str]) -> list[Reward]:
    """Return the functions; each takes `prompts` (lists of messages), `completions` (texts) and one list for each
    column, and returns a number for each completion, or None where it has nothing to say. Source: TRL's GRPOTrainer.
    """
    return [_load(name) for name in names]


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
) -> list[float]:
    """Return the sum of all rewards for each completion; raises DataError for what is not a number."""
    totals = [0.0] * len(completions)
    for reward in rewards:
        name = getattr(reward, "__name__", "the reward")
        with own_code(getattr(getattr(reward, "__code__", None), "co_filename", name)):
            values = list(reward(prompts=list(prompts), completions=list(completions), **columns))
        if len(values) != len(completions):
            raise DataError(f"{name} gave {len(values)} rewards for {len(completions)} completions")
        for number, value in enumerate(values):
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise DataError(f"{name} gave {value!r} as a reward; accepted are finite numbers and None")
            totals[number] += value
    return totals
