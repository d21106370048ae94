r"""A chat behind a guard and a code shield: what you ask and what the model answers are judged before they are shown.

    python -m examples.recipes.guarded_chat --model llama-3.1-8b-4bit \
        --guard meta-llama/Llama-Guard-3-1B

Without `--guard` the shield alone looks at code (the extra `shield`). The small model's code is mostly
unfinished, which the shield calls unknown; an 8B with Llama Guard 3 1B beside it takes 7 GB at 4 bits.
"""

import sys
from dataclasses import dataclass

from examples.recipes import arguments, messages, run
from llama3_mlx import Llama
from llama3_mlx.safety import Guard
from llama3_mlx.safety.shield import Shield


@dataclass(frozen=True)
class Turn:
    """What is shown: the answer, or why there is none, and what the shield found in its code."""

    text: str
    refused: bool = False
    warnings: tuple[str, ...] = ()


def say(
    llama: Llama, dialog: list[dict[str, str]], text: str, *, guard: Guard | None, shield: Shield, max_tokens: int = 400
) -> Turn:
    """Answer a message; the dialog grows only by turns that the guard let pass."""
    asked = [*dialog, {"role": "user", "content": text}]
    if (reason := _objection(guard, asked)) is not None:
        return Turn(f"I can't help with that ({reason}).", refused=True)
    answer = llama.chat(asked, max_tokens=max_tokens).text
    answered = [*asked, {"role": "assistant", "content": answer}]
    if (reason := _objection(guard, answered)) is not None:
        return Turn(f"The answer was held back ({reason}).", refused=True)
    dialog[:] = answered
    scans = [scan for _, scan in shield.scan_fenced(answer)]
    found = [finding.text for scan in scans for finding in scan.findings]
    unknown = [f"not checked: {scan.reason}" for scan in scans if scan.status == "unknown"]
    return Turn(answer, warnings=(*found, *unknown))


def _objection(guard: Guard | None, dialog: list[dict[str, str]]) -> str | None:
    """Return what the guard has against the last message, None for nothing."""
    if guard is None:
        return None
    verdict = guard.check(dialog)
    titles = ", ".join(category.title for category in verdict.categories)
    return (titles or "unsafe") if verdict.flagged else None


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--guard", help="a Llama Guard: folder, name or Hub id")
    args = parser.parse_args()
    guard, shield, dialog = Guard.load(args.guard) if args.guard else None, Shield(), list[dict[str, str]]()
    with Llama.load(args.model) as llama:
        for text in messages():
            turn = say(llama, dialog, text, guard=guard, shield=shield)
            print(turn.text)
            for warning in turn.warnings:
                print(f"shield: {warning}", file=sys.stderr)
    if guard is not None:
        guard.close()


if __name__ == "__main__":
    run(main)
