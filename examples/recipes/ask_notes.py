r"""Questions over your own notes, answered with citations: BM25 finds paragraphs, and only those can be cited.

    pip install '.[recipes]'
    python -m examples.recipes.ask_notes ~/notes \
        "When is the boiler due for service?"

Reads `.md` and `.txt` files. The answer's schema lists the numbers of the paragraphs that were shown, so a citation
always leads somewhere; whether it is the right one is up to the model. The small model often cites the first; an 8B
gives more than one where it needs them, and answers that the notes don't say it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import bm25s

from examples.recipes import arguments, run
from llama3_mlx import Llama


@dataclass(frozen=True)
class Passage:
    """A paragraph, with the file and the line where it begins."""

    file: Path
    line: int
    text: str


@dataclass(frozen=True)
class Answer:
    """An answer and the paragraphs that it rests on; none where the limit of tokens ended it."""

    text: str
    sources: tuple[Passage, ...]


def passages_of(folder: Path) -> list[Passage]:
    """Return the paragraphs of a folder's notes."""
    found: list[Passage] = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".md", ".txt")):
        line = 1
        for paragraph in path.read_text(encoding="utf-8").split("\n\n"):
            if paragraph.strip():
                found.append(Passage(path, line, paragraph.strip()))
            line += paragraph.count("\n") + 2
    return found


class Index:
    """Paragraphs, to be found by the words of a question."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self.passages = list(passages)
        self._bm25 = bm25s.BM25()
        self._bm25.index(bm25s.tokenize([each.text for each in passages], show_progress=False), show_progress=False)

    def find(self, question: str, count: int) -> list[Passage]:
        """Return the paragraphs that fit a question best, that first; those with none of its words are left out."""
        words = bm25s.tokenize(question, show_progress=False)
        if not words.vocab:
            return []
        places, scores = self._bm25.retrieve(words, k=min(count, len(self.passages)), show_progress=False)
        return [self.passages[place] for place, score in zip(places[0], scores[0], strict=True) if score > 0]


def ask(llama: Llama, index: Index, question: str, *, count: int = 4, max_tokens: int = 300) -> Answer:
    """Answer a question from the paragraphs that fit it best."""
    shown = index.find(question, count)
    if not shown:
        return Answer("The notes have none of these words.", ())
    numbered = "\n\n".join(f"[{number}] {each.text}" for number, each in enumerate(shown, 1))
    schema = {
        "type": "object",
        "properties": {
            "sources": {
                "type": "array",
                "items": {"enum": list(range(1, len(shown) + 1))},
                "minItems": 1,
                "maxItems": 3,
            },
            "answer": {"type": "string", "maxLength": 400},
        },
        "required": ["sources", "answer"],
    }
    dialog = [
        {"role": "system", "content": "Answer from the numbered notes alone, and name the notes that say it."},
        {"role": "user", "content": f"{numbered}\n\n{question}"},
    ]
    done = llama.chat(dialog, schema=schema, max_tokens=max_tokens, temperature=0)
    if done.parsed is None:
        return Answer(done.text, ())
    numbers: list[int] = done.parsed["sources"]
    return Answer(done.parsed["answer"], tuple(shown[number - 1] for number in dict.fromkeys(numbers)))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("question")
    args = parser.parse_args()
    index = Index(passages_of(args.folder.expanduser()))
    with Llama.load(args.model) as llama:
        answer = ask(llama, index, args.question)
    print(answer.text)
    for each in answer.sources:
        print(f"  {each.file}:{each.line}  {each.text[:60]}")


if __name__ == "__main__":
    run(main)
