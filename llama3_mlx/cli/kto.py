"""`llama3-mlx kto`: train on judged answers by KTO."""

import argparse

from ..finetune.settings import KtoSettings
from .flags import add_flags
from .train import add_inputs


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `kto`."""
    add_inputs(parser, 'JSONL file or folder of {"prompt", "completion", "label"} or pairs; repeatable')
    add_flags(parser, KtoSettings, "settings")


def run(args: argparse.Namespace) -> int:
    """Train and report."""
    from ..finetune.preference import build_preference
    from .training import run_training

    return run_training(args, "kto", build_preference, KtoSettings)
