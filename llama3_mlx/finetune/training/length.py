"""How long a run is: enough steps for small data, and a warning where there are too few."""

import math
from typing import TypeVar

from ..settings import RunSettings

S = TypeVar("S", bound=RunSettings)

# Fewer steps than this seldom teach an adapter anything; as many as this do for a small task.
_FEW_STEPS, _ENOUGH_STEPS = 30, 100


def with_epochs(settings: S, per_epoch: int, max_epochs: int) -> S:
    """Return the settings with the number of epochs decided: one, or more where that gives too few steps."""
    if settings.epochs is not None or settings.steps is not None:
        return settings
    steps = max(1, per_epoch // settings.accumulate)
    return settings.with_values(epochs=float(min(max_epochs, max(1, math.ceil(_ENOUGH_STEPS / steps)))))


def total_steps(settings: RunSettings, per_epoch: int) -> int:
    """Return the steps of a run: as requested, or enough for the epochs, the last one filled up."""
    if settings.steps is not None:
        return settings.steps
    return max(1, math.ceil((settings.epochs or 1.0) * per_epoch / settings.accumulate - 1e-9))


def length_notes(settings: RunSettings, per_epoch: int) -> tuple[str, ...]:
    """Return what to tell of a run's length."""
    steps = total_steps(settings, per_epoch)
    epochs = steps * settings.accumulate / per_epoch
    note = f"{steps:,} steps, {epochs:.3g} epoch{'' if epochs == 1 else 's'}"
    if steps >= _FEW_STEPS or per_epoch * 100 < settings.accumulate:
        return (note,)
    enough = math.ceil(_ENOUGH_STEPS * settings.accumulate / per_epoch)
    return (f"{note}: too few to learn much; --epochs {enough} gives about {_ENOUGH_STEPS}",)
