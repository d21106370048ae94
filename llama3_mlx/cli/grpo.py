"""`llama3-mlx grpo`: train on prompts by reward functions."""

import argparse

from ..finetune.settings import GrpoSettings
from .flags import add_flags
from .train import add_inputs


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `grpo`."""
    add_inputs(parser, 'JSONL file or folder of {"prompt", …}; repeatable')
    add_flags(parser, GrpoSettings, "settings")


def run(args: argparse.Namespace) -> int:
    """Train and report."""
    from ..finetune.reinforcement import build_grpo
    from .training import run_training

    return run_training(args, "grpo", build_grpo, GrpoSettings)
