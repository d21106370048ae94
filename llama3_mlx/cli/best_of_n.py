"""`llama3-mlx best-of-n`: sample answers, keep the best by a reward, train on them."""

import argparse
import sys
from pathlib import Path

from ..finetune.settings import TrainSettings
from .flags import add_flags, positive
from .model_choice import choose_model, write_notes
from .training_inputs import add_inputs, gather


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `best-of-n`."""
    add_inputs(parser, 'JSONL file or folder of {"prompt", …}; repeatable')
    group = parser.add_argument_group("answers")
    group.add_argument("--rewards", metavar="FILE.py:FUNCTION", action="append", help="reward function; repeatable")
    group.add_argument("-n", type=positive, default=8, metavar="N", help="answers for each prompt (%(default)s)")
    group.add_argument(
        "--min-reward", type=float, metavar="X", help="drop prompts whose best answer is below this reward"
    )
    group.add_argument(
        "--answer-tokens", type=positive, default=256, metavar="N", help="limit of an answer (%(default)s)"
    )
    group.add_argument("--temperature", type=float, default=1.0, metavar="X", help="of sampling (%(default)s)")
    group.add_argument("--only-draw", action="store_true", help="write best.jsonl and train nothing")
    add_flags(parser, TrainSettings, "training settings")


def run(args: argparse.Namespace) -> int:
    """Sample, keep, train and report."""
    from ..finetune.sft import build_supervised
    from .training_run import run_training

    if not args.resume:
        best = _draw(args)
        if args.only_draw:
            sys.stdout.write(f"{best}\n")
            return 0
        args.data = [str(best)]
    return run_training(args, "train", build_supervised)


def _draw(args: argparse.Namespace) -> Path:
    """Write the best answers and return their file; raises RequestError where an input is missing."""
    from ..errors import RequestError
    from ..finetune.best_of import best_of_n
    from ..finetune.objectives.rollouts import RolloutOptions
    from ..finetune.training.run_folder import refuse_run
    from ..llama import Llama

    inputs, values = gather(args)
    if not args.rewards:
        raise RequestError("--rewards FILE.py:FUNCTION must be given")
    settings = TrainSettings.from_dict(values)
    folder = Path(inputs["out"]).expanduser()
    if not args.only_draw:
        refuse_run(folder)
    try:
        # The memory goes to training afterwards.
        with Llama.load(inputs["model"] or choose_model(None), dtype=settings.dtype) as llama:
            write_notes(llama.notes)
            best = best_of_n(
                llama,
                inputs["data"],
                folder / "answers",
                args.rewards,
                n=args.n,
                min_reward=args.min_reward,
                sampling=RolloutOptions(args.answer_tokens, args.temperature),
                seed=settings.seed,
                progress=_show if not args.quiet else lambda *_: None,
            )
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped; the same command resumes after the answers already sampled\n")
        raise
    sys.stderr.write(
        f"kept the best of {args.n} for {best.kept} of {best.prompts} prompts: reward {best.best_mean:.3f}, "
        f"{best.mean:.3f} over all answers\n"
    )
    return best.file


def _show(done: int, total: int) -> None:
    if done % max(1, total // 10) == 0 or done == total:
        sys.stderr.write(f"answers to {done} of {total} prompts\n")
