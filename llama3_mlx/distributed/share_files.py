"""Which files a share needs of a model on the Hub: each process downloads those, to its own cache.

A pipeline's shares need the shards that hold their layers; where every layer is split, all need all.
"""

from pathlib import Path

from ..checkpoint.folder import ModelFolder
from ..checkpoint.weight_files import INDEX_NAME, SINGLE_NAME, checked_weight_map
from ..json_types import JsonObject
from ..library.hub import fetch_files, repository_of
from ..model.channel_scales import SCALES_NAME
from .shares import Share


def hub_source(folder: Path) -> JsonObject | None:
    """Return repository and commit of a folder of the Hub's cache, None for any other."""
    repository = repository_of(folder)
    return None if repository is None else {"repository": repository, "commit": folder.name}


def open_unfetched(folder: Path) -> ModelFolder:
    """Return a folder to choose shares by; one of the Hub's cache may lack weights."""
    opened = ModelFolder(folder)
    if hub_source(folder) is None or all((folder / name).is_file() for name in _weight_files(opened, None)):
        return opened
    return ModelFolder(folder, lambda _: False)


def open_share(source: JsonObject, share: Share) -> ModelFolder:
    """Return the folder of a model on the Hub with the files that a share needs, downloaded if need be.

    Raises HubError.
    """
    repository, commit = source["repository"], source["commit"]
    folder = fetch_files(repository, commit, ["config.json"])
    if not any((folder / name).is_file() for name in (INDEX_NAME, SINGLE_NAME)):
        folder = fetch_files(repository, commit, ["config.json", INDEX_NAME, SCALES_NAME])
    folder = fetch_files(repository, commit, _weight_files(ModelFolder(folder), share))
    return ModelFolder(folder, lambda name: share.local_name(name) is not None)


def _weight_files(opened: ModelFolder, share: Share | None) -> list[str]:
    """Return the files with a share's weights, or all."""
    content = opened.json(INDEX_NAME)
    if content is None:
        return [SINGLE_NAME]
    names = checked_weight_map(opened.path / INDEX_NAME, content)
    return sorted({file for name, file in names.items() if share is None or share.local_name(name) is not None})
