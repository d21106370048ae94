"""Models on the disk as a program manages them: removed, copied, downloaded."""

import os
import shutil
import tempfile
from pathlib import Path

from ..checkpoint.model_files import NAMED_TEMPLATES
from ..errors import RequestError
from .catalogue import ModelEntry
from .home import models_folder


def remove_model(model: ModelEntry) -> int:
    """Delete a model that was downloaded or made by this package and return the bytes of its files.

    Raises RequestError for a folder elsewhere, which is the user's own.
    """
    size, folder = model.size_bytes, model.folder
    if folder.resolve().is_relative_to(models_folder().resolve()):
        # Renamed first, so that a half-deleted folder is never taken for a model.
        doomed = Path(tempfile.mkdtemp(prefix=".deleted-", dir=folder.parent))
        folder.replace(doomed / folder.name)
        shutil.rmtree(doomed)
        return size
    repository = hub_repository(folder)
    if repository is None:
        raise RequestError(f"{model.name} is served from {folder}, which isn't ours to delete: delete it yourself")
    doomed = Path(tempfile.mkdtemp(prefix=".deleted-", dir=repository.parent))
    repository.replace(doomed / repository.name)
    shutil.rmtree(doomed)
    return size


def hub_repository(folder: Path) -> Path | None:
    """Return the repository's folder in the Hub's cache that a snapshot belongs to, None for other folders."""
    from huggingface_hub import constants

    repository = folder.parent.parent
    inside = repository.parent.resolve() == Path(constants.HF_HUB_CACHE).resolve()
    return repository if inside and repository.name.startswith("models--") else None


def copy_model(model: ModelEntry, target: Path) -> None:
    """Make a second folder of a model's files, linked where the disk allows it; it appears atomically."""
    if target.exists():
        raise RequestError(f"there is already a model {target.name}: choose another name, or delete it first")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".copying-", dir=target.parent) as beside:
        partial = Path(beside) / target.name
        partial.mkdir()
        for path in [*model.folder.glob("*"), *model.folder.glob(NAMED_TEMPLATES)]:
            if path.is_file():
                copy = partial / path.relative_to(model.folder)
                copy.parent.mkdir(exist_ok=True)
                _link_or_copy(path.resolve(), copy)
        partial.rename(target)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
