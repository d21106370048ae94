"""Regular expressions of JSON Schema, which are ECMA 262's, in the dialects of Python's `regex` and of Rust.

Source: https://262.ecma-international.org/15.0/#sec-patterns, with the `u` flag.
"""

import re as _re
from functools import lru_cache
from typing import Literal

import regex  # type: ignore[import-untyped]

from ..errors import RequestError

Dialect = Literal["python", "rust"]

_CLASSES = {
    "d": "0-9",
    "w": "A-Za-z0-9_",
    "s": r"\t\n\x0b\x0c\r \xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff",
}
_TOKEN = _re.compile(
    r"\\u\{([0-9A-Fa-f]+)\}|\\u([0-9A-Fa-f]{4})|\\x([0-9A-Fa-f]{2})|\\c([A-Za-z])|\\k<(\w+)>|\\(.)|\(\?<(?=[A-Za-z_$])"
    r"|\[\^?\]?|.",
    _re.DOTALL,
)


@lru_cache(maxsize=512)
def compiled(pattern: str) -> "regex.Pattern[str]":
    """Return what searches for the pattern; raises RequestError for what is no regular expression."""
    try:
        return regex.compile(translated(pattern, "python"))
    except (regex.error, OverflowError) as error:
        raise RequestError(f"the pattern {pattern!r:.80} isn't a regular expression of ECMA 262: {error}") from None


def translated(pattern: str, dialect: Dialect) -> str:
    """Return the pattern in another dialect."""
    parts: list[str] = []
    inside = False
    for token in _TOKEN.finditer(pattern):
        text = token[0]
        if not inside and text.startswith("["):
            opened, parts_of_class = _opened(text, dialect)
            parts.append(parts_of_class)
            inside = opened
        elif inside and text == "]":
            parts.append("]")
            inside = False
        else:
            parts.append(_part(token, inside, dialect))
    return "".join(parts)


def _opened(text: str, dialect: Dialect) -> tuple[bool, str]:
    """Return whether a class goes on, and its beginning; `[]` matches nothing and `[^]` any character."""
    if text == "[]":
        return False, "(?!)" if dialect == "python" else r"[^\x00-\U0010ffff]"
    return (False, r"[\x00-\U0010ffff]") if text == "[^]" else (True, text)


def _part(token: "_re.Match[str]", inside: bool, dialect: Dialect) -> str:
    text, (braced, four, two, control, group, escaped) = token[0], token.groups()
    code = braced or four or two
    if code is not None:
        return _character(int(code, 16), dialect)
    if control is not None:
        return _character(ord(control) % 32, dialect)
    if group is not None:
        return f"(?P={group})"
    if escaped is not None:
        return _escape(escaped, inside, dialect)
    if text == "(?<":
        return "(?P<"
    if text == "$" and not inside and dialect == "python":
        return r"\Z"
    # Both dialects know nested classes and operations on them, which ECMA's have not.
    return f"\\{text}" if inside and text in "[&~|" else text


def _escape(escaped: str, inside: bool, dialect: Dialect) -> str:
    if escaped.lower() in _CLASSES:
        members = _in_dialect(_CLASSES[escaped.lower()], dialect)
        if escaped.islower():
            return members if inside else f"[{members}]"
        return f"[^{members}]" if not inside or dialect == "rust" else f"\\{escaped}"
    if escaped == "0":
        return r"\x00"
    return escaped if escaped == "/" else f"\\{escaped}"


def _in_dialect(members: str, dialect: Dialect) -> str:
    return _re.sub(r"\\u([0-9a-f]{4})", r"\\x{\1}", members) if dialect == "rust" else members


def _character(code: int, dialect: Dialect) -> str:
    return f"\\x{{{code:x}}}" if dialect == "rust" else f"\\U{code:08x}"
