"""GBNF grammars, llama.cpp's, made ready for llguidance's conversion, which renames rules and rewrites escapes.

Source of the syntax: https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md.
"""

import re

_RULE = re.compile(r"^[ \t]*([A-Za-z0-9-]+)[ \t]*::=", re.MULTILINE)
# Texts, classes of characters and comments, in which names are no rules; and names.
_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|\#[^\n]*|[A-Za-z][A-Za-z0-9-]*', re.DOTALL)
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))", re.DOTALL)
_SYNTAX = frozenset('"\\[]^-\n\r\t')


def prepared(grammar: str) -> str:
    """Return a GBNF grammar with rules whose names differ in more than case, and with characters for their escapes.

    Any other grammar comes back as it is.
    """
    rules = _RULE.findall(grammar)
    if "root" not in rules:
        return grammar
    names: dict[str, str] = {}
    for rule in dict.fromkeys(rules):
        taken = {name.lower() for name in names.values()} | {"start"}
        name, number = rule, 2
        while name.lower() in taken:
            name, number = f"{rule}-{number}", number + 1
        names[rule] = name

    def replaced(token: re.Match[str]) -> str:
        text = token[0]
        return _ESCAPE.sub(_character, text) if text[0] in '"[' else names.get(text, text)

    return _TOKEN.sub(replaced, grammar)


def _character(escape: re.Match[str]) -> str:
    code = escape[1] or escape[2]
    if code is None:
        return escape[0]
    character = chr(int(code, 16))
    return f"\\x{int(code, 16):02X}" if character in _SYNTAX or int(code, 16) < 32 else character
