"""The argument parser: one-line errors, suggestions for what is mistyped, the words of other programs."""

import argparse
import difflib
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

from ..errors import RequestError

# Commands as Ollama, mlx-lm and others call them, and what they are here.
ALIASES = {
    "ask": ["generate"],
    "delete": ["models", "remove"],
    "download": ["pull"],
    "evaluate": ["eval"],
    "finetune": ["train"],
    "fine-tune": ["train"],
    "list": ["models"],
    "lora": ["train"],
    "ls": ["models"],
    "ps": ["models", "running"],
    "quantize": ["convert"],
    "rm": ["models", "remove"],
    "server": ["serve"],
    "show": ["info"],
}
# The same for actions of a command.
_ACTIONS = {
    ("adapter", "show"): ["adapter", "info"],
    ("adapter", "convert"): ["adapter", "export"],
    ("cache", "delete"): ["cache", "clear"],
    ("cache", "ls"): ["cache", "list"],
    ("cache", "remove"): ["cache", "clear"],
    ("cache", "rm"): ["cache", "clear"],
    ("data", "validate"): ["data", "check"],
    ("models", "delete"): ["models", "remove"],
    ("models", "ls"): ["models", "list"],
    ("models", "ps"): ["models", "running"],
    ("models", "pull"): ["pull"],
    ("models", "rm"): ["models", "remove"],
    ("models", "show"): ["info"],
    ("models", "uninstall"): ["models", "remove"],
}
# Flags of mlx-lm, llama.cpp, Ollama, transformers and TRL, and what they are called here.
_FLAGS = {
    "--adapter-path": "--adapter",
    "--batch": "--batch-size",
    "--cache-prompt": "--disk-cache",
    "--draft-model": "--draft",
    "--grad-accumulation-steps": "--accumulate",
    "--grad-checkpoint": "--checkpointing",
    "--gradient-accumulation-steps": "--accumulate",
    "--hf-path": "SOURCE",
    "--iters": "--steps",
    "--json-schema": "--schema",
    "--learning_rate": "--learning-rate",
    "--lora-alpha": "--alpha",
    "--lora-dropout": "--dropout",
    "--lora-layers": "--layers",
    "--lora-r": "--rank",
    "--lora-rank": "--rank",
    "--lora-target-modules": "--targets",
    "--lr": "--learning-rate",
    "--lr-scheduler-type": "--schedule",
    "--mask-prompt": "--train-on",
    "--max-new-tokens": "--max-tokens",
    "--max-seq-length": "--max-length",
    "--mlx-path": "DEST",
    "--n-predict": "--max-tokens",
    "--num-epochs": "--epochs",
    "--num-layers": "--layers",
    "--num-train-epochs": "--epochs",
    "--output-dir": "--out",
    "--per-device-train-batch-size": "--batch-size",
    "--q-bits": "--bits",
    "--q-group-size": "--group-size",
    "--quant": "--bits",
    "--quantize": "--bits",
    "--repeat-last-n": "--repetition-window",
    "--repeat-penalty": "--repetition-penalty",
    "--save-path": "--out",
    "--system-prompt": "--system",
    "--upload-repo": "--upload",
    "--warmup-ratio": "--warmup",
    "--warmup-steps": "--warmup",
}


# How an error names it.
OUTPUT = "standard output"


class UsageError(RequestError):
    """The command line can't be read."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line that ends with where help is."""

    def error(self, message: str) -> NoReturn:
        """Raise the error, which the command line prints."""
        raise UsageError(f"{message} (see {self.prog} --help)")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Write help at once; unlike argparse, raise OSError where that fails."""
        try:
            (file or sys.stderr).write(message)
            (file or sys.stderr).flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OSError(error.errno, error.strerror, OUTPUT) from None

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            known = list(map(str, action.choices))
            hint = meant(str(value), known) or f"; choose one of {', '.join(known)}"
            raise argparse.ArgumentError(action, f"invalid choice: {value!r}{hint}")


def unalias(arguments: list[str]) -> list[str]:
    """Return the arguments with another program's word for a command in ours; `help COMMAND` as `COMMAND --help`."""
    if arguments[:1] == ["help"]:
        return [*unalias(arguments[1:2]), "--help"]
    ours = [*ALIASES.get(arguments[0], arguments[:1]), *arguments[1:]] if arguments else []
    return [*_ACTIONS.get((ours[0], ours[1]), ours[:2]), *ours[2:]] if len(ours) > 1 else ours


def unknown_command(name: str, commands: Iterable[str]) -> UsageError:
    """Return the error for a command that there isn't."""
    return UsageError(f"there is no command {name!r}{meant(name, commands)} (see llama3-mlx --help)")


def take_words(parser: argparse.ArgumentParser, args: argparse.Namespace, extras: list[str]) -> None:
    """Add words that stand behind flags to the prompt; raises UsageError for flags that there aren't."""
    unknown = next((text for text in extras if text.startswith("-") and text != "--"), None)
    words: list[str] | None = getattr(args, "words", None)
    if unknown is None and words is not None:
        args.words = [*words, *(text for text in extras if text != "--")]
    elif extras:
        parser.error(f"unrecognized arguments: {' '.join(extras)}{_meant_flag(parser, unknown)}")


def _meant_flag(parser: argparse.ArgumentParser, unknown: str | None) -> str:
    if unknown is None:
        return ""
    flag = unknown.partition("=")[0].replace("_", "-")
    known = [option for action in parser._actions for option in action.option_strings]
    places = [str(action.metavar) for action in parser._actions if not action.option_strings]
    ours = _FLAGS.get(flag, _FLAGS.get(unknown.partition("=")[0], flag))
    return f"; did you mean {ours}?" if ours in known or ours in places else meant(flag, known)


def meant(name: str, known: Iterable[str]) -> str:
    """Return the question for what a mistyped word may mean, to be put behind an error; empty if nothing is like it."""
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]}?" if close else ""
