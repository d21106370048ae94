"""`llama3-mlx generate`: one prompt, one answer, streamed to stdout."""

import argparse
import json
import sys
from dataclasses import asdict, fields
from typing import Any

from ..errors import RequestError
from ..options import GenerationOptions
from .flags import add_flags
from .model_choice import add_model_flags, choose_model


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `generate`."""
    add_model_flags(parser)
    parser.add_argument("-p", "--prompt", metavar="TEXT", help="the prompt (default, or -: standard input)")
    parser.add_argument("-s", "--system", metavar="TEXT", help="system message")
    parser.add_argument("--raw", action="store_true", help="continue the text as it is, without the dialog format")
    parser.add_argument("--json", action="store_true", help="print the completion as one JSON object")
    parser.add_argument("--stats", action="store_true", help="print token counts, rates and memory to stderr")
    add_flags(parser, GenerationOptions, "generation")


def run(args: argparse.Namespace) -> int:
    """Generate and print."""
    prompt = read_prompt(args.prompt)
    if args.raw and args.system is not None:
        raise RequestError("--system belongs to a dialog: leave it out with --raw")
    settings = given_settings(args)
    folder = choose_model(args.model)
    from ..llama import Llama

    llama = Llama.load(folder, adapter=args.adapter, dtype=args.dtype)
    if args.raw or llama.dialog is None:
        stream = llama.stream(prompt, **settings)
    else:
        stream = llama.stream_chat(as_messages(prompt, args.system), **settings)
    for piece in stream:
        if not args.json:
            sys.stdout.write(piece.text)
            sys.stdout.flush()
    completion = stream.completion
    sys.stdout.write(json.dumps(asdict(completion), ensure_ascii=False) + "\n" if args.json else "\n")
    if args.stats:
        sys.stderr.write(summary(completion) + "\n")
    return 0


def given_settings(args: argparse.Namespace) -> Any:
    """Return the generation settings that were given as flags, checked before a model is loaded."""
    names = [entry.name for entry in fields(GenerationOptions)]
    settings = {name: value for name in names if (value := getattr(args, name, None)) is not None}
    GenerationOptions(**settings)
    return settings


def as_messages(prompt: str, system: str | None) -> list[dict[str, str]]:
    """Return the dialog of a system message, if there is one, and a question."""
    opening = [{"role": "system", "content": system}] if system is not None else []
    return [*opening, {"role": "user", "content": prompt}]


def read_prompt(asked: str | None) -> str:
    """Return the prompt of the flag, or standard input's UTF-8 text without its final newline."""
    if asked is not None and asked != "-":
        prompt = asked
    else:
        if sys.stdin.isatty():
            sys.stderr.write("reading the prompt from the terminal; end it with Ctrl-D\n")
        try:
            prompt = sys.stdin.buffer.read().decode("utf-8")
        except UnicodeDecodeError as error:
            raise RequestError(f"the prompt on standard input is not UTF-8: byte {error.start} can't be read") from None
        prompt = prompt.removesuffix("\n")
    if not prompt.strip():
        raise RequestError("the prompt is empty: give one with -p TEXT or on standard input")
    return prompt


def summary(completion: Any) -> str:
    """Return counts, rates and memory in one line."""
    cached = f" ({completion.cached_tokens} cached)" if completion.cached_tokens else ""
    return (
        f"prompt: {completion.prompt_tokens} tokens{cached}, {completion.prompt_tokens_per_second:.1f} tokens/s; "
        f"answer: {len(completion.token_ids)} tokens, {completion.tokens_per_second:.1f} tokens/s; "
        f"peak memory: {completion.peak_memory_bytes / 1e9:.2f} GB"
    )
