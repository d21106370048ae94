"""How benchmarks are run: each setting once, with its help; the command line's flags come from here."""

from dataclasses import dataclass
from pathlib import Path

from ..settings import setting, validate


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """How benchmarks are run. None: as the preset or the task says."""

    shots: int | None = setting(None, "examples before each question (default: as the preset or the task says)", low=0)
    limit: int | None = setting(None, "evaluate the first N questions of each task alone, for a quick look", low=1)
    chat: bool | None = setting(
        None, "put questions into the model's chat template, examples as turns (default: as the preset says, else no)"
    )
    system: str | None = setting(None, "system text of every question's dialog, or text before it")
    max_length: int | None = setting(
        None, "cut contexts from the left beyond so many tokens (default: the model's context)", low=2
    )
    tasks_folder: Path | None = setting(None, "folder of further tasks, as the harness' YAML files", metavar="FOLDER")
    data: Path | None = setting(
        None,
        "folder of data sets: copies under their names, owner/name, are read; others are downloaded into it, and found "
        "there without a network",
        metavar="FOLDER",
    )
    unsafe_code: bool = setting(
        False, "run the programs that the model writes, where a task does so (HumanEval): in a sandbox only"
    )

    def __post_init__(self) -> None:
        validate(self)
