"""What the readers of tool calls share: a call, the names that may be called, what a reader is given and says."""

from collections.abc import Collection
from dataclasses import dataclass

from ..json_types import JsonMapping, JsonValue


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool by name."""

    name: str
    arguments: JsonMapping
    problem: str | None = None
    """What the arguments don't fit of the tool's schema: what can't be held while they are generated."""


class ToolNames:
    """The tools that can be called; any at all where none are listed."""

    def __init__(self, names: Collection[str] | None) -> None:
        self.listed = None if names is None else frozenset(names)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name != "" and (self.listed is None or name in self.listed)

    def may_become(self, beginning: str) -> bool:
        """Return whether a name may begin so."""
        return self.listed is None or any(name.startswith(beginning) for name in self.listed)


@dataclass(frozen=True, slots=True)
class PendingText:
    """Text that may hold calls. `final`: no more comes; `closed`: new text has brought a closing bracket."""

    text: str
    names: ToolNames
    final: bool
    closed: bool

    @property
    def more(self) -> "Incomplete | None":
        """The answer for a text that is no whole call yet."""
        return None if self.final else Incomplete()


@dataclass(frozen=True, slots=True)
class ParsedCalls:
    """Calls that a reader found, and where the text after them begins."""

    calls: tuple[ToolCall, ...]
    end: int


@dataclass(frozen=True, slots=True)
class Incomplete:
    """A reader's answer while the text so far may become a call."""


def without_surrogates(value: JsonValue) -> JsonValue:
    """Return JSON's value with lone surrogates, which escapes can make and no encoding can carry, as U+FFFD."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {without_surrogates(key): without_surrogates(item) for key, item in value.items()}
    return [without_surrogates(item) for item in value] if isinstance(value, list) else value
