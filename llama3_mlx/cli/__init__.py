"""The command `llama3-mlx`. A subcommand's code is imported only when it is called.

Each module of a subcommand has `configure(parser)`, which adds its arguments, and `run(args) -> int`, the exit code.
A module that serves several commands finds the name in the default `command`.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from ..errors import Llama3MLXError, RequestError
from ..files import place_of
from ..version import __version__
from .parser import OUTPUT, Parser, take_words, unalias, unknown_command
from .terminal import prepare_streams, tell

# name: (module, one line of help)
COMMANDS = {
    "convert": (
        "convert",
        "convert weights (Hugging Face, Meta, GGUF) to an MLX folder, GGUF or unquantized weights",
    ),
    "generate": ("generate", "answer one prompt, or complete a text"),
    "chat": ("chat", "chat with a model in the terminal"),
    "info": ("info", "show a model's architecture, sizes and what fits this machine"),
    "plan": ("plan", "show how a model would lie on several machines: memory, traffic, estimated rate"),
    "cache": ("cache", "list or clear the prefix cache on disk"),
    "bench": ("bench", "benchmark a model: prefill, decode, batches, memory; alone or beside mlx-lm"),
    "eval": ("eval", "run benchmarks of lm-evaluation-harness, or the Llama 3 release's tables, on a model"),
    "perplexity": ("perplexity", "measure a model's perplexity on a text, alone or beside another model"),
    "run": ("run", "ask a question or chat, through the server if it is running"),
    "pull": ("models", "download a model from the Hub"),
    "models": ("models", "list the models on this machine, or remove some"),
    "train": ("train", "fine-tune a model on examples: LoRA, DoRA or full layers"),
    "dpo": ("train", "train on pairs of a chosen and a rejected answer, by DPO"),
    "orpo": ("train", "train on such pairs without a reference model, by ORPO"),
    "kto": ("train", "train on answers labeled good or bad, by KTO"),
    "grpo": ("train", "train on prompts with reward functions, by GRPO"),
    "best-of-n": ("best_of_n", "sample answers, keep the best by a reward, train on them"),
    "draft": ("draft", "train an EAGLE-3 draft head, which speeds a model's decoding up"),
    "fuse": ("fuse", "merge an adapter into a model's weights"),
    "adapter": ("adapter", "show an adapter, or convert it to the format of PEFT, llama.cpp or mlx-lm"),
    "data": ("data", "check training data"),
    "guard": ("guard", "judge texts and dialogs with a Llama Guard"),
    "shield": ("shield", "scan code for known weaknesses"),
    "completion": ("completion", "print the script that completes commands and flags in a shell"),
    "serve": ("serve", "serve models over OpenAI's, Ollama's and Anthropic's protocols, with a page to chat on"),
    "service": ("service", "have the server run at login: install, remove, status"),
    "integrations": ("integrations", "write files that let a Mac's applications ask a model: the Services menu"),
}
ERROR_CODE, INTERRUPT_CODE = 2, 130
# Commands whose model may lie on several processes, and what their launchers set; see distributed/membership.py.
_SPLIT_COMMANDS = ("generate", "chat", "serve", "bench", "perplexity", "eval")
_UNSPLIT_COMMANDS = ("run", "guard", "best-of-n")
_LAUNCHED = {"MLX_RANK", "OMPI_COMM_WORLD_SIZE"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    prepare_streams()
    try:
        args = parse(arguments)
        if _LAUNCHED & set(os.environ) and (code := _follow(args.command)) is not None:
            return code
        code = int(args.run(args))
        sys.stdout.flush()
        return code
    except Llama3MLXError as error:
        tell(f"error: {error}")
        _leave_nodes()
        return ERROR_CODE
    except BrokenPipeError:
        # The reader of our output has gone; keep the interpreter from complaining while it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        place = OUTPUT if _gives_up_output() else place_of(error)
        tell(f"error: {f'{place}: ' if place else ''}{error.strerror or error}")
        return ERROR_CODE
    except KeyboardInterrupt:
        _leave_download()
        return INTERRUPT_CODE


def _follow(command: str) -> int | None:
    """Follow rank 0 if a launcher started this process as another rank; return the exit code, None on rank 0.

    Raises PeerError for what the launcher says, RequestError for a command whose model lies on one process.
    """
    if command not in (*_SPLIT_COMMANDS, *_UNSPLIT_COMMANDS):
        return None
    from ..distributed.follower import follow
    from ..distributed.membership import membership

    member = membership()
    if member is None:
        return None
    if command in _UNSPLIT_COMMANDS:
        if member.rank:
            return ERROR_CODE
        raise RequestError(f"{command} runs in one process: under a launcher, take one of {', '.join(_SPLIT_COMMANDS)}")
    return follow(member) if member.rank else None


def _gives_up_output() -> bool:
    """Return whether standard output can't be written; the interpreter then isn't left to try it once more."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _leave_nodes() -> None:
    """End the process at once if one that shares its model is gone: MLX would wait for it."""
    loading = sys.modules.get(f"{__package__.partition('.')[0]}.distributed.loading")
    if loading is not None and loading.leave():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ERROR_CODE)


def _leave_download() -> None:
    """Say what an interrupted download leaves; end at once where the interpreter would wait for its threads."""
    downloads = sys.modules.get(f"{__package__.partition('.')[0]}.library.downloads")
    if downloads is None or not downloads.interrupted():
        sys.stderr.write("\n")
        return
    tell("\nstopped; finished files are kept, and the same command goes on from them")
    if downloads.pool_waits():
        sys.stdout.flush()
        os._exit(INTERRUPT_CODE)


def make_parser(chosen: str | None = None) -> tuple[Parser, dict[str, Parser]]:
    """Return the parser and those of the commands; the chosen one, or all of them, have their arguments."""
    parser = Parser(
        prog="llama3-mlx",
        description="Llama 3 on Apple's MLX: convert, generate, chat, fine-tune.",
        epilog="llama3-mlx COMMAND --help explains a command. To begin: llama3-mlx pull OWNER/NAME, llama3-mlx chat.",
    )
    parser.add_argument("--version", action="version", version=f"llama3-mlx {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND")
    commands = {}
    for name, (module_name, summary) in COMMANDS.items():
        command = subparsers.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        command.set_defaults(command=name)
        if chosen in (name, None):
            module = importlib.import_module(f".{module_name}", __name__)
            module.configure(command)
            command.set_defaults(run=module.run)
        commands[name] = command
    return parser, commands


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the arguments of a command line; raises UsageError, and exits where help is asked for."""
    arguments = unalias(arguments) or ["--help"]
    chosen = next((word for word in arguments if not word.startswith("-")), "")
    if chosen and chosen not in COMMANDS:
        raise unknown_command(chosen, COMMANDS)
    parser, commands = make_parser(chosen)
    args, extras = parser.parse_known_args(arguments)
    take_words(commands.get(chosen, parser), args, extras)
    return args
