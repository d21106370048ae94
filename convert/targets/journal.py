"""What a conversion has done so far, so that it can be resumed: one line of JSON for each finished module."""

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from ...errors import ConversionError

Checksums = Mapping[str, int]


class Journal:
    """Appends finished modules to a file; the first line tells what source and options they belong to.

    The file is locked while it is open: two conversions to one destination would overwrite each other's files.
    """

    def __init__(self, path: Path, state: Mapping[str, object]) -> None:
        self._state = json.dumps(state, sort_keys=True)
        self._file = path.open("a+", encoding="utf-8")
        try:
            _lock(self._file)
            self.done: dict[str, Checksums] = _finished(self._file, self._state)
            if not self.done:
                self.start_over()
        except BaseException:
            self.close()
            raise

    def start_over(self) -> None:
        """Forget everything."""
        self.done = {}
        self._file.seek(0)
        self._file.truncate()
        self._append(self._state + "\n")

    def add(self, modules: Mapping[str, Checksums]) -> None:
        """Note finished modules with the checksums of their tensors; their data must be on the disk already."""
        self._append("".join(json.dumps({"module": name, "crc": dict(crc)}) + "\n" for name, crc in modules.items()))
        self.done.update(modules)

    def close(self) -> None:
        """Close the file, which unlocks it."""
        self._file.close()

    def _append(self, text: str) -> None:
        self._file.write(text)
        self._file.flush()
        os.fsync(self._file.fileno())


def _lock(file: TextIO) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        folder = Path(file.name).parent
        raise ConversionError(f"another conversion is writing to {folder}: wait for it, or stop it") from None


def _finished(file: TextIO, state: str) -> dict[str, Checksums]:
    """Return the finished modules of an earlier run with the same state."""
    file.seek(0)
    lines = file.read().split("\n")
    if lines[0] != state:
        return {}
    # What follows the last newline was cut short; the next line must not be joined to it.
    file.truncate(file.tell() - len(lines[-1].encode()))
    try:
        entries = [json.loads(line) for line in lines[1:-1]]
        return {entry["module"]: entry["crc"] for entry in entries}
    except (ValueError, KeyError, TypeError):
        return {}
