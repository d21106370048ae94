"""Models by path or Hub id. Files come through huggingface_hub, which resumes, checks and caches them."""

import re
from pathlib import Path
from typing import Any

from ..checkpoint.model_files import SIDE_FILES
from ..errors import CheckpointError, HubError

_ID = re.compile(r"(?P<id>[\w][\w.-]*/[\w][\w.-]*)(@(?P<revision>[\w./-]+))?\Z", re.ASCII)
_WANTED = [
    "config.json",
    "channel_scales.json",
    "*.safetensors",
    "model.safetensors.index.json",
    "README.md",
    *SIDE_FILES,
]
# Weights in subfolders and Meta's own double the download; the Hub's * goes across folders.
_UNWANTED = ["*/*.safetensors", "consolidated*"]


def resolve_model(path_or_id: str | Path, *, progress: bool = False, bar: type[Any] | None = None) -> Path:
    """Return the folder of a model: an existing one, else a Hub id `owner/name[@revision]`, downloaded if need be.

    `progress` shows bars on stderr; `bar` is a tqdm class that they are made of, in place of the usual one.
    Raises CheckpointError for what is neither, HubError if the Hub can't give it.
    """
    named = _folder_or_id(path_or_id)
    if isinstance(named, Path):
        return named
    return _snapshot(*named, _WANTED, progress or bar is not None, bar)


def resolve_config(path_or_id: str | Path) -> Path:
    """Return an existing folder, else that of a Hub id with its config.json, which alone is fetched if need be."""
    named = _folder_or_id(path_or_id)
    return named if isinstance(named, Path) else _snapshot(*named, ["config.json"], progress=False)


def is_id(text: str) -> bool:
    """Return whether a text has the form of a Hub id, `owner/name` or `owner/name@revision`."""
    return _ID.match(text) is not None


def check_id(repo_id: str) -> None:
    """Raise HubError unless the text has the form of a repository's id."""
    match = _ID.match(repo_id)
    if not match or match["revision"]:
        raise HubError(f"a repository on the Hub is named owner/name, not {repo_id!r}")


def _folder_or_id(path_or_id: str | Path) -> Path | tuple[str, str | None]:
    path = Path(path_or_id).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(f"{path} is a file, not the folder of a model; convert it first: llama3-mlx convert")
    match = _ID.match(str(path_or_id))
    if not match:
        raise CheckpointError(f"there is no folder {path_or_id}, and a Hub id has the form owner/name[@revision]")
    return match["id"], match["revision"]


def repository_of(folder: Path) -> str | None:
    """Return the Hub id of a folder in the Hub's cache, None for other folders."""
    snapshots = folder.absolute().parent
    kind, *names = snapshots.parent.name.split("--")
    return "/".join(names) if snapshots.name == "snapshots" and kind == "models" and len(names) == 2 else None


def _snapshot(
    repo_id: str, revision: str | None, wanted: list[str], progress: bool, bar: type[Any] | None = None
) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    arguments: dict[str, Any] = {
        "repo_id": repo_id,
        "revision": revision,
        "allow_patterns": wanted,
        "ignore_patterns": _UNWANTED,
        "tqdm_class": bar,
    }
    quiet = not progress and not are_progress_bars_disabled()
    if quiet:
        disable_progress_bars()
    try:
        folder = Path(snapshot_download(**arguments, local_files_only=constants.HF_HUB_OFFLINE))
    except LocalEntryNotFoundError:
        folder = None
    except Exception as error:
        raise as_hub_error(repo_id, revision, error) from None
    finally:
        if quiet:
            enable_progress_bars()
    if folder is None or not (folder / "config.json").exists():
        raise HubError(_absent(repo_id, folder))
    return folder


def _absent(repo_id: str, folder: Path | None) -> str:
    if folder is None:
        return f"{repo_id} is not in the local cache and the Hub can't be reached: check the network, or name a folder"
    return f"{repo_id} has no config.json at its root, so it isn't a model in Hugging Face's format"


def as_hub_error(repo_id: str, revision: str | None, error: Exception, doing: str = "download of") -> Exception:
    """Return the error that says in one line what the Hub's answer means; other errors come back unchanged."""
    import httpx
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        return HubError(
            f"{repo_id} is gated: accept its license at https://huggingface.co/{repo_id}, then log in with "
            "'hf auth login' or set HF_TOKEN"
        )
    if isinstance(error, RepositoryNotFoundError):
        return HubError(
            f"there is no model {repo_id} on the Hub, or it is private: check the name, or log in with 'hf auth login'"
        )
    if isinstance(error, RevisionNotFoundError):
        return HubError(f"{repo_id} has no revision {revision!r}")
    if isinstance(error, HFValidationError):
        return HubError(f"{repo_id!r} is no Hub id: {error}")
    if isinstance(error, HfHubHTTPError | httpx.HTTPError):
        return HubError(f"the Hub broke off the {doing} {repo_id}: {_one_line(error)}; the same command resumes it")
    return error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
