"""Text to token ids and back. Text is always ordinary: no text becomes a control token unless a dialog writes it.

Llama 3's vocabulary runs on tiktoken, whichever file holds it; any other tokenizer.json on the `tokenizers` package.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from ..errors import RequestError
from .detokenizer import Detokenizer

Encoder = Callable[[str], list[int]]


@dataclass(frozen=True)
class Ends:
    """Where texts begin and end, and where the vocabulary does: the embedding's rows, None if they aren't known."""

    bos_id: int | None
    stop_ids: frozenset[int]
    embedding_rows: int | None = None


class Tokenizer:
    """A tokenizer of either kind; made by `load_tokenizer`."""

    def __init__(
        self,
        encode: Encoder,
        token_bytes: Sequence[bytes] | Mapping[int, bytes],
        control_tokens: Mapping[str, int],
        *,
        vocab_size: int,
        ends: Ends,
        adds_bos: bool = True,
        strips_first_space: bool = False,
        patterns: Mapping[str, str] | None = None,
    ) -> None:
        self._token_bytes = token_bytes
        self.control_tokens = dict(control_tokens)
        self.vocab_size = vocab_size
        self.bos_id = ends.bos_id
        self.stop_ids = tuple(sorted(ends.stop_ids))
        self.embedding_rows = vocab_size if ends.embedding_rows is None else ends.embedding_rows
        self.adds_bos = adds_bos
        self._strips_first_space = strips_first_space
        self._control_text = {token: text for text, token in control_tokens.items()}
        self._patterns = dict(patterns or {})
        # Tokens that the embedding has no row for, by their text.
        texts = ((self._text(token), token) for token in range(self.embedding_rows, vocab_size))
        self.beyond = {text: token for text, token in texts if text}
        self._encode = partial(_encode_within, encode, self.embedding_rows, self.beyond) if self.beyond else encode

    @property
    def encoder(self) -> Encoder:
        """What turns ordinary text, free of lone surrogates, into ids; it doesn't keep this object alive."""
        return self._encode

    def encode(self, text: str, *, bos: bool = False) -> list[int]:
        """Return the ids of `text`, every character of it ordinary; `bos` puts the beginning of text before.

        A lone surrogate, which no encoding can carry, counts as U+FFFD.
        """
        ids = self._encode(_without_surrogates(text)) if text else []
        if not bos or self.bos_id is None or not self.adds_bos:
            return ids
        return [_within(self.bos_id, self.embedding_rows, self.beyond), *ids]

    def encode_rendered(self, text: str, sentinel: str = "") -> list[int]:
        """Return the ids of a dialog that a template has rendered: control tokens in it are recognized.

        `sentinel` is a character that was put inside what must stay ordinary; it is removed before encoding.
        """
        return [token for _, tokens in self.rendered_pieces(text, sentinel) for token in tokens]

    def rendered_pieces(self, text: str, sentinel: str = "") -> Iterator[tuple[str, list[int]]]:
        """Yield the pieces of a rendered dialog, control tokens and what stands between, each with its ids."""
        at = 0
        for match in self._control_pattern.finditer(text):
            yield from self._ordinary(text[at : match.start()], sentinel)
            yield match[0], [_within(self.control_tokens[match[0].strip()], self.embedding_rows, self.beyond)]
            at = match.end()
        yield from self._ordinary(text[at:], sentinel)

    def _ordinary(self, text: str, sentinel: str) -> Iterator[tuple[str, list[int]]]:
        plain = text.replace(sentinel, "") if sentinel else text
        if plain:
            yield plain, self.encode(plain)

    def decode(self, ids: Sequence[int], *, control: bool = True) -> str:
        """Return the text of `ids`; bytes that are no UTF-8 become U+FFFD.

        `control=False` leaves control tokens out.
        """
        text = b"".join(self.token_bytes(token) or self._control_bytes(token, control) for token in ids)
        return text.decode("utf-8", "replace").removeprefix(" " if self._strips_first_space else "")

    def _text(self, token: int) -> str:
        return self._control_text.get(token) or self.token_bytes(token).decode("utf-8", "replace")

    def _control_bytes(self, token: int, shown: bool) -> bytes:
        return self._control_text.get(token, "").encode() if shown else b""

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of an ordinary token; none for control tokens and ids out of use."""
        if isinstance(self._token_bytes, Mapping):
            return self._token_bytes.get(token, b"")
        return self._token_bytes[token] if 0 <= token < len(self._token_bytes) else b""

    def control_text(self, token: int) -> str | None:
        """Return the text of a control token, None for ordinary ones."""
        return self._control_text.get(token)

    def make_detokenizer(self, shown: Collection[str] = ()) -> Detokenizer:
        """Return a fresh streaming decoder, whose text is that of `decode(ids, control=False)`.

        Control tokens whose text is in `shown` are written out.
        """
        visible = {self.control_tokens[text]: text.encode() for text in shown if text in self.control_tokens}

        def token_bytes(token: int) -> bytes:
            return visible.get(token) or self.token_bytes(token)

        return Detokenizer(token_bytes if visible else self.token_bytes, strips_first_space=self._strips_first_space)

    @cached_property
    def _control_pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self.control_tokens, key=len, reverse=True)
        alternatives = [self._patterns.get(text) or re.escape(text) for text in longest_first]
        return re.compile("|".join(alternatives) or r"(?!)")


def _encode_within(encode: Encoder, rows: int, beyond: Mapping[str, int], text: str) -> list[int]:
    ids = encode(text)
    if ids:
        _within(max(ids), rows, beyond)
    return ids


def _within(token: int, rows: int, beyond: Mapping[str, int]) -> int:
    """Return the id; raises RequestError where the embedding has no row for it."""
    if token < rows:
        return token
    text = next((text for text, number in beyond.items() if number == token), "")
    raise RequestError(
        f"the text needs the token {text!r}, id {token}, and the model's embedding has {rows} rows: leave it out, or "
        "use the tokenizer that belongs to these weights"
    )


def _without_surrogates(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
