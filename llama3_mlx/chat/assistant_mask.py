"""The assistant mask: which tokens of a dialog the assistant wrote, from a rendered text that marks it."""

from ..tokenizer.tokenizer import Tokenizer


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
