"""Where examples come from: names of files, folders, functions and Hub data sets, or examples given in memory."""

from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import RequestError
from ...json_types import JsonValue

SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "train_sft", "train_prefs"),
    "valid": ("valid", "validation", "val", "dev", "eval"),
    "test": ("test", "test_sft", "test_prefs"),
}


@dataclass(frozen=True)
class GivenData:
    """Examples in memory: an iterable of objects with a length, one for each split by its name, or a function of that.

    `name` is how messages call it.
    """

    values: JsonValue
    name: str

    def split(self, name: str) -> Iterable[Any] | None:
        """Return the examples of a split, None where there are none; `train` for what isn't divided."""
        if callable(self.values):
            # A function gives what to train and to validate on.
            return None if name == "test" else list(self.values(name) or [])
        if isinstance(self.values, Mapping):
            found = next((key for key in SPLITS[name] if key in self.values), None)
            return None if found is None else self.values[found]
        return self.values if name == "train" else None


Source = str | GivenData
# A file, folder, FILE.py:FUNCTION or Hub id; a function; examples; or several of these.
Sources = str | Path | Callable[[str], Iterable[Any]] | Iterable[Any]


def as_sources(sources: Sources) -> tuple[Source, ...]:
    """Return what was given as sources, paths absolute; raises RequestError for what can't be read more than once."""
    if isinstance(sources, str | Path):
        return (anchored(str(sources)),)
    if isinstance(sources, GivenData):
        return (sources,)
    if callable(sources):
        return (GivenData(sources, f"function {getattr(sources, '__name__', type(sources).__name__)}"),)
    if isinstance(sources, Mapping):
        if not any(key in sources for names in SPLITS.values() for key in names):
            raise RequestError("data given as one object must hold splits by name, such as train and validation")
        return (GivenData(sources, f"given splits {', '.join(map(str, sources))}"),)
    if isinstance(sources, list | tuple) and not any(isinstance(item, Mapping) for item in sources):
        return tuple(made for item in sources for made in as_sources(item))
    if not isinstance(sources, Iterable) or not isinstance(sources, Sized):
        raise RequestError(
            f"data in memory must have a length and be read more than once, which a {type(sources).__name__} can't: "
            "give a list, a data set or a function"
        )
    return (GivenData(sources, f"{len(sources):,} given examples"),)


def anchored(source: str) -> str:
    """Return a source or path as it is found from any folder: absolute where it is on this disk, else unchanged."""
    file, colon, function = source.rpartition(":")
    path = Path(file if colon and file.endswith(".py") else source).expanduser()
    if not path.exists():
        return source
    return f"{path.absolute()}:{function}" if colon and file.endswith(".py") else str(path.absolute())


def names(sources: Iterable[Source]) -> list[str]:
    """Return what messages call the sources."""
    return [source if isinstance(source, str) else source.name for source in sources]
