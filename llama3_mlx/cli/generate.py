"""`llama3-mlx generate`: one prompt, one answer, streamed to stdout."""

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..distributed.membership import membership
from ..errors import RequestError
from ..generation.options import GenerationOptions
from ..units import count_text, size_text
from .chat_model import Answer
from .flags import Values, add_flags, given_values, positive
from .model_choice import add_model_flags, load_llama
from .progress import PromptBar
from .shield_flag import MakeShielded, add_shield_flag, shield_of, shielded
from .structured_flags import ToolFunction, add_structured_flags, load_tools, structured_settings
from .terminal import piped_text, read_stdin, stdin_is_terminal, tell

if TYPE_CHECKING:
    from ..engine.reply import Stream
    from ..generation.completion import Completion
    from ..llama import Llama


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `generate`."""
    add_model_flags(parser)
    parser.add_argument("words", nargs="*", metavar="TEXT", help="the prompt; text that is piped in is appended")
    parser.add_argument("-p", "--prompt", metavar="TEXT", help="the prompt as a flag (-: standard input alone)")
    parser.add_argument("-s", "--system", metavar="TEXT", help="system message")
    parser.add_argument("--raw", action="store_true", help="complete the text as it is, without the chat template")
    parser.add_argument(
        "--special",
        action="store_true",
        default=None,
        help="with --raw: read control tokens such as <|eot_id|> in the prompt; only for text you trust",
    )
    parser.add_argument("--json", action="store_true", help="print the completion as one JSON object")
    parser.add_argument("-n", "--samples", type=positive, metavar="N", help="number of answers to generate")
    parser.add_argument("--logprobs", type=int, metavar="N", help="with --json: log-probabilities and N alternatives")
    parser.add_argument("--prompt-logprobs", type=int, metavar="N", help="with --json: the same for the prompt")
    parser.add_argument("--stats", action="store_true", help="print token counts, rates and memory to stderr")
    add_shield_flag(parser)
    add_structured_flags(parser)
    add_flags(parser, GenerationOptions, "generation")


def run(args: argparse.Namespace) -> int:
    """Generate and print."""
    prompt = read_prompt(args.prompt, args.words)
    if args.raw and args.system is not None:
        raise RequestError("--system needs a chat template: leave it out with --raw")
    if args.special and not args.raw:
        raise RequestError("--special belongs to --raw: no text of a dialog becomes a control token")
    if args.shield and args.json:
        raise RequestError("--shield writes its notes into the text: leave out --json")
    shield = shield_of(args)
    settings, tools = given_settings(args), load_tools(args.tool)
    if tools and (args.raw or args.samples):
        raise RequestError("--tool needs the chat template and one answer: leave out --raw and --samples")
    with load_llama(args) as llama, PromptBar() as progress:
        settings["progress"] = progress.report
        raw = args.raw or llama.dialog is None
        messages = as_messages(prompt, args.system)
        if tools:
            completions = [_call_tools(llama, messages, tools, settings)]
        elif args.samples:
            completions = llama.samples(prompt if raw else messages, args.samples, **settings)
        else:
            stream = llama.stream(prompt, **settings) if raw else llama.stream_chat(messages, **settings)
            completions = [_stream(stream, progress, shield, quiet=args.json)]
    _print(completions, args, shield)
    return 0


def _stream(
    stream: "Stream[Any]", progress: PromptBar, shield: MakeShielded | None, *, quiet: bool
) -> "Completion[Any]":
    """Write pieces as they come, and return the completion."""
    shown = shield() if shield else None
    for piece in stream:
        progress.close()
        if not quiet:
            sys.stdout.write(shown.add(piece.text) if shown else piece.text)
            sys.stdout.flush()
    if shown:
        sys.stdout.write(shown.finish())
    return stream.completion


def _call_tools(
    llama: "Llama", messages: list[dict[str, str]], tools: list[ToolFunction], settings: Values
) -> "Completion[Any]":
    """Answer with the help of functions; the calls are shown on stderr."""
    run = llama.run_tools(messages, tools, **settings)
    for call in run.calls:
        sys.stderr.write(f"called {call.name}({json.dumps(dict(call.arguments), ensure_ascii=False)})\n")
    assert run.completion is not None, "a run ends with an answer"
    return run.completion


def _print(completions: list[Any], args: argparse.Namespace, shield: MakeShielded | None) -> None:
    if args.json:
        values = [asdict(completion) for completion in completions]
        shown = values if args.samples else values[0]
        sys.stdout.write(json.dumps(shown, ensure_ascii=False, default=str) + "\n")
    elif args.samples or args.tool:
        sys.stdout.write("\n---\n".join(shielded(completion.text, shield) for completion in completions) + "\n")
    else:
        sys.stdout.write("\n")
    if args.stats:
        for completion in completions:
            tell(summary(completion))


def given_settings(args: argparse.Namespace) -> Values:
    """Return the generation settings that were given as flags, checked before a model is loaded."""
    given = given_values(args, GenerationOptions)
    settings = {name: value for name, value in given.items() if name not in ("schema", "grammar", "adapter")}
    if hasattr(args, "schema"):
        settings |= structured_settings(args)
    GenerationOptions(**settings)
    return settings


def as_messages(prompt: str, system: str | None) -> list[dict[str, str]]:
    """Return the dialog of a system message, if there is one, and a question."""
    opening = [{"role": "system", "content": system}] if system is not None else []
    return [*opening, {"role": "user", "content": prompt}]


def read_prompt(flag: str | None, words: list[str]) -> str:
    """Return the prompt of the command line, with what is piped in behind it; without one, standard input is it.

    A launcher's pipe is no part of a prompt that is given.
    """
    if flag is not None and words:
        raise RequestError("there are two prompts: give one with -p TEXT or as words, not both")
    written = " ".join(words) if words else flag
    if written is None or written == "-":
        if stdin_is_terminal():
            sys.stderr.write("reading the prompt from the terminal; end it with Ctrl-D\n")
        elif membership() is not None:
            sys.stderr.write("reading the prompt from standard input, which mlx.launch never ends: give one with -p\n")
        prompt = read_stdin()
    else:
        # mlx.launch gives a pipe that it never closes.
        piped = piped_text() if membership() is None else ""
        prompt = "\n\n".join(text for text in (written, piped) if text.strip()) if written.strip() else ""
    if not prompt.strip():
        raise RequestError("the prompt is empty: give one with -p TEXT, as words, or on standard input")
    return prompt


def summary(completion: Answer) -> str:
    """Return counts, rates and memory in one line."""
    cached = f" ({completion.cached_tokens:,} cached)" if completion.cached_tokens else ""
    prompt = count_text(completion.prompt_tokens, "token") + cached + _rate(completion.prompt_tokens_per_second)
    answer = count_text(len(completion.token_ids), "token") + _rate(completion.tokens_per_second) + _passes(completion)
    memory = completion.peak_memory_bytes
    return f"prompt: {prompt}; answer: {answer}" + (f"; peak memory: {size_text(memory)}" if memory else "")


def _passes(completion: Answer) -> str:
    """Return tokens per forward pass and what came of the drafts, nothing where none were made."""
    if not completion.passes or not (completion.drafts or completion.passes_off):
        return ""
    shown = f", {len(completion.token_ids) / completion.passes:.2f} tokens per forward pass"
    for counts in completion.drafts:
        rates = ", ".join(f"{rate:.0%}" for rate in counts.rates)
        shown += f"; {counts.source}: {sum(counts.accepted)} of {sum(counts.drafted)} accepted (by position: {rates})"
    if completion.passes_off:
        shown += f"; drafts switched off in {completion.passes_off} of {completion.passes} passes"
    return shown


def _rate(per_second: float) -> str:
    """Return a rate, nothing where there is none: of one token, or from a server that doesn't tell."""
    return f", {per_second:.1f} tokens/s" if per_second > 0 else ""
