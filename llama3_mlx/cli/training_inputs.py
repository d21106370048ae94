"""What every training command takes: model, data, output, a settings file, a run to resume."""

import argparse
from pathlib import Path

from ..errors import RequestError
from ..finetune.settings import RunSettings, TrainSettings, load_yaml
from .flags import Values, given_values

_INPUTS = ("model", "data", "valid", "out")


def add_inputs(parser: argparse.ArgumentParser, data_help: str, out: str = "adapter folder") -> None:
    """Add the arguments that all training commands share; `out` is what the folder to write is called."""
    parser.add_argument("-m", "--model", metavar="MODEL", help="model to train: folder, name or Hub id")
    parser.add_argument("-d", "--data", metavar="DATA", action="append", help=data_help)
    parser.add_argument("--valid", metavar="DATA", action="append", help="validation data; repeatable")
    parser.add_argument("-o", "--out", metavar="FOLDER", help=f"{out} to write")
    parser.add_argument("-c", "--config", metavar="FILE", help="YAML file of settings; flags override it")
    parser.add_argument("--resume", metavar="FOLDER", help="resume the run in FOLDER")
    parser.add_argument("--quiet", action="store_true", help="no progress, only the result")


def gather(args: argparse.Namespace, kind: type[RunSettings] = TrainSettings) -> tuple[Values, Values]:
    """Return inputs and settings; flags override the file. Raises RequestError where an input is missing."""
    values = load_yaml(Path(args.config).expanduser()) if args.config else {}
    inputs = {name: values.pop(name, None) for name in _INPUTS}
    for name in _INPUTS:
        if getattr(args, name) is not None:
            inputs[name] = getattr(args, name)
    settings = {**values, **given_values(args, kind)}
    missing = [f"--{name}" for name in ("data", "out") if not inputs[name]]
    if missing and not args.resume:
        raise RequestError(f"{' and '.join(missing)} must be given (or --resume FOLDER to resume a run)")
    for name in ("data", "valid"):
        value = inputs[name] or ()
        inputs[name] = (value,) if isinstance(value, str) else tuple(value)
    return inputs, settings
