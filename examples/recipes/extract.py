"""A pydantic object out of a text: the schema holds while it is written, rules beyond it are asked for again.

    python -m examples.recipes.extract invoice.txt --log attempts.jsonl

No schema can say that the total is the sum of the lines: pydantic's validator does, and what it objects to goes back
to the model, three times at most. Each attempt is a line of the log. The small model seldom adds up; an 8B corrects
most of its slips at the second attempt.
"""

import json
from pathlib import Path
from typing import Self, TextIO

from pydantic import BaseModel, Field, model_validator

from examples.recipes import arguments, run
from llama3_mlx import Llama, StructureError


class Line(BaseModel):
    """A line of an invoice; amounts are in cents."""

    text: str = Field(max_length=60)
    cents: int = Field(ge=0, le=10_000_000)


class Invoice(BaseModel):
    """An invoice as a program wants it."""

    seller: str = Field(max_length=60)
    lines: list[Line] = Field(min_length=1, max_length=20)
    total_cents: int = Field(ge=0, le=100_000_000)

    @model_validator(mode="after")
    def total_is_the_sum(self) -> Self:
        """Object to a total that isn't the sum of the lines."""
        if (total := sum(line.cents for line in self.lines)) != self.total_cents:
            raise ValueError(f"total_cents is {self.total_cents}, but the lines add up to {total}")
        return self


def extract(llama: Llama, text: str, *, log: TextIO, attempts: int = 3, max_tokens: int = 600) -> Invoice | None:
    """Return the invoice in a text, None where no attempt held."""
    dialog = [{"role": "user", "content": f"Write this invoice as JSON, amounts in cents:\n\n{text}"}]
    for attempt in range(1, attempts + 1):
        try:
            done = llama.chat(dialog, schema=Invoice, max_tokens=max_tokens, temperature=0)
            found, answer, problem = done.parsed, done.text, None if done.parsed is not None else "it is cut off"
        except StructureError as error:
            found, answer, problem = None, error.text, str(error)
        log.write(json.dumps({"attempt": attempt, "answer": answer, "problem": problem}) + "\n")
        if found is not None:
            return found
        dialog += [
            {"role": "assistant", "content": answer},
            {"role": "user", "content": f"That is wrong: {problem}. Write the corrected JSON."},
        ]
    return None


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--log", type=Path, default=Path("attempts.jsonl"), help="file to add to (%(default)s)")
    args = parser.parse_args()
    # Each attempt stands in the file at once.
    with Llama.load(args.model) as llama, args.log.open("a", buffering=1, encoding="utf-8") as log:
        invoice = extract(llama, args.file.read_text(encoding="utf-8"), log=log)
    if invoice is None:
        raise SystemExit(f"error: no attempt held; {args.log} has them")
    print(invoice.model_dump_json(indent=1))


if __name__ == "__main__":
    run(main)
