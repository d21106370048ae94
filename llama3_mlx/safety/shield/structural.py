"""Rules on syntax trees by ast-grep: all rules of a language in one walk over the tree."""

import re
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .result import Finding, Report
from .rules import Rule, rules_of

if TYPE_CHECKING:
    from ast_grep_py import SgNode

_ENGINE = "ast-grep"
_KEY = re.compile(
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36}\b|\bxox[baprs]-[0-9A-Za-z-]{10,72}\b"
    r"|-----BEGIN (?:RSA |EC |DSA |OPENSSH )?PRIVATE KEY-----"
)
# Grammars of which each reads what the other can't.
_ALSO = {"typescript": "tsx"}
_MOST_OPEN_COMMENTS = 50


class StructuralEngine:
    """Scans code of one language with the shield's own rules."""

    def __init__(self, language: str) -> None:
        self.language = language
        self.rules = rules_of(language)

    @cached_property
    def defect(self) -> str | None:
        """Why the engine can't be trusted: a rule that doesn't find its own example; None if all of them do."""
        if not self.rules:
            return f"there are no rules for {self.language}"
        try:
            blind = next((rule.id for rule in self.rules if rule.id not in self._found_in(rule.found)), None)
        except BaseException as error:  # The engine's panics are no Exception.
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            return f"the engine for {self.language} is broken: {error!s:.100}"
        return blind and f"the engine for {self.language} is broken: the rule {blind} doesn't find its example"

    def scan(self, code: str) -> Report:
        """Return what the rules find."""
        if self.defect:
            return Report(tuple(known_keys(code)), self.defect)
        if self.language != "python" and _open_comments(code) > _MOST_OPEN_COMMENTS:
            return Report(tuple(known_keys(code)), "comments aren't closed")
        try:
            root = self._parsed(code)
            findings = [*self._findings(root), *known_keys(code)]
            return Report(tuple(findings), _syntax_error(root))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            return Report(tuple(known_keys(code)), f"the engine for {self.language} failed: {error!s:.100}")

    def _found_in(self, code: str) -> set[str]:
        return {finding.rule for finding in self._findings(self._parsed(code))}

    def _parsed(self, code: str) -> "SgNode":
        from ast_grep_py import SgRoot

        text = only_php(code) if self.language == "php" else code
        root = SgRoot(text, self.language).root()
        other = _ALSO.get(self.language)
        if other and _syntax_error(root):
            also = SgRoot(text, other).root()
            return root if _syntax_error(also) else also
        return root

    @cached_property
    def _config(self) -> dict[str, Any]:
        """All rules as one; which of them matched, the variable says that the match binds."""
        ordered = [{"all": [rule.pattern, {"pattern": f"$R{at}"}]} for at, rule in enumerate(self.rules)]
        return {"rule": {"any": ordered}}

    def _findings(self, root: "SgNode") -> Iterator[Finding]:
        seen = set()
        for node in root.find_all(self._config):  # type: ignore[call-overload]
            at = next(at for at in range(len(self.rules)) if node.get_match(f"R{at}") is not None)
            line = node.range().start.line + 1
            if (at, line) not in seen:
                seen.add((at, line))
                yield _finding(self.rules[at], line)


def _finding(rule: Rule, line: int) -> Finding:
    return Finding(rule.id, rule.cwe, rule.severity, rule.message, line, _ENGINE)


def known_keys(code: str) -> Iterator[Finding]:
    """Yield keys whose form gives them away, whatever the language is."""
    for match in _KEY.finditer(code):
        line = code.count("\n", 0, match.start()) + 1
        message = "a key stands in the code; withdraw it and read it from the environment"
        yield Finding("known-key", 798, "high", message, line, "text")


def _syntax_error(root: "SgNode") -> str | None:
    """Say where the code doesn't fit the grammar: at what the parser skipped or, without width, added."""
    skipped = root.find(kind="ERROR")
    added = (node for node in root.find_all(regex="^$") if node.kind())
    node = skipped or next(added, None)
    return None if node is None else f"syntax error near line {node.range().start.line + 1}"


def _open_comments(code: str) -> int:
    """Return how many comments begin in code and don't end: the time that parsers take grows fast with them."""
    last = code.rfind("*/")
    return max(code.count("/*", last + 1), code.count("/*") - code.count("*/"))


def only_php(code: str) -> str:
    """Return a PHP file with spaces in the place of its HTML, line by line; code without tags is all PHP."""
    if not re.search(r"<\?(php|=)", code):
        return code
    parts, at = [], 0
    for match in re.finditer(r"<\?(php\b|=)", code):
        if match.start() < at:
            continue
        parts.append(_blank(code[at : match.start()]))
        end = code.find("?>", match.end())
        inner = code[match.end() : end if end >= 0 else len(code)]
        echo = "echo" if match[1] == "=" else "     "
        parts += [echo, inner, "" if end < 0 else ";"]
        at = len(code) if end < 0 else end + 2
    return "".join([*parts, _blank(code[at:])])


def _blank(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)
