"""`llama3-mlx train`, `dpo`, `orpo`, `kto` and `grpo`: one command each, from one table."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..finetune.settings import DpoSettings, GrpoSettings, KtoSettings, OrpoSettings, TrainSettings
from .flags import add_flags
from .training_inputs import add_inputs

if TYPE_CHECKING:
    from ..finetune.training.job import Build

_PAIRS = 'JSONL file or folder of {"prompt", "chosen", "rejected"}; repeatable'


def _supervised() -> "Build":
    from ..finetune.sft import build_supervised

    return build_supervised


def _preference() -> "Build":
    from ..finetune.preference import build_preference

    return build_preference


def _reinforcement() -> "Build":
    from ..finetune.reinforcement import build_grpo

    return build_grpo


@dataclass(frozen=True)
class TrainingMethod:
    """A training command: its settings, its data in words, and what imports the builder of its runs."""

    settings: type[TrainSettings]
    data_help: str
    builder: Callable[[], "Build"]


METHODS = {
    "train": TrainingMethod(
        TrainSettings,
        "JSONL file, folder with train.jsonl (and valid.jsonl, test.jsonl), FILE.py:FUNCTION or Hub id; repeatable",
        _supervised,
    ),
    "dpo": TrainingMethod(DpoSettings, _PAIRS, _preference),
    "orpo": TrainingMethod(OrpoSettings, _PAIRS, _preference),
    "kto": TrainingMethod(
        KtoSettings,
        'JSONL file or folder of {"prompt", "completion", "label"} or pairs; repeatable',
        _preference,
    ),
    "grpo": TrainingMethod(GrpoSettings, 'JSONL file or folder of {"prompt", …}; repeatable', _reinforcement),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command that the parser belongs to."""
    method = METHODS[parser.get_default("command")]
    add_inputs(parser, method.data_help)
    add_flags(parser, method.settings, "settings")


def run(args: argparse.Namespace) -> int:
    """Train and report."""
    from .training_run import run_training

    method = METHODS[args.command]
    return run_training(args, args.command, method.builder(), method.settings)
