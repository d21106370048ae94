"""What a caller can hear of a run while it lasts."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ...json_types import JsonMapping, JsonObject


@dataclass(frozen=True)
class StepReport:
    """One step: the loss is the mean over what counted, rates are of this step alone."""

    step: int
    total_steps: int
    epoch: float
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    target_tokens: int
    seconds: float
    tokens_per_second: float
    active_bytes: int
    peak_bytes: int
    more: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> JsonObject:
        """Return the values as one flat object."""
        values = asdict(self)
        more = values.pop("more")
        return {"kind": "step", **values, **more}


@dataclass(frozen=True)
class ValidationReport:
    """A validation after `step` steps; `best` if its loss is the lowest so far."""

    step: int
    loss: float
    best: bool
    more: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> JsonObject:
        """Return the values as one flat object."""
        values = asdict(self)
        more = values.pop("more")
        return {"kind": "validation", **values, **more}


class Callback:
    """Does nothing at each event; override what is of interest. Called in the thread that trains."""

    def on_plan(self, notes: Sequence[str]) -> None:
        """The data are read and the batches chosen, in words; the weights are yet to be loaded."""

    def on_start(self, plan: JsonMapping) -> None:
        """Training is about to begin: settings, shapes and the estimate of memory."""

    def on_stage(self, name: str) -> None:
        """Work besides steps begins, such as generating sample answers."""

    def on_encoding(self, done: int, total: int) -> None:
        """So many of the examples are encoded, told every few hundred."""

    def on_step(self, report: StepReport) -> None:
        """A step is done."""

    def on_validation(self, report: ValidationReport) -> None:
        """A validation is done."""

    def on_save(self, step: int) -> None:
        """The state after `step` steps is on the disk."""

    def on_end(self, result: Any) -> None:
        """Training is over; `result` is what `train` returns."""
