"""`llama3-mlx orpo`: train on judged answers by ORPO."""

import argparse

from ..finetune.settings import OrpoSettings
from .flags import add_flags
from .train import add_inputs


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `orpo`."""
    add_inputs(parser, 'JSONL file or folder of {"prompt", "chosen", "rejected"}; repeatable')
    add_flags(parser, OrpoSettings, "settings")


def run(args: argparse.Namespace) -> int:
    """Train and report."""
    from ..finetune.preference import build_preference
    from .training import run_training

    return run_training(args, "orpo", build_preference, OrpoSettings)
