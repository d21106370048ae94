"""The destination, checked before the work, and the folder beside it that the work is done in."""

import os
import shutil
from pathlib import Path

from ...errors import ConversionError
from ...units import size_text

# Space that tokenizer and config files may take.
_SPARE_BYTES = 50_000_000


def resolved_destination(dest: str | Path) -> Path:
    """Return the absolute path to write to: behind a link, dangling or not, what it points to."""
    path = Path(dest).expanduser().absolute()
    if not path.is_symlink():
        return path
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        raise ConversionError(f"{path} is a link that leads back to itself: choose another destination") from None


def partial_folder(dest: Path) -> Path:
    """Return the folder that a conversion works in until it is done."""
    return dest.with_name(f".{dest.name}.partial")


def check_destination(dest: Path, source: Path | None, *, force: bool, single_file: bool = False) -> None:
    """Raise ConversionError if `dest` is taken, can't be replaced, isn't a model, or holds the source.

    A source that isn't known yet is None.
    """
    if not dest.name:
        raise ConversionError(f"{dest} can't be written to: name a new {'file' if single_file else 'folder'}")
    if not dest.exists():
        return
    if not force:
        raise ConversionError(f"{dest} exists already: choose another destination or replace it with --force")
    if source and source.resolve().is_relative_to(dest.resolve()):
        raise ConversionError(f"{dest} holds the source: choose another destination")
    if single_file:
        if not dest.is_file():
            raise ConversionError(f"{dest} is not a file, so --force does not replace it by one")
    elif not dest.is_dir() or (any(dest.iterdir()) and not (dest / "config.json").exists()):
        raise ConversionError(f"{dest} is not the folder of a model, so --force does not replace it")
    _check_replaceable(dest)


def _check_replaceable(dest: Path) -> None:
    """Raise ConversionError where the rename at the end of the work is bound to fail."""
    if dest.is_mount():
        raise ConversionError(f"{dest} is a mount point, which can't be replaced: name a new folder inside it")
    if not os.access(dest.parent, os.W_OK | os.X_OK):
        raise ConversionError(
            f"{dest} can't be replaced: {dest.parent} can't be written to; choose another destination"
        )


def check_space(dest: Path, needed_bytes: int) -> None:
    """Raise ConversionError if the disk of `dest` can't hold the result."""
    for lack in lacking_space(dest, needed_bytes):
        raise ConversionError(lack)


def lacking_space(dest: Path, needed_bytes: int) -> list[str]:
    """Return a sentence if the disk of `dest` can't hold the result; an unfinished one counts for what it has."""
    existing = next(folder for folder in dest.parents if folder.exists())
    partial = partial_folder(dest) / "model"
    reserved = sum(file.stat().st_blocks * 512 for file in partial.iterdir()) if partial.is_dir() else 0
    free = shutil.disk_usage(existing).free + reserved
    needed_bytes += _SPARE_BYTES
    if free >= needed_bytes:
        return []
    needs = f"{dest} needs {size_text(needed_bytes)} and the disk has {size_text(free)} free"
    return [f"{needs}: make room, or choose another place or fewer bits"]
