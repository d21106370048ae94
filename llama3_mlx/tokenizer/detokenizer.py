"""Streams text out of tokens: never half a character."""

import codecs
from collections.abc import Callable


class Detokenizer:
    """Turns tokens into text as soon as it is certain; an incomplete UTF-8 sequence is held back."""

    def __init__(self, token_bytes: Callable[[int], bytes], *, strips_first_space: bool = False) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._strip = strips_first_space

    def add(self, token: int) -> str:
        """Take a token and return the text that is now certain; control tokens have none."""
        return self._stripped(self._decoder.decode(self._token_bytes(token)))

    def finish(self) -> str:
        """Return what was held back: U+FFFD for a sequence that never became whole."""
        return self._stripped(self._decoder.decode(b"", final=True))

    def _stripped(self, text: str) -> str:
        if self._strip and text:
            self._strip = False
            return text.removeprefix(" ")
        return text
