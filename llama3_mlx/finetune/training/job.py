"""What a run is made of: a job, the text side of its model, what is prepared for it, and what it comes to."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from ...chat.dialog import Dialog, load_dialog
from ...checkpoint.folder import ModelFolder
from ...errors import TrainingError
from ...json_types import JsonObject
from ...library.resolver import resolve_model
from ...model.config import ModelConfig
from ...tokenizer.loading import load_tokenizer
from ...tokenizer.tokenizer import Tokenizer
from .. import distributed
from ..data.encoding import Example
from ..data.sources import GivenData, Source, Sources, anchored, as_sources
from ..objectives.objective import Objective
from ..settings import DraftSettings, GrpoSettings, RunSettings, TrainSettings
from .product import Product
from .run_folder import read_run

# Settings that don't change what a step computes, and the length of the run, which may be extended.
_FREE = (
    "steps",
    "epochs",
    "memory",
    "valid_every",
    "patience",
    "save_every",
    "samples",
    "sample_tokens",
    "report",
    "png",
    "loggers",
)
_GIVEN = "given"


@dataclass(frozen=True)
class TrainingJob:
    """What to train on what, and where the result goes."""

    kind: str
    model: str
    data: tuple[Source, ...]
    valid: tuple[Source, ...]
    out: Path
    settings: RunSettings

    def to_dict(self) -> JsonObject:
        """Return what run.json holds; of examples in memory, what they were called."""
        return {
            "kind": self.kind,
            "model": self.model,
            "data": [_noted(source) for source in self.data],
            "valid": [_noted(source) for source in self.valid],
            "settings": self.settings.to_dict(),
        }


@dataclass(frozen=True)
class TextSide:
    """All of a model but its weights."""

    folder: Path
    config: ModelConfig
    tokenizer: Tokenizer
    dialog: Dialog | None
    notes: tuple[str, ...] = ()
    """What was decided where the folder's files contradict one another."""
    progress: Callable[[int, int], None] | None = None
    """Hears how many of how many examples are encoded."""


@dataclass(frozen=True)
class TrainResult:
    """What a run came to. `ended` is done, cancelled or early; losses are means over target tokens: the last
    step's and the best validation's.
    """

    folder: Path
    ended: str
    steps: int
    total_steps: int
    loss: float | None
    valid_loss: float | None
    best_step: int
    target_tokens: int
    seconds: float
    test_loss: float | None = None


@dataclass(frozen=True)
class Prepared:
    """An objective, what it trains, the settings with all that was left open decided, and notes of the decisions."""

    objective: Objective
    product: Product
    settings: RunSettings
    notes: tuple[str, ...] = ()
    shown: Sequence[Example] = ()


Build = Callable[[TrainingJob, TextSide], Prepared]


def make_job(
    kind: str, model: str | Path, data: Sources, out: str | Path, settings: RunSettings, valid: Sources = ()
) -> TrainingJob:
    """Return the job; its paths are absolute, so that the run can be resumed and fused from any folder."""
    chosen = settings
    if settings.start_from:
        chosen = chosen.with_values(start_from=anchored(settings.start_from))
    if isinstance(chosen, DraftSettings) and chosen.adapter:
        chosen = chosen.with_values(adapter=anchored(chosen.adapter))
    if isinstance(chosen, GrpoSettings):
        rewards: list[Any] = [anchored(reward) if isinstance(reward, str) else reward for reward in chosen.rewards]
        chosen = chosen.with_values(rewards=tuple(rewards))
    return TrainingJob(
        kind, anchored(str(model)), as_sources(data), as_sources(valid), Path(out).expanduser().absolute(), chosen
    )


def resumed_job(out: Path, changes: JsonObject, kind: type[RunSettings] = TrainSettings) -> TrainingJob:
    """Return the job of a run's folder, with some settings changed.

    Raises TrainingError where its examples or functions were given in memory: then the call that began it resumes it.
    """
    values = read_run(out)
    given = [source[_GIVEN] for source in (*values["data"], *values["valid"]) if isinstance(source, dict)]
    given += [name for name in values["settings"].get("rewards", ()) if name.startswith("<function ")]
    if given and "rewards" not in changes:
        raise TrainingError(
            f"{out} was trained on what was given in Python ({', '.join(given)}): resume it there, by the same call "
            "with resume=True"
        )
    settings = kind.from_dict({**values["settings"], **changes})
    return TrainingJob(
        values["kind"], values["model"], tuple(values["data"]), tuple(values["valid"]), out.absolute(), settings
    )


def dated(job: TrainingJob, text: TextSide, *, resume: bool) -> tuple[TrainingJob, TextSide]:
    """Return both with the day that the chat template writes, if it writes one: a resumed run keeps its own."""
    if text.dialog is None or not (job.settings.date or text.dialog.writes_date):
        return job, text
    kept = read_run(job.out)["settings"].get("date") if resume else None
    day = job.settings.date or kept or date.today().isoformat()
    return replace(job, settings=job.settings.with_values(date=day)), replace(text, dialog=text.dialog.bound(today=day))


def load_text_side(model: str) -> TextSide:
    """Return config, tokenizer and dialog format of a model."""
    folder = resolve_model(model)
    opened = ModelFolder(folder)
    tokenizer = load_tokenizer(opened)
    return TextSide(folder, opened.config, tokenizer, load_dialog(opened, tokenizer), opened.notes)


def base_name(model: str) -> str:
    """Return what an adapter calls its base: the Hub id, or the folder's name without where it lies."""
    path = Path(model).expanduser()
    return path.resolve().name if path.is_dir() else model


def job_fingerprint(job: TrainingJob, objective: Objective, config: ModelConfig) -> str:
    """Return a digest of all that decides what a step computes."""
    settings = {name: value for name, value in job.settings.to_dict().items() if name not in _FREE}
    # Where a file lies doesn't count.
    settings["start_from"] = settings["start_from"] and Path(settings["start_from"]).name
    if settings.get("adapter"):
        settings["adapter"] = Path(settings["adapter"]).name
    settings["rewards"] = [Path(name).name for name in settings.get("rewards", ())]
    parts = [job.kind, settings, objective.fingerprint(), asdict(config), distributed.size()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _noted(source: Source) -> Any:
    return {_GIVEN: source.name} if isinstance(source, GivenData) else source
