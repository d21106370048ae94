"""`llama3-mlx train`: fine-tune a model on examples."""

import argparse
from pathlib import Path
from typing import Any

from ..errors import RequestError
from ..finetune.settings import TrainSettings, load_yaml
from .flags import add_flags, given_values

Values = dict[str, Any]
_INPUTS = ("model", "data", "valid", "out")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `train`."""
    add_inputs(
        parser,
        "JSONL file, folder with train.jsonl (and valid.jsonl, test.jsonl), FILE.py:FUNCTION or Hub id; repeatable",
    )
    add_flags(parser, TrainSettings, "settings")


def add_inputs(parser: argparse.ArgumentParser, data_help: str) -> None:
    """Add what every way of training needs: model, data, output, settings file, resume."""
    parser.add_argument("-m", "--model", metavar="MODEL", help="folder or Hub id of the model to train")
    parser.add_argument("-d", "--data", metavar="DATA", action="append", help=data_help)
    parser.add_argument("--valid", metavar="DATA", action="append", help="validation data; repeatable")
    parser.add_argument("-o", "--out", metavar="FOLDER", help="adapter folder to write")
    parser.add_argument("-c", "--config", metavar="FILE", help="YAML file of settings; flags go before it")
    parser.add_argument("--resume", metavar="FOLDER", help="go on with the run in FOLDER")
    parser.add_argument("--quiet", action="store_true", help="no progress, the result alone")


def run(args: argparse.Namespace) -> int:
    """Train and report."""
    from ..finetune.sft import build_supervised
    from .training import run_training

    return run_training(args, "train", build_supervised)


def gather(
    args: argparse.Namespace, kind: type[TrainSettings] = TrainSettings
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return inputs and settings, flags before the file's; raises RequestError where an input is missing."""
    values = load_yaml(Path(args.config).expanduser()) if args.config else {}
    inputs = {name: values.pop(name, None) for name in _INPUTS}
    for name in _INPUTS:
        if getattr(args, name) is not None:
            inputs[name] = getattr(args, name)
    settings = {**values, **given_values(args, kind)}
    missing = [f"--{name}" for name in ("data", "out") if not inputs[name]]
    if missing and not args.resume:
        raise RequestError(f"give {' and '.join(missing)} (or --resume FOLDER to go on with a run)")
    for name in ("data", "valid"):
        value = inputs[name] or ()
        inputs[name] = (value,) if isinstance(value, str) else tuple(value)
    return inputs, settings
