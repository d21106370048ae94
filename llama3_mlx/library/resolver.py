"""What a name means: the one resolver of models and adapters for every command, `Llama.load` and the server.

In this order: a folder; a name in the home folder, as `llama3-mlx models` lists it; a Hub id `owner/name[@revision]` or
an address pasted from huggingface.co, which is downloaded if need be.
"""

import difflib
import json
import threading
from pathlib import Path

from ..errors import AdapterError, CheckpointError, HubError
from .catalogue import DEFAULT_TAG, Catalogue
from .downloads import Report
from .home import adapters_folder, models_folder
from .hub import ADAPTER_FILES, HubId, cached_model, download, download_config, download_draft, download_model

_ADAPTER_CONFIG = "adapter_config.json"
# Names that Ollama's users type, and the same model in MLX's format.
_OLLAMA_NAMES = {
    "llama3": "mlx-community/Meta-Llama-3-8B-Instruct-4bit",
    "llama3:8b": "mlx-community/Meta-Llama-3-8B-Instruct-4bit",
    "llama3.1": "mlx-community/Meta-Llama-3.1-8B-Instruct-4bit",
    "llama3.1:8b": "mlx-community/Meta-Llama-3.1-8B-Instruct-4bit",
    "llama3.1:70b": "mlx-community/Meta-Llama-3.1-70B-Instruct-4bit",
    "llama3.2": "mlx-community/Llama-3.2-3B-Instruct-4bit",
    "llama3.2:3b": "mlx-community/Llama-3.2-3B-Instruct-4bit",
    "llama3.2:1b": "mlx-community/Llama-3.2-1B-Instruct-4bit",
    "llama3.3": "mlx-community/Llama-3.3-70B-Instruct-4bit",
    "llama3.3:70b": "mlx-community/Llama-3.3-70B-Instruct-4bit",
}


def resolve_model(
    name: str | Path,
    *,
    report: Report | None = None,
    stop: threading.Event | None = None,
    weights: bool = True,
) -> Path:
    """Return the folder of a model by folder, name or Hub id; a download tells `report` its bytes.

    Without `weights`, none are downloaded: of a model on several nodes each fetches those that it needs.

    Raises CheckpointError for what is none of these, HubError if the Hub can't give it, StoppedError once `stop` is
    set.
    """
    found = _here_or_hub(name)
    return found if isinstance(found, Path) else download_model(found, report=report, stop=stop, weights=weights)


def resolve_draft(name: str | Path, *, report: Report | None = None) -> Path:
    """Return the folder of what drafts for a model: of a smaller model or of a draft head, as `resolve_model` does."""
    found = _here_or_hub(name)
    return found if isinstance(found, Path) else download_draft(found, report=report)


def resolve_config(name: str | Path) -> Path:
    """Return the folder of a model of which only the config.json is fetched if it isn't on this machine."""
    found = _here_or_hub(name)
    return found if isinstance(found, Path) else download_config(found)


def resolve_local(name: str | Path) -> Path | None:
    """Return the folder of a model if it is on this machine; the Hub isn't asked."""
    try:
        found = _here_or_hub(name)
    except CheckpointError:
        return None
    return found if isinstance(found, Path) else cached_model(found)


def resolve_adapter(name: str | Path, *, report: Report | None = None) -> Path:
    """Return the folder of an adapter by folder, by name in the home folder or by Hub id.

    A download tells `report` its bytes.

    Raises AdapterError for what is none of these, HubError if the Hub can't give it.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise AdapterError(f"{path} is a file: name the folder that has its {_ADAPTER_CONFIG}")
    stored = adapters_folder() / str(name)
    if _is_plain(str(name)) and (stored / _ADAPTER_CONFIG).is_file():
        return stored
    hub_id = HubId.parse(str(name))
    if hub_id is None:
        names = [folder.name for folder in _adapters_at_home()]
        raise AdapterError(
            f"there is no adapter {str(name)!r}: give a folder, one of {adapters_folder()} by its name or a Hub id "
            f"owner/name[@revision]{_meant(str(name), names)}"
        )
    folder = download(hub_id, ADAPTER_FILES, report=report)
    if not (folder / _ADAPTER_CONFIG).exists():
        raise HubError(f"{hub_id.repository} has no {_ADAPTER_CONFIG}, so it isn't an adapter")
    return folder


def base_of_adapter(adapter: Path) -> str | None:
    """Return the model that an adapter's files name as its base: a folder, a name or a Hub id; None if they don't.

    The first that is on this machine, else what PEFT's key says.
    """
    values, run = _json_object(adapter / _ADAPTER_CONFIG), _json_object(adapter / "run.json")
    named = (values.get("model"), run.get("model"), values.get("base_model_name_or_path"))
    texts = [text for text in named if isinstance(text, str) and text]
    return next((text for text in texts if resolve_local(text)), texts[-1] if texts else None)


def destination(name: str) -> Path:
    """Return where a new model goes: a bare name into the home folder's models, anything else to the path it is."""
    path = Path(name).expanduser()
    bare = _is_plain(name) and "/" not in name and path.suffix != ".gguf"
    here = path.exists() or path.is_symlink()  # A link may lead to a disk that isn't mounted.
    return models_folder() / name if bare and not here else path


def _here_or_hub(name: str | Path) -> Path | HubId:
    path, text = Path(name).expanduser(), str(name)
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(f"{path} is a file, not the folder of a model; convert it first: llama3-mlx convert")
    plain = text.removesuffix(f":{DEFAULT_TAG}")
    if _is_plain(plain) and (models_folder() / plain / "config.json").is_file():
        return models_folder() / plain
    hub_id = HubId.parse(text)
    if hub_id is None:
        kind = "model" if _is_plain(text) else "folder"
        raise CheckpointError(
            f"there is no {kind} {text}: give a folder, a name that llama3-mlx models lists or a Hub id "
            f"owner/name[@revision]{_meant(text, list(Catalogue({}, {}).models()))}"
        )
    return hub_id


def _is_plain(text: str) -> bool:
    """Return whether a text can be a name below the home folder, and not a path out of it."""
    return bool(text) and not text.startswith(("/", "~", ".")) and ".." not in text and not text.endswith("/")


def _meant(name: str, known: list[str]) -> str:
    if name.lower() in _OLLAMA_NAMES:
        return f"; did you mean {_OLLAMA_NAMES[name.lower()]}?"
    last_parts = {each.rpartition("/")[2].lower(): each for each in known}
    by_case = {each.lower(): each for each in known}
    close = difflib.get_close_matches(name.lower(), [*by_case, *last_parts], 1, 0.7)
    if not close:
        return ""
    return f"; did you mean {by_case.get(close[0]) or last_parts[close[0]]}?"


def _adapters_at_home() -> list[Path]:
    folder = adapters_folder()
    return sorted(path.parent for path in folder.glob(f"*/{_ADAPTER_CONFIG}")) if folder.is_dir() else []


def _json_object(path: Path) -> dict[str, object]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
