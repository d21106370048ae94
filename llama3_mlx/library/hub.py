"""The Hugging Face Hub: ids, downloads and its refusals in one line each.

Files come through huggingface_hub, which resumes, checks and caches them.
"""

import logging
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ..checkpoint.model_files import SIDE_FILES
from ..checkpoint.recognition import is_draft_head
from ..errors import HubError
from ..json_types import JsonObject
from ..model.config import load_json_object
from .downloads import Report, StoppedError, bar_class, interruptible
from .hub_errors import as_hub_error

_ID = re.compile(r"(?P<id>[\w][\w.-]*/[\w][\w.-]*)(@(?P<revision>[\w./-]+))?\Z", re.ASCII)
# What people paste: the page of a model or of a file in it, with or without the scheme.
_ADDRESS = re.compile(r"(?:(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/|hf://)(?:models/)?(?P<rest>.+)\Z")
_PAGE = re.compile(
    r"(?P<id>[\w.-]+/[\w.-]+)(?:/(?:tree|blob|resolve|raw)/(?P<revision>[^/?#]+))?(?:[/?#].*)?\Z", re.ASCII
)
_WEIGHTS = "*.safetensors"
MODEL_FILES = (
    "config.json",
    "channel_scales.json",
    _WEIGHTS,
    "model.safetensors.index.json",
    "README.md",
    *SIDE_FILES,
)
ADAPTER_FILES = ("adapter_config.json", "channel_scales.json", "adapters.safetensors", "adapter_model.safetensors")
# Weights in subfolders and Meta's own double the download; the Hub's * goes across folders.
_UNWANTED = ["*/*.safetensors", "consolidated*"]


@dataclass(frozen=True)
class HubId:
    """A repository on the Hub, at a revision."""

    repository: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read `owner/name`, `owner/name@revision` or an address on huggingface.co; None for anything else."""
        address = _ADDRESS.match(text)
        match = _PAGE.match(address["rest"]) if address else None
        # The revision of an id stands behind @ in an address without pages, too.
        match = match or _ID.match(address["rest"] if address else text)
        return cls(match["id"], match["revision"]) if match else None


def download(
    hub_id: HubId,
    patterns: tuple[str, ...] = MODEL_FILES,
    *,
    report: Report | None = None,
    stop: threading.Event | None = None,
    local_only: bool = False,
) -> Path:
    """Return the folder of a repository in the Hub's cache, downloaded if need be.

    `report` is called with the bytes that are there and all that are wanted. Ctrl-C ends the download at once, and so
    does `stop` once it is set, with StoppedError; finished files are kept for the next call. Raises HubError.
    """
    from huggingface_hub import constants, hf_hub_download, snapshot_download

    # That nothing matched is told by an error of ours.
    logging.getLogger(snapshot_download.__module__).setLevel(logging.ERROR)
    offline = local_only or constants.HF_HUB_OFFLINE
    arguments: JsonObject = {
        "repo_id": hub_id.repository,
        "revision": hub_id.revision,
        "allow_patterns": list(patterns),
        "ignore_patterns": _UNWANTED,
        "local_files_only": offline,
    }
    began_s = time.time()
    with interruptible(stop) as running:
        try:
            commit, sizes = (None, {}) if offline else running.call(lambda: _missing_files(hub_id, patterns))
            bars = bar_class(running.stopped, report, sum(sizes.values()))

            def fetch(name: str) -> None:
                hf_hub_download(hub_id.repository, name, revision=commit, tqdm_class=bars)

            # One by one before the snapshot is made: the interpreter would wait for the threads that it is made in.
            running.call_each(fetch, sizes)
            return Path(running.call(lambda: snapshot_download(**arguments, tqdm_class=bars)))
        except (KeyboardInterrupt, StoppedError):
            _discard_partial_files(Path(constants.HF_HUB_CACHE), hub_id.repository, began_s)
            raise
        except Exception as error:
            raise as_hub_error(hub_id.repository, hub_id.revision, error) from error


def download_model(
    hub_id: HubId, *, report: Report | None = None, stop: threading.Event | None = None, weights: bool = True
) -> Path:
    """Return the folder of a model on the Hub, downloaded if need be, on request without its weights.

    Raises as `download` does.
    """
    patterns = MODEL_FILES if weights else tuple(name for name in MODEL_FILES if name != _WEIGHTS)
    return _with_config(hub_id, download(hub_id, patterns, report=report, stop=stop))


def fetch_files(repository: str, commit: str, names: Sequence[str]) -> Path:
    """Return the folder of a repository at a commit with these files in it; those that the cache lacks are downloaded.

    Raises HubError.
    """
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}" / "snapshots" / commit
    if all((folder / name).is_file() for name in names):
        return folder
    return download(HubId(repository, commit), tuple(names))


def download_config(hub_id: HubId) -> Path:
    """Return the folder of a model on the Hub of which nothing but its config.json is sure to be there."""
    return _with_config(hub_id, download(hub_id, ("config.json",)))


def download_draft(hub_id: HubId, *, report: Report | None = None) -> Path:
    """Return the folder of a model or a draft head on the Hub; PyTorch weights only of a head that has no others."""
    config = load_json_object(download_config(hub_id) / "config.json")
    folder = download_model(hub_id, report=report)
    if not is_draft_head(config) or any(folder.glob("*.safetensors")):
        return folder
    return download(hub_id, ("config.json", "*.bin"), report=report)


def cached_model(hub_id: HubId) -> Path | None:
    """Return the folder of a model in the Hub's local cache, without asking the Hub."""
    try:
        return _with_config(hub_id, download(hub_id, local_only=True))
    except HubError:
        return None


def is_id(text: str) -> bool:
    """Return whether a text has the form of a Hub id, `owner/name` or `owner/name@revision`."""
    return _ID.match(text) is not None


def check_id(repo_id: str) -> None:
    """Raise HubError unless the text has the form of a repository's id."""
    match = _ID.match(repo_id)
    if not match or match["revision"]:
        raise HubError(f"a repository on the Hub is named owner/name, not {repo_id!r}")


def repository_of(folder: Path) -> str | None:
    """Return the Hub id of a folder in the Hub's cache, None for other folders."""
    snapshots = folder.absolute().parent
    kind, *names = snapshots.parent.name.split("--")
    return "/".join(names) if snapshots.name == "snapshots" and kind == "models" and len(names) == 2 else None


def _with_config(hub_id: HubId, folder: Path) -> Path:
    if not (folder / "config.json").exists():
        raise HubError(
            f"{hub_id.repository} has no config.json at its root, so it isn't a model in Hugging Face's format"
        )
    return folder


def _discard_partial_files(cache: Path, repository: str, since_s: float) -> None:
    """Delete what an interrupted download leaves: files of a random name, which no later one would resume."""
    for path in (cache / f"models--{repository.replace('/', '--')}" / "blobs").glob("*.????????.incomplete"):
        if path.stat().st_mtime >= since_s:
            path.unlink(missing_ok=True)


def _missing_files(hub_id: HubId, patterns: tuple[str, ...]) -> tuple[str | None, dict[str, int]]:
    """Return the commit and, with their bytes, the files to fetch; none where that can't be known.

    The snapshot, which is made next, says why.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.utils._paths import filter_repo_objects

    try:
        info = HfApi().model_info(hub_id.repository, revision=hub_id.revision, files_metadata=True, timeout=10)
    except Exception:
        return None, {}
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    wanted = filter_repo_objects(sizes, allow_patterns=list(patterns), ignore_patterns=_UNWANTED)
    return info.sha, {
        name: sizes[name]
        for name in wanted
        if not isinstance(try_to_load_from_cache(hub_id.repository, name, revision=info.sha), str)
    }
