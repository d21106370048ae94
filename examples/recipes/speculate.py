r"""Speculative decoding compared: none, from the text so far, by a smaller model. The text is the same in all three.

    python -m examples.recipes.speculate --model llama-3.1-8b-4bit \
        --draft llama-3.2-1b-4bit

Prints forward passes a token: what lies below 1 was accepted from drafts. An edit of a given text, as here, suits
drafts from the text so far. The small model drafts for itself where no `--draft` is given, which shows the counting
and saves no time; for an 8B a 1B of the same tokenizer is the usual draft.
"""

from dataclasses import dataclass
from pathlib import Path

from examples.recipes import arguments, run
from llama3_mlx import Llama

TEXT = "The old lighthouse stood on a rock. The old lighthouse was white. The keeper of the old lighthouse was kind."


@dataclass(frozen=True)
class Run:
    """One way to decode."""

    name: str
    text: str
    tokens: int
    passes: int
    tokens_per_second: float

    def __str__(self) -> str:
        share = self.passes / max(1, self.tokens)
        return (
            f"{self.name:14}{self.tokens:6} tokens {share:6.2f} passes a token {self.tokens_per_second:8.1f} tokens/s"
        )


def measure(llama: Llama, name: str, *, speculate: bool, max_tokens: int) -> Run:
    """Answer once, greedily."""
    dialog = [{"role": "user", "content": f'Write this text again with "red" in place of "white":\n\n{TEXT}'}]
    done = llama.chat(dialog, temperature=0, max_tokens=max_tokens, speculate=speculate)
    return Run(name, done.text, len(done.token_ids), done.passes, done.tokens_per_second)


def compare(model: str | Path, draft: str | Path, *, max_tokens: int = 80) -> list[Run]:
    """Return a run without speculation, one with drafts from the text, and one with a draft model."""
    with Llama.load(model, disk_cache=False) as llama:
        runs = [
            measure(llama, name, speculate=speculate, max_tokens=max_tokens)
            for name, speculate in (("none", False), ("text so far", True))
        ]
    with Llama.load(model, draft=draft, disk_cache=False) as llama:
        return [*runs, measure(llama, "draft model", speculate=True, max_tokens=max_tokens)]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--draft", help="smaller model of the same tokenizer (the model itself)")
    args = parser.parse_args()
    runs = compare(args.model, args.draft or args.model)
    print(*runs, sep="\n")
    print("the same text" if len({run.text for run in runs}) == 1 else "the texts differ: rounding decided a tie")


if __name__ == "__main__":
    run(main)
