"""The assistant mask: which tokens of a dialog the assistant wrote, from a rendered text that marks it."""

from collections.abc import Sequence
from typing import Protocol

from ..errors import DialogError
from ..tokenizer.tokenizer import Tokenizer
from .messages import MessageDict


class _Render(Protocol):
    """Writes these messages of a dialog, up to its end or to where the assistant's next message begins."""

    def __call__(self, *, closed: bool, messages: list[MessageDict]) -> str: ...


def marked_by_prefixes(
    messages: list[MessageDict], whole: str, marks: Sequence[str], stops: Sequence[str | None], render: _Render
) -> str:
    """Return the text of a dialog with marks around what the assistant wrote, `stops` included.

    Compares what the template writes before and after each of its messages; raises DialogError where that doesn't
    tell.
    """
    begin, end = marks
    pieces, at = [], 0
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _before(messages, index, begin, render)
        after = render(closed=True, messages=messages[: index + 1])
        if not (after.startswith(before) and whole.startswith(after) and len(before) >= at):
            raise DialogError(
                f"this chat template doesn't show which part of message {index} the assistant wrote: give it a "
                "{% generation %} block"
            )
        stop = len(before) + _end_of_turn(after[len(before) :], stops)
        pieces += [whole[at : len(before)], begin, whole[len(before) : stop], end]
        at = stop
    return "".join([*pieces, whole[at:]])


def _before(messages: list[MessageDict], index: int, begin: str, render: _Render) -> str:
    """Return what the template writes before the content of an assistant's message."""
    if index:
        return render(closed=False, messages=messages[:index])
    # Templates look at the first message: there is none before the one that opens the dialog.
    first = {**messages[0], "content": begin + messages[0]["content"]}
    return render(closed=True, messages=[first]).partition(begin)[0]


def _end_of_turn(text: str, stops: Sequence[str | None]) -> int:
    """Return where the last stop token of `text` ends, else where the text does."""
    ends = [text.rfind(stop) + len(stop) for stop in stops if stop and stop in text]
    return max(ends, default=len(text))


def encode_marked(tokenizer: Tokenizer, text: str, sentinel: str, begin: str, end: str) -> tuple[list[int], list[bool]]:
    """Encode the text as if the marks `begin` and `end` weren't there; a token counts if it begins between them."""
    plain, spans = _without_marks(text, sentinel, begin, end)
    ids: list[int] = []
    mask: list[bool] = []
    at = 0
    for piece, tokens in tokenizer.rendered_pieces(plain, sentinel):
        size = len(piece.encode("utf-8", "surrogatepass"))
        starts = _starts(tokenizer, tokens, at, size)
        ids += tokens
        mask += [any(first <= start < last for first, last in spans) for start in starts]
        at += size
    return ids, mask


def _without_marks(text: str, sentinel: str, begin: str, end: str) -> tuple[str, list[tuple[int, int]]]:
    """Return the text without marks, and the spans between them in bytes of it, the sentinel not counted."""
    spans: list[tuple[int, int]] = []
    plain: list[str] = []
    at = 0
    for number, part in enumerate(text.split(begin)):
        inside, found, rest = part.partition(end)
        size = _size(inside, sentinel)
        if number and found:
            spans.append((at, at + size))
        plain.append(inside + rest)
        at += size + _size(rest, sentinel)
    return "".join(plain), spans


def _size(text: str, sentinel: str) -> int:
    return len(text.replace(sentinel, "").encode("utf-8", "surrogatepass"))


def _starts(tokenizer: Tokenizer, tokens: list[int], at: int, size: int) -> list[int]:
    """Return where each token of a piece begins; what the tokenizer puts before the piece takes no place."""
    sizes = [len(tokenizer.token_bytes(token)) for token in tokens]
    added = max(0, sum(sizes) - size)
    starts, position = [], at - added
    for length in sizes:
        starts.append(max(position, at))
        position += length
    return starts
