"""Data sets of the Hub and folders that `datasets` has saved, through that package."""

from pathlib import Path
from typing import Any

from ...errors import DataError, HubError, MissingExtraError
from .sources import SPLITS


def read_hub(name: str, split: str) -> list[tuple[str, Any]]:
    """Return the rows of a split with where each stands: `owner/name`, `owner/name:CONFIG` or `owner/name:SPLIT`.

    Raises HubError or MissingExtraError.
    """
    repository, _, part = name.partition(":")
    found = _load(name, repository, part)
    if part in found:
        return _rows(name, found[part]) if split == "train" else []
    chosen = next((key for key in SPLITS[split] if key in found), None)
    if chosen is None and split == "train":
        raise DataError(f"{name} has no split train: give one as {repository}:SPLIT, of {', '.join(found)}")
    return [] if chosen is None else _rows(name, found[chosen])


def read_split(name: str, split: str) -> list[dict[str, Any]]:
    """Return the rows of a split by its own name: of `owner/name` or `owner/name:CONFIG`.

    Raises DataError, HubError or MissingExtraError.
    """
    repository, _, part = name.partition(":")
    found = _load(name, repository, part)
    if split not in found:
        raise DataError(f"{name} has no split {split}, only {', '.join(found)}")
    return list(found[split])


def _load(name: str, repository: str, part: str) -> Any:
    """Return the splits of a configuration, or of the data set where `part` is a split of it."""
    datasets = _datasets(name)
    try:
        try:
            return datasets.load_dataset(repository, *([part] if part else []))
        except ValueError:
            if not part:
                raise
            found = datasets.load_dataset(repository)
            if part not in found:
                raise
            return found
    except (OSError, ValueError) as error:
        hint = "" if part else f" (a configuration is given as {repository}:NAME)"
        raise HubError(f"the data set {name} is unavailable: {' '.join(str(error).split())[:300]}{hint}") from None


def is_saved(folder: Path) -> bool:
    """Return whether `datasets` has saved a data set, or one with splits, in a folder."""
    return any((folder / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))


def read_saved(folder: Path, split: str) -> list[tuple[str, Any]]:
    """Return the rows of a split of a folder that `save_to_disk` has written."""
    found = _datasets(str(folder)).load_from_disk(str(folder))
    if not isinstance(found, dict):
        return _rows(str(folder), found) if split == "train" else []
    chosen = next((key for key in SPLITS[split] if key in found), None)
    if chosen is None and split == "train":
        raise DataError(f"{folder} has no split train, only {', '.join(found)}")
    return [] if chosen is None else _rows(str(folder), found[chosen])


def _rows(name: str, rows: Any) -> list[tuple[str, Any]]:
    return [(f"{name}, row {number}", row) for number, row in enumerate(rows, start=1)]


def _datasets(name: str) -> Any:
    try:
        import datasets
    except ImportError:
        need = f"reading {name} as a data set of the Hub needs the package datasets"
        raise MissingExtraError.of(need, "data") from None
    return datasets
