"""The shield's own rules: a YAML file for each language, beside this module.

A file has the `languages` it is for, `parts` that its rules refer to by YAML anchors, and `rules`. A rule has an `id`,
the number of its weakness in CWE (`cwe`), `severity`, `message`, the pattern (`rule`), and two texts of code: the rule
finds something in `found`, no rule finds anything in `not_found`. `languages` are those of the file that the rule is
for, if not all. Source: https://ast-grep.github.io/reference/rule.html; regular expressions are Rust's, in linear time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import yaml

from ...json_types import JsonMapping
from .result import Severity


@dataclass(frozen=True)
class Rule:
    """One rule: what it finds, as a pattern of ast-grep, and code with and without it."""

    id: str
    cwe: int
    severity: Severity
    message: str
    pattern: JsonMapping
    found: str
    not_found: str


def rules_of(language: str) -> Sequence[Rule]:
    """Return the rules for a language, none if there are none."""
    return _rules().get(language, ())


@cache
def _rules() -> Mapping[str, Sequence[Rule]]:
    found: dict[str, Sequence[Rule]] = {}
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for path in files(__package__).joinpath("rules").iterdir():
        if path.name.endswith(".yaml"):
            content = yaml.load(path.read_text(encoding="utf-8"), loader)  # noqa: S506 (a safe loader)
            for language in content["languages"]:
                entries = [entry for entry in content["rules"] if language in entry.get("languages", [language])]
                found[language] = tuple(map(_rule, entries))
    return found


def _rule(entry: JsonMapping) -> Rule:
    values = {name: value for name, value in entry.items() if name not in ("rule", "languages")}
    return Rule(**values, pattern=entry["rule"])
