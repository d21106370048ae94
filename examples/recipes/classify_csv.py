r"""Labels for the rows of a CSV file, many rows in one batch.

    python -m examples.recipes.classify_csv mails.csv labeled.csv \
        --column text --labels complaint,question,praise

Every answer is one of the labels and nothing else. A run that was broken off goes on where it ended: rows that the
result has already are left alone. The small model is right a little more often than chance; an 8B is right on most
mails without an example, and `--hint` says what the labels mean.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from examples.recipes import arguments, run
from llama3_mlx import Llama

Row = dict[str, str]


def label(llama: Llama, texts: Sequence[str], labels: Sequence[str], hint: str = "") -> list[str]:
    """Return the label of each text."""
    task = f"Classify the text as one of: {', '.join(labels)}. {hint}".strip()
    dialogs = [[{"role": "system", "content": task}, {"role": "user", "content": text}] for text in texts]
    return [done.text for done in llama.generate_batch(dialogs, choices=tuple(labels), max_tokens=40, temperature=0)]


def batches(rows: Sequence[Row], size: int) -> Iterator[Sequence[Row]]:
    """Yield the rows in groups."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def classify(
    llama: Llama, source: Path, result: Path, column: str, labels: Sequence[str], *, hint: str = "", batch: int = 32
) -> int:
    """Write the rows of a file with a column `label`; return how many were labeled now."""
    with source.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if rows and column not in rows[0]:
        raise SystemExit(f"error: {source} has no column {column!r}, but {', '.join(rows[0])}")
    done = 0
    if result.exists():
        with result.open(encoding="utf-8", newline="") as file:
            done = len(list(csv.DictReader(file)))
    with result.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*(rows[0] if rows else ()), "label"])
        if not done:
            writer.writeheader()
        for group in batches(rows[done:], batch):
            found = label(llama, [row[column] for row in group], labels, hint)
            writer.writerows({**row, "label": each} for row, each in zip(group, found, strict=True))
            file.flush()
    return len(rows) - done


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--column", default="text", help="column to classify by (%(default)s)")
    parser.add_argument("--labels", required=True, help="with commas")
    parser.add_argument("--hint", default="", help="what the labels mean")
    args = parser.parse_args()
    with Llama.load(args.model) as llama:
        labels = [each.strip() for each in args.labels.split(",")]
        print(classify(llama, args.source, args.result, args.column, labels, hint=args.hint), "rows labeled")


if __name__ == "__main__":
    run(main)
