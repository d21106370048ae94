"""A `Llama` that says what a test has set down for a question, and waits where the test says so.

Everything around it is real: the server and its streams, the prompt that it sees and the parser of tool calls.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from llama3_mlx import Llama
from llama3_mlx.engine.reply import Reply
from llama3_mlx.generation.completion import Piece
from llama3_mlx.generation.options import GenerationOptions

from .scripted_llama import pieces_of

WAIT_S = 60


@dataclass
class Says:
    """An answer: its text, and after how many tokens it waits for `go`."""

    text: str
    hold: int | None = None
    progress: Sequence[tuple[int, int]] = ()
    """What is reported of the prompt before the answer waits or begins."""
    every_s: float = 0.0
    """The time between two tokens."""
    go: threading.Event = field(default_factory=threading.Event)


class PacedLlama(Llama):
    """Answers in a thread of its own; any question that isn't set down is answered with itself."""

    answers: ClassVar[dict[str, Says]] = {}
    seen: ClassVar[list[str]] = []

    def submit(
        self,
        prompt: Sequence[int],
        options: Sequence[GenerationOptions],
        replies: Sequence[Reply],
        *,
        at_most: int | None = None,
        progress: Any = None,
        **_: Any,
    ) -> None:
        rendered = self.tokenizer.decode(list(prompt))
        self.seen.append(rendered)
        found = [says for question, says in self.answers.items() if question in rendered]
        says = found[-1] if found else Says(f"You said: {_last_question(rendered)}")
        for each, reply in zip(options, replies, strict=True):
            threading.Thread(
                target=self._answer, args=(says, each, reply, len(prompt), at_most, progress), daemon=True
            ).start()

    def _answer(
        self, says: Says, options: GenerationOptions, reply: Reply, n_prompt: int, at_most: int | None, progress: Any
    ) -> None:
        for done, total in says.progress:
            progress(done, total)
        tokens = self.tokenizer.encode(says.text)
        cut = at_most is not None and at_most < len(tokens)
        for place, item in enumerate(pieces_of(self, tokens[:at_most], options, n_prompt, cut=cut)):
            time.sleep(says.every_s)
            if place == says.hold:
                while not says.go.wait(0.02) and not reply.cancelled:
                    pass
            if reply.cancelled and isinstance(item, Piece):
                continue
            reply.deliver(item)


def _last_question(rendered: str) -> str:
    return rendered.rpartition("user<|end_header_id|>")[2].partition("<|eot_id|>")[0].strip()


class Loader:
    """Stands for `Llama` in the server: paced for some folders, real for the others."""

    def __init__(self, paced: Mapping[str, Path]) -> None:
        self._folders = {folder.resolve() for folder in paced.values()}
        self.hold: threading.Event | None = None
        """Loading waits for it."""

    def load(self, folder: Path, **options: Any) -> Llama:
        if self.hold is not None:
            self.hold.wait(WAIT_S)
        kind = PacedLlama if folder.resolve() in self._folders else Llama
        return kind.load(folder, **options)
