"""`llama3-mlx draft train`: train an EAGLE-3 draft head for a model."""

import argparse
import sys

from ..finetune.settings import DraftSettings
from .flags import add_flags
from .training_inputs import add_inputs


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands of `draft`."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    train = actions.add_parser("train", help="train a draft head on examples, or on the model's own answers")
    add_inputs(train, "as for train; with --regenerate the prompts alone count; repeatable", "draft head's folder")
    add_flags(train, DraftSettings, "settings")


def run(args: argparse.Namespace) -> int:
    """Answer the prompts where asked, train and report."""
    from ..finetune.drafting.entry import KIND, answered_job, build_draft
    from .training_run import job_of, run_prepared

    job = job_of(args, KIND, DraftSettings)
    settings = job.settings
    if isinstance(settings, DraftSettings) and settings.regenerate and not args.resume:
        try:
            job = answered_job(job, progress=_show if not args.quiet else lambda *_: None)
        except KeyboardInterrupt:
            sys.stderr.write("\nstopped; the same command resumes after the answers already there\n")
            raise
    return run_prepared(args, job, build_draft)


def _show(done: int, total: int) -> None:
    sys.stderr.write(f"answered {done:,} of {total:,} prompts\n")
