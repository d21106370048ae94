"""Reads tool calls written as Python: `[f(a=1), g(b=["x"])]` and `name.call(query="…")`.

A parser of its own, for literals alone, since Python's can be brought down by what a model writes.
Source of the grammar: https://docs.python.org/3/reference/expressions.html (calls, displays, literals).
"""

import math
import re
import sys

from ..json_types import JsonObject, JsonValue
from .call import Incomplete, ParsedCalls, PendingText, ToolCall, ToolNames, without_surrogates

BUILTIN_TOOLS = ("brave_search", "wolfram_alpha")
_MAX_DEPTH = 64
_OPENED = re.compile(r"\[\s*((?:[^\W\d][\w.]*)?)")
_AHEAD = re.compile(r"\s*(.?)", re.DOTALL)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{1,3}|.)", re.DOTALL)
_ESCAPES = {"\n": "", "\\": "\\", "'": "'", '"': '"', "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_TOKEN = re.compile(
    r"""\s*(?:
    (?P<string>\"{3}(?:[^\\]|\\.)*?\"{3}|'{3}(?:[^\\]|\\.)*?'{3}|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |(?P<number>[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][-+]?\d+)?)
    |(?P<name>[^\W\d][\w.]*)
    |(?P<sign>[\[\](){},:=])
    )""",
    re.VERBOSE | re.DOTALL,
)
_CONSTANTS = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}


class _NotACall(Exception):  # noqa: N818
    """The text isn't what was read so far."""


def read_pythonic_calls(held: PendingText, start: int) -> ParsedCalls | Incomplete | None:
    """Read a list of calls with keyword arguments."""
    opened = _OPENED.match(held.text, start)
    if opened is None:
        return None
    name, end = opened[1], opened.end()
    if end == len(held.text):
        return held.more if held.names.may_become(name) else None
    if name not in held.names or not held.text.startswith("(", end):
        return None
    if held.final or held.closed:
        try:
            return _Reader(held.text, start).calls(held.names)
        except _NotACall:
            pass
    return held.more


def read_builtin_call(held: PendingText, start: int) -> ParsedCalls | Incomplete | None:
    """Read `name.call(query="…")`, the built-in tools' syntax."""
    for name in BUILTIN_TOOLS if held.names.listed is None else held.names.listed:
        opening = f"{name}.call("
        if held.text.startswith(opening, start):
            if held.final or held.closed:
                try:
                    reader = _Reader(held.text, start + len(opening))
                    return ParsedCalls((ToolCall(name, without_surrogates(reader.keywords())),), reader.at)
                except _NotACall:
                    pass
            return held.more
        if not held.final and opening.startswith(held.text[start : start + len(opening)]):
            return Incomplete()
    return None


class _Reader:
    """Reads literals and calls of one text, token by token."""

    def __init__(self, text: str, at: int) -> None:
        self.text, self.at = text, at

    def calls(self, names: ToolNames) -> ParsedCalls:
        """Read a list of calls."""
        self._expect("[")
        found = []
        while True:
            name = self._next("name")
            if name not in names:
                raise _NotACall
            self._expect("(")
            found.append(ToolCall(name, without_surrogates(self.keywords())))
            if self._peek() == ",":
                self._expect(",")
            elif self._peek() != "]":
                raise _NotACall
            if self._peek() == "]":
                self._expect("]")
                return ParsedCalls(tuple(found), self.at)

    def keywords(self) -> JsonObject:
        """Read `a=1, b=2)`."""
        arguments: JsonObject = {}
        while self._peek() != ")":
            name = self._next("name")
            if "." in name or name in arguments:
                raise _NotACall
            self._expect("=")
            arguments[name] = self._value(0)
            if self._peek() != ")":
                self._expect(",")
        self._expect(")")
        return arguments

    def _value(self, depth: int) -> JsonValue:
        if depth > _MAX_DEPTH:
            raise _NotACall
        match = self._match()
        if match["string"]:
            return self._string(match["string"])
        if match["number"]:
            return _number(match["number"])
        if match["name"]:
            if match["name"] not in _CONSTANTS:
                raise _NotACall
            return _CONSTANTS[match["name"]]
        if match["sign"] == "{":
            return self._mapping(depth)
        if match["sign"] in ("[", "("):
            return self._items("]" if match["sign"] == "[" else ")", depth)
        raise _NotACall

    def _items(self, closing: str, depth: int) -> list[JsonValue]:
        items = []
        while self._peek() != closing:
            items.append(self._value(depth + 1))
            if self._peek() != closing:
                self._expect(",")
        self._expect(closing)
        return items

    def _mapping(self, depth: int) -> JsonObject:
        items: JsonObject = {}
        while self._peek() != "}":
            key = self._value(depth + 1)
            if not isinstance(key, str):
                raise _NotACall
            self._expect(":")
            items[key] = self._value(depth + 1)
            if self._peek() != "}":
                self._expect(",")
        self._expect("}")
        return items

    def _string(self, first: str) -> str:
        # Neighboring strings are one, as in Python.
        parts = [_string(first)]
        while self._peek() in ('"', "'"):
            parts.append(_string(self._next("string")))
        return "".join(parts)

    def _match(self) -> re.Match[str]:
        match = _TOKEN.match(self.text, self.at)
        if match is None:
            raise _NotACall
        self.at = match.end()
        return match

    def _next(self, kind: str) -> str:
        found = self._match()[kind]
        if not found:
            raise _NotACall
        return found

    def _expect(self, sign: str) -> None:
        if self._next("sign") != sign:
            raise _NotACall

    def _peek(self) -> str:
        match = _AHEAD.match(self.text, self.at)
        return match[1] if match else ""


def _string(token: str) -> str:
    quotes = 3 if token[:3] in ('"""', "'''") and len(token) >= 6 else 1
    return _ESCAPE.sub(_unescaped, token[quotes:-quotes])


def _unescaped(match: re.Match[str]) -> str:
    code = match[1]
    if code[0] in "01234567":
        return chr(int(code, 8))
    if len(code) == 1:
        return _ESCAPES.get(code, match[0])
    if int(code[1:], 16) > sys.maxunicode:
        raise _NotACall
    return chr(int(code[1:], 16))


def _number(token: str) -> int | float:
    try:
        return int(token)
    except ValueError:
        pass
    try:
        number = float(token)
    except ValueError:
        raise _NotACall from None
    if not math.isfinite(number):
        raise _NotACall
    return number
