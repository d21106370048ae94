"""What the user has chosen, kept in one JSON file."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from .files import read_object, write_whole


@dataclass
class Preferences:
    """Choices with their defaults; an empty model means that none has been chosen yet."""

    model: str = ""
    adapter: str = ""
    system: str = "You are a helpful assistant."
    temperature: float = 0.6
    max_tokens: int = 1024
    offline: bool = False
    """Forbids the network: no model is downloaded."""

    @classmethod
    def load(cls, path: Path) -> tuple["Preferences", str]:
        """Return the choices of a file, and a line on what in it isn't valid and so is left at its default."""
        if not path.exists():
            return cls(), ""
        try:
            values = read_object(path)
        except (OSError, ValueError):
            return cls(), f"{path.name} can't be read: the defaults are in use."
        preferences = cls()
        wrong: list[str] = []
        for entry in fields(cls):
            value = values.get(entry.name, getattr(preferences, entry.name))
            if type(value) is not type(getattr(preferences, entry.name)):
                wrong.append(entry.name)
            else:
                setattr(preferences, entry.name, value)
        return preferences, f"{path.name}: default in use for {', '.join(wrong)}." if wrong else ""

    def save(self, path: Path) -> None:
        """Write all choices."""
        write_whole(path, json.dumps(asdict(self), indent=1))
