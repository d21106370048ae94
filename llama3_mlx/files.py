"""Files and folders that appear whole or not at all: written beside their place, flushed, renamed."""

import errno
import json
import os
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import TrainingError

# Files that a process has open beside the weights: sockets, logs, caches.
_OTHER_FILES = 200


def fsync_path(path: Path) -> None:
    """Flush a file's or a folder's content to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def fsync_folder(folder: Path) -> None:
    """Flush a folder and all that is in it to the disk."""
    for path in folder.rglob("*"):
        fsync_path(path)
    fsync_path(folder)


def take_place(finished: Path, dest: Path) -> None:
    """Rename the finished file or folder to its place.

    A folder that stands there makes way first, comes back if the new one can't be put there, and is deleted last.
    """
    old = dest.with_name(f".{dest.name}.old")
    replaces = dest.is_dir()
    if replaces:
        shutil.rmtree(old, ignore_errors=True)
        dest.rename(old)
    try:
        finished.replace(dest)
    except BaseException:
        if replaces:
            old.rename(dest)
        raise
    fsync_path(dest.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def whole_folder(dest: Path) -> Iterator[Path]:
    """Yield an empty folder beside `dest` to fill, which is flushed and takes its place when the block ends.

    If the block raises, the folder is deleted and what stood at `dest` stays.
    """
    new = dest.with_name(f".{dest.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        yield new
        fsync_folder(new)
        take_place(new, dest)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def save_whole(path: Path, write: Callable[[Path], None], *, private: bool = False) -> None:
    """Have `write` fill a temporary file beside `path`, flush it and rename it to `path`; `private` to its owner.

    The temporary name keeps the suffix of `path`, since some writers choose the format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(fd)
    temporary = Path(name)
    try:
        write(temporary)
        if not private:
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
        fsync_path(temporary)
        temporary.replace(path)
        fsync_path(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def save_text(path: Path, text: str) -> None:
    """Write UTF-8 text whole or not at all."""
    save_whole(path, lambda temporary: _write_text(temporary, text))


def save_json(path: Path, value: Any, *, indent: int | None = 2) -> None:
    """Write JSON with a final newline, whole or not at all."""
    save_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def complete_lines(path: Path) -> list[str]:
    """Return the lines of a file, none where there is no file; a last one that is not complete is cut off."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    complete = text[: text.rfind("\n") + 1]
    save_text(path, complete)
    # Not splitlines: a line may hold the other line separators of Unicode.
    return complete.split("\n")[:-1]


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn a failed write into one line that says what is kept."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise TrainingError(
            f"saving failed: {reason}; what was saved before is intact in {folder}: make room and go on with --resume"
        ) from None


def is_full(error: OSError) -> bool:
    """Return whether a disk, a quota or a limit on files has no room for what was written."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def place_of(error: OSError) -> str:
    """Return the file that an error is about, empty where it names none; of a copy that found no room, the copy."""
    named = error.filename2 if is_full(error) and error.filename2 else error.filename
    return str(named) if named else ""


def printable(name: str | Path) -> str:
    """Return a file's name as text that can be printed and written as UTF-8, whatever bytes it is made of."""
    return str(name).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def allow_open_files(count: int) -> None:
    """Let this process have so many more files open, as far as the system does: macOS begins with 256."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    with suppress(ValueError, OSError):
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (needed if hard == resource.RLIM_INFINITY else min(needed, hard), hard)
        )
