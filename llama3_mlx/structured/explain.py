"""What llguidance says, in words for users: one line, without its pictures of the source and its inner names."""

import re

_MESSAGE_CHARACTERS = 200
_UNSATISFIABLE = re.compile(r"Unsatisfiable schema: (.*)")
_DETAIL = re.compile(
    r"(\w+ \([^()]*\) is greater than \w+ \([^()]*\)|required property '.*' is unsatisfiable)", re.DOTALL
)
_PLACE = re.compile(r"(?:at )?(\d+)\((\d+)\): (.*)")
_BROKEN_REGEX = re.compile(r'invalid regex "(.*?)" \(')
_GBNF = re.compile(r"Failed to convert the grammar from GBNF to Lark: (.*)")


def explained(message: str, *, placed: bool = False) -> str:
    """Return the reason in llguidance's message; `placed` says that its lines are those of the user's own text."""
    said = message.partition("\n<state>")[0].partition("\n<backtrace>")[0].removeprefix("panic: ")
    unsatisfiable = _UNSATISFIABLE.search(said)
    if unsatisfiable:
        detail = _DETAIL.match(unsatisfiable[1])
        return f"nothing fits it{': ' + detail[1].replace(' is unsatisfiable', ' can have no value') if detail else ''}"
    if "too many expressions constructed" in said:
        return "it is too large to be followed: smaller counts of repetitions, or fewer alternatives, take less room"
    gbnf = _GBNF.match(said)
    if gbnf:
        return _short(gbnf[1].partition(", '")[0])
    broken = re.search(r"error: (.*)", said)
    place = _PLACE.match(said)
    line = f"line {place[1]}, character {place[2]}: " if place and placed else ""
    if broken:
        pattern = _BROKEN_REGEX.search(said)
        # Quoted as Rust does it, with each backslash twice.
        quoted = pattern and pattern[1].replace("\\\\", "\\")
        return _short(line + (f"the regular expression '{quoted}': " if quoted else "") + broken[1])
    said = (place[3] if place else said).partition("\n")[0]
    return _short(
        line
        + re.sub(
            r"; following special tokens are available.*| in regex /.*",
            "",
            said.replace("lexer error", "this isn't part of the syntax"),
        )
    )


def _short(message: str) -> str:
    line = " ".join(message.split())
    return line if len(line) <= _MESSAGE_CHARACTERS else line[: _MESSAGE_CHARACTERS - 1] + "…"
