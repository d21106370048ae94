"""Reads training data: files, folders of them, Hub data sets, a Python function of the user's, or what is in memory.

Every bad line of a file is reported at once, by file and line.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError, MissingExtraError
from ...json_types import JsonMapping, JsonValue
from .files import SUFFIXES, read_values
from .hub import is_saved, read_hub, read_saved
from .sources import SPLITS, GivenData, Source, names
from .user_code import load_function, own_code

_SHOWN, _ALIKE = 20, 3


@dataclass(frozen=True)
class Record:
    """One example as it stands in a file."""

    where: str
    value: JsonMapping


def read_records(
    sources: Sequence[Source],
    split: str = "train",
    problems: list[str] | None = None,
    columns: Mapping[str, str] | None = None,
) -> list[Record]:
    """Read all sources: a file, a folder with train, valid and test files, `file.py:function`, a Hub id, examples.

    A folder without a file of that split gives nothing for valid and test, and is an error for train. `columns` gives
    columns the names that layouts have: {name: name in the data}. Raises DataError with every bad line; where
    `problems` is given, the lines are added to it instead.
    """
    with collected(problems) as found:
        records = [
            record
            for source in sources
            for where, value in _values(source, split)
            for record in _checked(where, value, found)
        ]
    if not records and not found and split == "train":
        raise DataError(f"{', '.join(names(sources))}: there are no examples in it")
    return renamed(records, columns or {})


def read_file(path: Path, problems: list[str] | None = None) -> list[Record]:
    """Read one file."""
    with collected(problems) as found:
        return [record for where, value in read_values(path) for record in _checked(where, value, found)]


@contextmanager
def collected(problems: list[str] | None = None) -> Iterator[list[str]]:
    """Give a list for what is wrong with examples: the caller's, or a new one whose content is raised at the end."""
    found: list[str] = [] if problems is None else problems
    yield found
    if problems is None:
        raise_problems(found)


def raise_problems(problems: Sequence[str]) -> None:
    """Raise DataError with all the problems in the order of files and lines, if there are any.

    Where many are alike, as in a table with other columns, the first stands for them.
    """
    if problems:
        ordered = in_order(problems)
        told = _told(ordered)
        more = f"\nand {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
        lines = "\n".join(told[:_SHOWN]) + more
        raise DataError(
            lines if len(told) == 1 else f"{len(ordered)} examples can't be used (--skip-bad: without them):\n{lines}"
        )


def _told(ordered: Sequence[str]) -> list[str]:
    """Return the problems, of more than a few alike only the first, which has the hint in parentheses, and a count."""
    alike: dict[str, list[str]] = {}
    for problem in ordered:
        alike.setdefault(problem.partition(": ")[2].partition(" (")[0], []).append(problem)
    told = [
        line
        for same in alike.values()
        for line in ([f"{same[0]}; the same holds for {len(same) - 1} more"] if len(same) > _ALIKE else same)
    ]
    return sorted(told, key=_natural)


def in_order(problems: Iterable[str]) -> list[str]:
    """Return the problems once each, line 9 before line 10."""
    return sorted(dict.fromkeys(problems), key=_natural)


def _natural(text: str) -> list[str | int]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)]


def read_columns(entries: Sequence[str]) -> dict[str, str]:
    """Return {name: name in the data} of `NAME=COLUMN` entries, several of them with commas; raises DataError."""
    found = {}
    for part in [part.strip() for entry in entries for part in entry.split(",")]:
        name, _, column = part.partition("=")
        if not name or not column:
            raise DataError(f"columns are given as NAME=COLUMN, such as prompt=question, not {part!r}")
        found[name] = column
    return found


def renamed(records: Sequence[Record], columns: Mapping[str, str]) -> list[Record]:
    """Return the records with some columns under the names that layouts have; raises DataError for an absent one."""
    if not columns:
        return list(records)
    absent = [column for column in columns.values() if not any(column in record.value for record in records)]
    if absent and records:
        has = ", ".join(map(str, records[0].value))
        raise DataError(f"no example has the column {absent[0]!r} that columns name; the first one has {has:.200}")
    taken = set(columns.values())
    return [
        Record(
            record.where,
            {
                **{key: value for key, value in record.value.items() if key not in taken},
                **{name: record.value[column] for name, column in columns.items() if column in record.value},
            },
        )
        for record in records
    ]


def _values(source: Source, split: str) -> Iterable[tuple[str, Any]]:
    if isinstance(source, GivenData):
        function = getattr(source.values, "__code__", None)
        with own_code(function.co_filename if function else source.name):
            values = source.split(split)
        return _numbered(source.name, values or [])
    name, _, function_name = source.rpartition(":")
    if name.endswith(".py"):
        # A function gives what to train and to validate on.
        return [] if split == "test" else _from_function(Path(name).expanduser(), function_name, split)
    path = Path(source).expanduser()
    if path.suffix == ".py":
        raise DataError(f"data come from a function of a Python file: give {source}:FUNCTION")
    if path.is_dir():
        return read_saved(path, split) if is_saved(path) else _from_folder(path, split)
    if path.is_file():
        return read_values(path) if split == "train" else []
    repository = source.partition(":")[0]
    if path.suffix in (*SUFFIXES, ".gz") or source.startswith((".", "/", "~")) or repository.count("/") != 1:
        raise DataError(f"there is no file or folder {source}")
    try:
        return read_hub(source, split)
    except MissingExtraError as error:
        raise MissingExtraError(f"there is no file or folder {source}, and {error}") from None


def _from_folder(folder: Path, split: str) -> Iterable[tuple[str, Any]]:
    for name in SPLITS[split]:
        for suffix in (*SUFFIXES, *(f"{suffix}.gz" for suffix in SUFFIXES)):
            path = folder / (name + suffix)
            if path.is_file():
                return read_values(path)
    if split == "train":
        raise DataError(f"{folder} has no train.jsonl, and no train file of another kind ({', '.join(SUFFIXES)})")
    return []


def _from_function(path: Path, function: str, split: str) -> Iterable[tuple[str, Any]]:
    """Call the function of a Python file with the split's name; it gives an iterable of objects."""
    make = load_function(path, function)
    with own_code(path):
        values: list[JsonValue] = list(make(split) or [])
    return _numbered(f"{path}:{function}", values)


def _numbered(name: str, values: Iterable[Any]) -> Iterable[tuple[str, Any]]:
    return ((f"{name}, entry {number}", value) for number, value in enumerate(values, start=1))


def _checked(where: str, value: JsonValue, problems: list[str]) -> list[Record]:
    if isinstance(value, DataError):
        problems.append(f"{where}: {value}")
        return []
    if not isinstance(value, Mapping):
        problems.append(f"{where}: an example must be an object, not {json.dumps(value, default=repr)[:80]}")
        return []
    return [Record(where, value)]
