"""The place of a result, checked before the work, and the folder beside it that the work is done in."""

import shutil
from pathlib import Path

from ...errors import ConversionError

# Space that tokenizer and config files may take.
_SPARE_BYTES = 50_000_000


def partial_folder(dest: Path) -> Path:
    """Return the folder that a conversion works in until it is done."""
    return dest.with_name(f".{dest.name}.partial")


def check_destination(dest: Path, source: Path | None, *, force: bool, single_file: bool = False) -> None:
    """Raise ConversionError if `dest` is taken, or if replacing it would take what isn't a model, or the source.

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


def check_space(dest: Path, needed_bytes: int) -> None:
    """Raise ConversionError if the disk of `dest` can't hold the result."""
    for lack in no_space(dest, needed_bytes):
        raise ConversionError(lack)


def no_space(dest: Path, needed_bytes: int) -> list[str]:
    """Return a sentence if the disk of `dest` can't hold the result; an unfinished one counts for what it has."""
    existing = next(folder for folder in dest.parents if folder.exists())
    partial = partial_folder(dest) / "model"
    held = sum(file.stat().st_blocks * 512 for file in partial.iterdir()) if partial.is_dir() else 0
    free = shutil.disk_usage(existing).free + held
    needed_bytes += _SPARE_BYTES
    if free >= needed_bytes:
        return []
    needs = f"{dest} needs {needed_bytes / 1e9:.2f} GB and the disk has {free / 1e9:.2f} GB free"
    return [f"{needs}: make room, or choose another place or fewer bits"]
