"""A tool call that a limit cut off: its name, and its arguments as far as they came."""

import re
from collections.abc import Collection
from dataclasses import dataclass

# Source: https://www.llama.com/docs/model-cards-and-prompt-formats/llama3_1 (JSON based tool calling).
_BEGINS = re.compile(r"[\s;,]*(<\|python_tag\|>\s*)?\{")
_NAME = re.compile(r'\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*"((?:[^"\\]|\\.)*)"')
_ARGUMENTS = re.compile(r'\s*,\s*"(?:parameters|arguments)"\s*:\s*')


@dataclass(frozen=True, slots=True)
class UnfinishedCall:
    """The name is empty where not even that is whole."""

    name: str
    arguments_json: str


def may_begin_call(text: str) -> bool:
    """Whether a text may be the beginning of a call in JSON."""
    return bool(_BEGINS.match(text)) or (bool(text) and not text.strip(" \t\r\n;,"))


def unfinished_call(text: str) -> UnfinishedCall | None:
    """Return the call that `text` begins, None if it is something else."""
    begins = _BEGINS.match(text)
    if begins is None:
        return None
    body = text[begins.end() - 1 :]
    name = _NAME.match(body)
    if name is None:
        is_cut = re.fullmatch(r'\{\s*("?[a-z]*"?\s*:?\s*"?[^"]*)?', body)
        return UnfinishedCall("", "") if is_cut else None
    arguments = _ARGUMENTS.match(body, name.end())
    return UnfinishedCall(name[1], body[arguments.end() :] if arguments else "")


def cut_call(text: str, names: Collection[str], *, must_call: bool) -> UnfinishedCall | None:
    """Return the call of one of the tools that the last text of an answer begins, which a limit ended there.

    Without `must_call` it needs a name to be one: the answer could be an object of JSON, too.
    """
    call = unfinished_call(text)
    if call is None or not (call.name in names if call.name else must_call):
        return None
    return call
