"""Reads the files that examples come in: JSON, JSON lines, CSV, TSV, parquet, plain text, and compressed ones."""

import csv
import gzip
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ...errors import DataError, MissingExtraError
from ...json_types import JsonValue

# Values as they stand in a file, each with the words that say where; a value that can't be read is an exception.
Values = Iterator[tuple[str, Any]]
_TRIED_LINES = 20


def read_values(path: Path) -> Values:
    """Yield each example of a file with where it stands; raises DataError in one line for what is not a data file."""
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    reader = _READERS.get(suffix.lower())
    if reader is None:
        raise DataError(f"{path} is not a file of examples: accepted are {', '.join(SUFFIXES)}, and these with .gz")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise DataError(f"{path} can't be read: {getattr(error, 'strerror', None) or error}") from None
    if suffix.lower() == ".parquet":
        return _parquet(path, content)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: byte {error.start} can't be read") from None
    if not text.strip():
        raise DataError(f"{path} is empty")
    return reader(path, text)


def _json(path: Path, text: str) -> Values:
    if not text.lstrip().startswith("["):
        return _json_lines(path, text)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}") from None
    return ((f"{path}, entry {number}", value) for number, value in enumerate(values, start=1))


def _json_lines(path: Path, text: str) -> Values:
    # Not splitlines: JSON strings may hold the other line separators of Unicode.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    parsed = [(f"{path}, line {number}", _parsed(line)) for number, line in lines[:_TRIED_LINES]]
    failed = [value for _, value in parsed if isinstance(value, Exception)]
    if len(failed) == len(parsed) and len(parsed) > 1:
        raise DataError(
            f"{path} holds no JSON lines ({parsed[0][0].rpartition(', ')[2]}: {failed[0]}): each line must be one "
            "JSON object; plain text is read from .txt, tables from .csv, .tsv and .parquet"
        )
    rest = ((f"{path}, line {number}", _parsed(line)) for number, line in lines[_TRIED_LINES:])
    return iter([*parsed, *rest])


def _parsed(line: str) -> JsonValue:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return DataError(f"not valid JSON: {error}")


def _table(delimiter: str) -> Callable[[Path, str], Values]:
    def read(path: Path, text: str) -> Values:
        csv.field_size_limit(sys.maxsize)
        rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restkey="")
        for number, row in enumerate(rows, start=1):
            where = f"{path}, row {number}"
            if "" in row or None in row.values():
                yield where, DataError(f"it has another number of columns than the first line's {len(row)}")
            else:
                yield where, row

    return read


def _text(path: Path, text: str) -> Values:
    return iter([(str(path), {"text": text})])


def _parquet(path: Path, content: bytes) -> Values:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError.of(f"{path} needs the package pyarrow", "data") from None
    try:
        rows: Iterable[Any] = pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is not a parquet file: {' '.join(str(error).split())}") from None
    return ((f"{path}, row {number}", row) for number, row in enumerate(rows, start=1))


_READERS: dict[str, Callable[[Path, str], Values]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _table(","),
    ".tsv": _table("\t"),
    ".txt": _text,
    ".md": _text,
    ".parquet": _text,
}
SUFFIXES = tuple(_READERS)
