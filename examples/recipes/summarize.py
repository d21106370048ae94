"""A summary of a document longer than the context: notes on each part (map), then a summary of the notes (reduce).

    python -m examples.recipes.summarize report.txt

Each part is read once: the second question about it goes on from the first one's dialog, whose tokens are in the
prefix cache. `--part 400` suits the small model, which keeps only half of what it reads; an 8B takes parts of 6000
tokens, and its notes keep names, dates and figures.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from examples.recipes import arguments, run
from llama3_mlx import Llama


@dataclass
class Notes:
    """What was noted on one part, and how many tokens of the second prompt were read already."""

    summary: str
    figures: str
    prompt_tokens: int
    cached_tokens: int


def parts_of(llama: Llama, text: str, longest: int) -> Iterator[str]:
    """Yield the text in parts of at most `longest` tokens, of whole paragraphs where those aren't longer themselves."""
    part: list[int] = []
    for paragraph in text.split("\n\n"):
        ids = llama.tokenizer.encode(paragraph + "\n\n")
        if part and len(part) + len(ids) > longest:
            yield llama.tokenizer.decode(part).strip()
            part = []
        part += ids
        while len(part) > longest:
            yield llama.tokenizer.decode(part[:longest]).strip()
            part = part[longest:]
    if part:
        yield llama.tokenizer.decode(part).strip()


def note(llama: Llama, part: str, max_tokens: int) -> Notes:
    """Ask for a part's summary, then for its figures in the same dialog."""
    dialog = [{"role": "user", "content": f"{part}\n\nSummarize this part of a document in three sentences."}]
    first = llama.chat(dialog, max_tokens=max_tokens, temperature=0)
    dialog += [
        {"role": "assistant", "content": first.text},
        {"role": "user", "content": "List the names, dates and figures in it, on one line."},
    ]
    second = llama.chat(dialog, max_tokens=max_tokens, temperature=0)
    return Notes(first.text.strip(), second.text.strip(), second.prompt_tokens, second.cached_tokens)


def summarize(llama: Llama, text: str, *, part: int = 400, max_tokens: int = 120) -> tuple[str, list[Notes]]:
    """Return the summary, and the notes that it was made from; notes that are too long are summarized in their turn."""
    notes = [note(llama, each, max_tokens) for each in parts_of(llama, text, part)]
    joint = "\n\n".join(f"{each.summary}\n{each.figures}" for each in notes)
    # Notes that are hardly shorter than what they are on would be summarized over and over.
    if len(notes) > 1 and part < len(llama.tokenizer.encode(joint)) < 0.7 * len(llama.tokenizer.encode(text)):
        return summarize(llama, joint, part=part, max_tokens=max_tokens)[0], notes
    question = f"{joint}\n\nThese are notes on a document. Write a summary of it in one paragraph."
    done = llama.chat([{"role": "user", "content": question}], max_tokens=2 * max_tokens, temperature=0)
    return done.text.strip(), notes


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--part", type=int, default=400, help="tokens of a part (%(default)s)")
    args = parser.parse_args()
    with Llama.load(args.model) as llama:
        summary, notes = summarize(llama, args.file.read_text(encoding="utf-8"), part=args.part)
    for each in notes:
        print(f"- {each.summary} ({each.cached_tokens} of {each.prompt_tokens} tokens were cached)")
    print(f"\n{summary}")


if __name__ == "__main__":
    run(main)
