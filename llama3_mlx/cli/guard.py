"""`llama3-mlx guard`: judges texts and dialogs with a Llama Guard; exit code 1 where something is unsafe."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DataError, DialogError, RequestError
from ..json_types import JsonMapping
from .model_choice import MODEL_HELP, choose_model, write_notes

if TYPE_CHECKING:
    from ..safety import Verdict
    from ..safety.prompt import Role

UNSAFE_CODE = 1


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `guard`."""
    parser.add_argument(
        "text", nargs="*", metavar="TEXT", help="texts of users to judge; without any, lines are read from stdin"
    )
    parser.add_argument("-m", "--model", metavar="MODEL", required=True, help=MODEL_HELP)
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help='JSONL of dialogs to judge by their last message: {"messages": […]}, a list of messages, or {"text": …}',
    )
    parser.add_argument("--role", choices=("user", "agent"), help="whose last message is judged (default: the last)")
    parser.add_argument(
        "--guard-version", choices=("2", "3-8b", "3-1b"), help="of the Llama Guard (default: by its chat template)"
    )
    parser.add_argument("--exclude", metavar="CODES", default="", help="categories not to look for, as in S6,S7")
    parser.add_argument("--threshold", type=float, default=0.5, metavar="P", help="P(unsafe) to flag from (default .5)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")


def run(args: argparse.Namespace) -> int:
    """Judge everything in its order."""
    dialogs = _dialogs(args)
    from ..safety import Guard

    flagged = 0
    excluded = [code for code in args.exclude.split(",") if code]
    with Guard.load(
        choose_model(args.model), version=args.guard_version, excluded=excluded, threshold=args.threshold
    ) as guard:
        write_notes(guard.llama.notes)
        for messages in dialogs:
            verdict = guard.check(messages, role=args.role)
            flagged += verdict.flagged
            sys.stdout.write((_as_json(verdict) if args.json else _as_line(verdict, messages)) + "\n")
            sys.stdout.flush()
    return UNSAFE_CODE if flagged else 0


def _dialogs(args: argparse.Namespace) -> list[Sequence[JsonMapping]]:
    """Return what is to be judged, after all of it has been read; raises where some of it can't be judged."""
    if args.data is not None:
        found = list(_records(args.data, args.role))
    else:
        lines = args.text or (line.strip() for line in sys.stdin)
        found = [[{"role": "user", "content": line}] for line in lines if line.strip()]
    if not found:
        raise RequestError("there is nothing to judge: give texts, --data FILE or lines on standard input")
    return found


def _records(path: Path, role: "Role | None") -> Iterator[Sequence[JsonMapping]]:
    from ..safety.prompt import turns_of

    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: byte {error.start} can't be read") from None
    # Not splitlines: JSON strings may hold the other line separators of Unicode.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            messages = _record(where, line)
            try:
                turns_of(messages, role)
            except (DialogError, RequestError) as error:
                raise DataError(f"{where}: {error}") from None
            yield messages


def _record(where: str, line: str) -> Sequence[JsonMapping]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not valid JSON: {error}") from None
    if isinstance(value, dict) and isinstance(value.get("text"), str):
        return [{"role": "user", "content": value["text"]}]
    messages = value.get("messages") if isinstance(value, dict) else value
    if not isinstance(messages, list):
        raise DataError(f'{where} must be {{"messages": […]}}, a list of messages or {{"text": …}}, not {line[:60]}')
    return messages


def _as_json(verdict: "Verdict") -> str:
    values = {
        "flagged": verdict.flagged,
        "score": verdict.score,
        "categories": [category.code for category in verdict.categories],
        "category_scores": dict(verdict.category_scores),
    }
    return json.dumps(values)


def _as_line(verdict: "Verdict", messages: Sequence[JsonMapping]) -> str:
    named = ", ".join(f"{category.code} {category.title}" for category in verdict.categories)
    text = " ".join(str(messages[-1].get("content", "")).split())
    shown = text if len(text) <= 60 else f"{text[:59]}…"
    return f"{'unsafe' if verdict.flagged else 'safe':6}  {verdict.score:.3f}  {shown}{f'  ({named})' if named else ''}"
