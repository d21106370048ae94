"""Uploads a result to a repository on the Hub."""

import shlex
from pathlib import Path
from typing import Any

from ...errors import HubError
from ...library.hub import check_id
from ...library.hub_errors import as_hub_error

_REFUSALS = (401, 403)
_OURS = ["model*.safetensors", "channel_scales.json"]


def check_login(repo_id: str) -> None:
    """Raise HubError, before the work, if the repository's name isn't one or nobody is logged in."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import LocalTokenNotFoundError

    check_id(repo_id)
    try:
        HfApi(library_name="llama3-mlx").whoami()
    except LocalTokenNotFoundError:
        raise HubError(_no_right(repo_id)) from None
    except Exception as error:
        raise _as_upload_error(repo_id, error) from None


def upload(path: Path, repo_id: str, *, progress: bool = False) -> str:
    """Upload a folder or a file, into a repository that is made if need be, and return its address.

    Raises HubError: not logged in, no right to write there, broken off. What has been uploaded isn't sent again.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    check_id(repo_id)
    api: Any = HfApi(library_name="llama3-mlx")
    quiet = not progress and not are_progress_bars_disabled()
    if quiet:
        disable_progress_bars()
    try:
        address = api.create_repo(repo_id, exist_ok=True)
        commit = {"repo_id": repo_id, "commit_message": "Upload what llama3-mlx converted"}
        if path.is_dir():
            # Weights and scales that an earlier upload had and this one hasn't would be taken for a part of the model.
            api.upload_folder(folder_path=path, delete_patterns=_OURS, **commit)
        else:
            api.upload_file(path_or_fileobj=path, path_in_repo=path.name, **commit)
    except Exception as error:
        known = _as_upload_error(repo_id, error)
        send = f"hf upload {repo_id} {shlex.quote(str(path))}"
        raise HubError(f"{known}; the result is in {path}, and '{send}' sends it") from None
    finally:
        if quiet:
            enable_progress_bars()
    return str(address)


def _as_upload_error(repo_id: str, error: Exception) -> HubError:
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError) and error.response.status_code in _REFUSALS:
        return HubError(_no_right(repo_id))
    return as_hub_error(repo_id, None, error, doing="upload to")


def _no_right(repo_id: str) -> str:
    return (
        f"the Hub doesn't let you write to {repo_id}: log in with 'hf auth login' or set HF_TOKEN, with a write token"
    )
