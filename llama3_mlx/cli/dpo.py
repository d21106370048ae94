"""`llama3-mlx dpo`: train on judged answers by DPO."""

import argparse

from ..finetune.settings import DpoSettings
from .flags import add_flags
from .train import add_inputs


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `dpo`."""
    add_inputs(parser, 'JSONL file or folder of {"prompt", "chosen", "rejected"}; repeatable')
    add_flags(parser, DpoSettings, "settings")


def run(args: argparse.Namespace) -> int:
    """Train and report."""
    from ..finetune.preference import build_preference
    from .training import run_training

    return run_training(args, "dpo", build_preference, DpoSettings)
