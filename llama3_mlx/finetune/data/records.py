"""Reads training data: JSONL files, folders of them, Hub data sets, or a Python function of the user's.

Every bad line of a file is reported at once, by file and line.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError, HubError, MissingExtraError
from .user_code import load_function, own_code

SPLITS = {"train": ("train",), "valid": ("valid", "validation", "eval"), "test": ("test",)}
_SHOWN = 20


@dataclass(frozen=True)
class Record:
    """One example as it stands in a file."""

    where: str
    value: Mapping[str, Any]


def read_records(sources: Sequence[str], split: str = "train", problems: list[str] | None = None) -> list[Record]:
    """Read all sources: a .jsonl or .json file, a folder with train/valid/test.jsonl, `file.py:function`, a Hub id.

    A folder without a file of that split gives nothing for valid and test, and is an error for train. Raises
    DataError with every bad line; where `problems` is given, the lines are added to it instead.
    """
    with collected(problems) as found:
        records = [record for source in sources for record in _read_source(source, split, found)]
    if not records and not found and split == "train":
        raise DataError(f"{', '.join(sources)}: there are no examples in it")
    return records


@contextmanager
def collected(problems: list[str] | None = None) -> Iterator[list[str]]:
    """Give a list for what is wrong with examples: the caller's, or a new one whose content is raised at the end."""
    found: list[str] = [] if problems is None else problems
    yield found
    if problems is None:
        raise_problems(found)


def raise_problems(problems: Sequence[str]) -> None:
    """Raise DataError with all the problems in the order of files and lines, if there are any."""
    if problems:
        ordered = sorted(dict.fromkeys(problems), key=_natural)
        more = f"\nand {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
        lines = "\n".join(ordered[:_SHOWN]) + more
        raise DataError(lines if len(ordered) == 1 else f"{len(ordered)} examples can't be used:\n{lines}")


def _natural(text: str) -> list[str | int]:
    """Return a sort key by which line 9 comes before line 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)]


def _read_source(source: str, split: str, problems: list[str]) -> Iterable[Record]:
    name, _, function = source.rpartition(":")
    if name.endswith(".py"):
        if split == "test":
            # A function gives what to train and to validate on.
            return []
        return _from_function(Path(name).expanduser(), function, split, problems)
    path = Path(source).expanduser()
    if path.suffix == ".py":
        raise DataError(f"data come from a function of a Python file: give {source}:FUNCTION")
    if path.is_dir():
        return _from_folder(path, split, problems)
    if path.is_file():
        return _from_file(path, problems) if split == "train" else []
    if path.suffix in (".jsonl", ".json") or source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise DataError(f"there is no file or folder {source}")
    return _from_hub(source, split)


def read_file(path: Path, problems: list[str] | None = None) -> list[Record]:
    """Read one file."""
    with collected(problems) as found:
        return list(_from_file(path, found))


def _from_folder(folder: Path, split: str, problems: list[str]) -> Iterable[Record]:
    for name in SPLITS[split]:
        for suffix in (".jsonl", ".json"):
            path = folder / (name + suffix)
            if path.is_file():
                return _from_file(path, problems)
    if split == "train":
        raise DataError(f"{folder} has no train.jsonl")
    return []


def _from_file(path: Path, problems: list[str]) -> Iterable[Record]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: byte {error.start} can't be read") from None
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from None
    if not text.strip():
        raise DataError(f"{path} is empty")
    if path.suffix == ".json" and text.lstrip().startswith("["):
        return _from_list(path, text, problems)
    records = []
    # Not splitlines: JSON strings may hold the other line separators of Unicode.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            records += _parsed(f"{path}, line {number}", line, problems)
    return records


def _parsed(where: str, line: str, problems: list[str]) -> list[Record]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        problems.append(f"{where}: not valid JSON: {error}")
        return []
    return _checked(where, value, problems)


def _checked(where: str, value: Any, problems: list[str]) -> list[Record]:
    if not isinstance(value, Mapping):
        problems.append(f"{where}: an example must be an object, not {_as_json(value)[:80]}")
        return []
    return [Record(where, value)]


def _as_json(value: Any) -> str:
    return json.dumps(value, default=repr)


def _from_list(path: Path, text: str, problems: list[str]) -> list[Record]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}") from None
    return [r for n, value in enumerate(values, start=1) for r in _checked(f"{path}, entry {n}", value, problems)]


def _from_function(path: Path, function: str, split: str, problems: list[str]) -> list[Record]:
    """Call the function of a Python file with the split's name; it gives an iterable of objects."""
    make = load_function(path, function)
    with own_code(path):
        values: list[Any] = list(make(split) or [])
    named = f"{path}:{function}"
    return [r for n, value in enumerate(values, start=1) for r in _checked(f"{named}, entry {n}", value, problems)]


def _from_hub(name: str, split: str) -> list[Record]:
    try:
        import datasets  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise MissingExtraError(
            f"there is no file or folder {name}, and reading it as a Hub data set needs the package datasets: "
            "pip install 'llama3-mlx[data]'"
        ) from None
    try:
        found = datasets.load_dataset(name)
    except (OSError, ValueError) as error:
        raise HubError(f"the data set {name} is unavailable: {' '.join(str(error).split())[:300]}") from None
    chosen = next((key for key in SPLITS[split] if key in found), None)
    if chosen is None:
        return []
    return [Record(f"{name}, row {n}", row) for n, row in enumerate(found[chosen], start=1)]
