"""One declaration of a setting: a dataclass field with its type, default, help and limits.

Command-line flags (cli/flags.py), keyword arguments (the generated keywords.py files), fields of HTTP bodies and tables
of the documentation are derived from it, and one validator checks the values whichever way they came:

    @dataclass(frozen=True, kw_only=True)
    class BenchOptions:
        rounds: int = setting(3, "how often each figure is measured", low=1)

        def __post_init__(self) -> None:
            validate(self)
"""

import difflib
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from .errors import Llama3MLXError, RequestError
from .json_types import JsonMapping

T = TypeVar("T")
Check = Callable[[str, Any], str | None]
_KEY = "setting"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is declared of one setting; `settings_of` fills in what the dataclass field says of it."""

    help: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    """Like `low`, but not itself accepted."""
    choices: tuple[Any, ...] = ()
    check: Check | None = None
    """Takes name and value in the place of the check by type; returns what is wrong, None if nothing is."""
    flag: bool = True
    """Whether the setting is a flag of the command line (and an option of `llm`)."""
    request: bool | str = False
    """Whether bodies of HTTP requests take the setting by its own name, or the path of the field that stands for it."""
    short: str | None = None
    metavar: str | None = None
    name: str = ""
    kind: Any = object
    """The type, without None."""
    optional: bool = False
    default: object = None

    @property
    def item(self) -> Any:
        """The type of the items where the setting holds several, else None."""
        return get_args(self.kind)[0] if get_origin(self.kind) is tuple else None

    def coerced(self, value: object) -> object:
        """Return the value in the setting's own type where another form of it is accepted, else unchanged."""
        if self.item is not None and isinstance(value, str | Path | int):
            return (self.coerced_item(value),)
        if self.item is not None and isinstance(value, list | tuple):
            return tuple(map(self.coerced_item, value))
        return Path(value) if self.kind is Path and isinstance(value, str) and value else value

    def coerced_item(self, item: object) -> object:
        """Return an item in the type of the items where another form of it is accepted."""
        return Path(item) if self.item is Path and isinstance(item, str) and item else item

    def problem(self, value: Any) -> str | None:
        """Say in one line what is wrong with the value, None if nothing is."""
        if value is None and self.optional:
            return None
        if self.check is not None:
            return self.check(self.name, value)
        if self.item is not None:
            whole = isinstance(value, tuple) and all(_is_a(self.item, each) for each in value)
            return None if whole else f"{self.name} must be one or several {_SEVERAL[self.item]}, not {value!r:.80}"
        if self.kind in _WORDS and not _is_a(self.kind, value):
            return f"{self.name} must be {_WORDS[self.kind]}, not {value!r:.80}"
        if self.choices and value not in self.choices:
            return f"{self.name} must be one of {', '.join(map(str, self.choices))}, not {value!r:.80}"
        if self.kind in (int, float) and not self._is_within(value):
            return f"{self.name} must be {self._accepted()}, not {value!r:.80}"
        return None

    def _is_within(self, value: float) -> bool:
        return (
            value == value  # nan is not
            and (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
        )

    def _accepted(self) -> str:
        if self.above is not None:
            return f"more than {self.above}" + ("" if self.high is None else f" and at most {self.high}")
        if self.low is None:
            return "a number" if self.high is None else f"at most {self.high}"
        return f"at least {self.low}" if self.high is None else f"from {self.low} to {self.high}"


_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "text that isn't empty",
    bool: "true or false",
    Path: "a path",
}
_SEVERAL = {str: "texts that aren't empty", Path: "paths", int: "whole numbers"}


def setting(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: tuple[Any, ...] | list[Any] = (),
    check: Check | None = None,
    flag: bool = True,
    request: bool | str = False,
    short: str | None = None,
    metavar: str | None = None,
) -> Any:
    """Declare a dataclass field as a setting; `low` and `high` are accepted themselves, `above` isn't."""
    declared = Setting(
        help=help,
        low=low,
        high=high,
        above=above,
        choices=tuple(choices),
        check=check,
        flag=flag,
        request=request,
        short=short,
        metavar=metavar,
    )
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata={_KEY: declared})
    return field(default=default, metadata={_KEY: declared})


def settings_of(kind: type) -> Mapping[str, Setting]:
    """Return the settings that a dataclass declares, by name in their order."""
    return _settings_of(kind)


@cache
def _settings_of(kind: Any) -> Mapping[str, Setting]:
    hints = get_type_hints(kind)
    found = {}
    for entry in fields(kind):
        if _KEY in entry.metadata:
            inner, optional = _without_none(hints[entry.name])
            default = entry.default if entry.default_factory is MISSING else entry.default_factory()
            found[entry.name] = replace(
                entry.metadata[_KEY], name=entry.name, kind=inner, optional=optional, default=default
            )
    return types.MappingProxyType(found)


def validate(settings: object, *, error: type[Llama3MLXError] = RequestError) -> None:
    """Bring the values of a dataclass into their types; raise one error that names all that don't fit.

    Meant for `__post_init__`, of frozen dataclasses too.
    """
    problems = []
    for name, declared in settings_of(type(settings)).items():
        value = getattr(settings, name)
        made = declared.coerced(value)
        if made is not value:
            object.__setattr__(settings, name, made)
        if problem := declared.problem(made):
            problems.append(problem)
    if problems:
        raise error("; ".join(problems))


def make(kind: type[T], values: JsonMapping, *, error: type[Llama3MLXError] = RequestError, what: str = "option") -> T:
    """Build a dataclass of settings from values by name; raises `error` for unknown names."""
    known = list(settings_of(kind))
    unknown = sorted(set(values) - set(known))
    if unknown:
        close = difflib.get_close_matches(unknown[0], known, 1)
        meant = f" (did you mean {close[0]}?)" if close else ""
        raise error(f"unknown {what} {', '.join(unknown)}{meant}; known are {', '.join(known)}")
    return kind(**values)


def _is_a(kind: Any, value: object) -> bool:
    if isinstance(value, bool) or kind is bool:
        return kind is bool and isinstance(value, bool)
    if kind is str:
        return isinstance(value, str) and value != ""
    return isinstance(value, int | float) if kind is float else isinstance(value, kind)


def _without_none(hint: Any) -> tuple[Any, bool]:
    if get_origin(hint) not in (Union, types.UnionType):
        return hint, False
    kinds = [kind for kind in get_args(hint) if kind is not types.NoneType]
    return (kinds[0] if len(kinds) == 1 else object), types.NoneType in get_args(hint)
