"""An application around a model: mails are sorted all at once, then one of them is answered while others go on.

`python -m examples.inbox MODEL`. Every answer follows a dataclass, so that the program can rely on its fields; the
answers are generated in one batch, and a stream can be left at any point.
"""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from llama3_mlx import Llama

MAILS = (
    "The wall clock I ordered came with a cracked glass. Can you send me another one?",
    "How much is delivery to Bergen, and how long does it take?",
    "Your garden chairs are wonderful, the whole family loves them. Thank you!",
)


@dataclass
class Sorted:
    """What the program wants to know of a mail."""

    kind: Literal["complaint", "question", "praise"]
    urgent: bool


def sort_mails(llama: Llama, mails: Sequence[str]) -> list[Sorted | None]:
    """Sort all mails in one batch; None where an answer was cut off."""
    dialogs = [[{"role": "user", "content": f"Sort this mail:\n\n{mail}"}] for mail in mails]
    return [done.parsed for done in llama.generate_batch(dialogs, schema=Sorted, max_tokens=500, temperature=0)]


async def answer(llama: Llama, mail: str, *, longest: int) -> str:
    """Draft an answer piece by piece, and leave it once it is long enough."""
    question = [{"role": "user", "content": f"Answer this mail in two sentences:\n\n{mail}"}]
    text = ""
    stream = llama.astream_chat(question, temperature=0)
    async for piece in stream:
        text += piece.text
        if len(text) >= longest:
            stream.cancel()
            break
    return text


async def answer_all(llama: Llama, mails: Sequence[str], *, longest: int) -> list[str]:
    """Draft answers to all mails at the same time, on one event loop and one model."""
    return await asyncio.gather(*(answer(llama, mail, longest=longest) for mail in mails))


def main() -> None:
    """Sort and answer the mails with the model of the command line."""
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/inbox.py MODEL")
    with Llama.load(sys.argv[1]) as llama:
        for mail, found in zip(MAILS, sort_mails(llama, MAILS), strict=True):
            print(f"{found}: {mail}")
        for text in asyncio.run(answer_all(llama, MAILS, longest=300)):
            print(f"\n{text}")


if __name__ == "__main__":
    main()
