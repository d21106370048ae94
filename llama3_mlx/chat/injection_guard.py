"""Keeps control tokens out of reach of a dialog's strings while a template works on them.

A character that occurs nowhere in the dialog is put inside whatever is, or could become, the text of a control token.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import chain

from ..errors import DialogError
from ..json_types import JsonMapping, JsonObject, JsonValue

_PRIVATE_USE = range(0xE000, 0xF8FF)


class InjectionGuard:
    """Breaks up the control tokens of one tokenizer."""

    def __init__(self, control_tokens: Iterable[str]) -> None:
        self._tokens = sorted(filter(None, control_tokens), key=len, reverse=True)
        self._longest = max(map(len, self._tokens), default=0)

    def message(self, message: JsonMapping, sentinel: str) -> JsonObject:
        """Return a checked message, guarded but for its role: that is one of a few known words."""
        return {key: value if key == "role" else self.value(value, sentinel) for key, value in message.items()}

    def value(self, value: JsonValue, sentinel: str) -> JsonValue:
        """Return a value of JSON's kinds with every string in it guarded, keys included."""
        if isinstance(value, str):
            return self.text(value, sentinel)
        if isinstance(value, Mapping):
            return {self.value(key, sentinel): self.value(item, sentinel) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item, sentinel) for item in value]
        return value

    def text(self, text: str, sentinel: str) -> str:
        """Return the text with the sentinel after each character where a control token begins, or could if joined."""
        at, pieces = 0, []
        for position in self._positions(text):
            pieces += [text[at : position + 1], sentinel]
            at = position + 1
        return "".join([*pieces, text[at:]]) if pieces else text

    def _positions(self, text: str) -> Iterator[int]:
        tail = max(0, len(text) - self._longest + 1)
        match = self._pattern.search(text)
        while match:
            # Beginnings in the tail are found below; a token may begin inside another.
            if match.start() >= tail:
                break
            yield match.start()
            match = self._pattern.search(text, match.start() + 1)
        for position in range(tail, len(text)):
            rest = text[position:]
            if any(token.startswith(rest) or rest.startswith(token) for token in self._tokens):
                yield position

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self._tokens)) or r"(?!)")


def unused_characters(*values: JsonValue) -> tuple[str, str, str, str]:
    """Return four characters that occur nowhere in the values; raises DialogError if there are none."""
    used = set().union(*map(set, _strings(values)))
    free = (chr(code) for code in _PRIVATE_USE if chr(code) not in used)
    try:
        return next(free), next(free), next(free), next(free)
    except StopIteration:
        raise DialogError("the dialog uses every private-use character of Unicode") from None


def _strings(value: JsonValue) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from chain.from_iterable(_strings(part) for pair in value.items() for part in pair)
    elif isinstance(value, list | tuple):
        yield from chain.from_iterable(map(_strings, value))
