"""Dialogs as files: saved, loaded, and kept after each turn so that the next session can resume them."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ..chat.messages import normalize
from ..errors import DialogError, Llama3MLXError, RequestError
from ..files import save_json
from ..json_types import JsonMapping
from ..library.home import chats_folder

_KEPT = 100


def save_dialog(path: Path, model: str | Path, messages: Sequence[JsonMapping]) -> None:
    """Write a dialog; raises RequestError where that isn't possible."""
    try:
        save_json(path, {"model": str(model), "messages": [dict(message) for message in messages]})
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise RequestError(f"{path} can't be written: {reason}") from None


def load_dialog_file(path: Path) -> tuple[str | None, list[JsonMapping]]:
    """Return the model and the messages of a saved dialog, or of a bare list of messages; raises DialogError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DialogError(f"{path} can't be read: {error.strerror}") from None
    except ValueError:
        raise DialogError(f"{path} is not a saved dialog: it isn't valid JSON in UTF-8") from None
    messages = value.get("messages") if isinstance(value, dict) else value
    if not isinstance(messages, list):
        raise DialogError(f'{path} is not a saved dialog: it has no list of "messages"')
    try:
        checked: list[JsonMapping] = list(normalize(messages)) if messages else []
    except Llama3MLXError as error:
        raise DialogError(f"{path} is not a dialog: {error}") from None
    model = value.get("model") if isinstance(value, dict) else None
    return model if isinstance(model, str) else None, checked


def expanded(name: str) -> Path:
    """Return the path that a user typed; raises RequestError for the home of nobody."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise RequestError(f"there is no home folder for {name.partition('/')[0]}") from None


def latest_dialog() -> Path:
    """Return the file of the last dialog that was kept; raises DialogError if there is none."""
    files = _kept_files()
    if not files:
        raise DialogError(f"there is no dialog to resume in {chats_folder()}")
    return files[-1]


class AutoSave:
    """Keeps a dialog in the home folder after each turn. Where that fails, it says so once."""

    def __init__(self, path: Path | None = None) -> None:
        """`path` is the file of a resumed dialog."""
        self.path = path or chats_folder() / time.strftime("%Y%m%d-%H%M%S.json")
        self.saved = False
        self._failed = False

    def save(self, model: str | Path, messages: Sequence[JsonMapping]) -> None:
        """Keep the dialog as it is now, once it has an answer."""
        if self._failed or all(message["role"] != "assistant" for message in messages):
            return
        try:
            # The dialogs are nobody else's.
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            save_dialog(self.path, model, messages)
            self.saved = True
            for old in _kept_files()[:-_KEPT]:
                old.unlink(missing_ok=True)
        except (OSError, RequestError) as error:
            self._failed = True
            sys.stderr.write(f"note: this dialog isn't kept for --resume: {error}\n")


def _kept_files() -> list[Path]:
    folder = chats_folder()
    return sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns) if folder.is_dir() else []
