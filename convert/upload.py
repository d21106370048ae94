"""Puts a result into a repository on the Hub."""

from pathlib import Path

from ..hub import as_hub_error, check_id


def check_uploadable(repo_id: str) -> None:
    """Raise HubError before the work if the repository's name or the login is missing."""
    check_id(repo_id)


def upload(path: Path, repo_id: str, *, progress: bool = False) -> str:
    """Upload a folder or a file, into a repository that is made if need be, and return its address.

    Raises HubError: not logged in, no right to write there, broken off. What has been uploaded isn't sent again.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    check_id(repo_id)
    api = HfApi(library_name="llama3-mlx")
    quiet = not progress and not are_progress_bars_disabled()
    if quiet:
        disable_progress_bars()
    try:
        address = api.create_repo(repo_id, exist_ok=True)
        message = "Upload what llama3-mlx converted"
        if path.is_dir():
            api.upload_folder(repo_id=repo_id, folder_path=path, commit_message=message)
        else:
            api.upload_file(repo_id=repo_id, path_or_fileobj=path, path_in_repo=path.name, commit_message=message)
    except Exception as error:
        raise as_hub_error(repo_id, None, error) from None
    finally:
        if quiet:
            enable_progress_bars()
    return str(address)
