"""Dialogs as files: saved, loaded, and kept after each turn so that the next session can resume them."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from ..chat.messages import normalize
from ..errors import DialogError, Llama3MLXError, RequestError
from ..files import save_json
from ..json_types import JsonMapping, JsonObject
from ..library.home import chats_folder
from ..tools.call import without_surrogates
from .terminal import tell

_KEPT = 100


@dataclass(frozen=True, kw_only=True)
class SavedDialog:
    """A dialog and what answered it."""

    model: str | None = None
    flags: JsonObject = field(default_factory=dict)
    """Values of the flags that change answers, by name; see `chat_flags`."""
    messages: list[JsonMapping] = field(default_factory=list)


def save_dialog(path: Path, dialog: SavedDialog) -> None:
    """Write a dialog, with U+FFFD for what was typed in no UTF-8; raises RequestError where it can't be written."""
    try:
        values: JsonObject = {
            "model": dialog.model,
            "flags": dialog.flags,
            "messages": list(map(dict, dialog.messages)),
        }
        save_json(path, without_surrogates(values))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise RequestError(f"{path} can't be written: {reason}") from None


def load_dialog_file(path: Path) -> SavedDialog:
    """Return a saved dialog, or one of a bare list of messages; raises DialogError."""
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
    model, flags = (value.get("model"), value.get("flags")) if isinstance(value, dict) else (None, None)
    return SavedDialog(
        model=model if isinstance(model, str) else None,
        flags=flags if isinstance(flags, dict) else {},
        messages=checked,
    )


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
        self.path = path or _new_path()
        self.saved = path is not None
        self._failed = False

    def save(self, dialog: SavedDialog) -> None:
        """Keep the dialog as it is now, once it has an answer."""
        if any(message["role"] == "assistant" for message in dialog.messages):
            self._write(dialog)

    def begin_anew(self, dialog: SavedDialog) -> None:
        """Keep another dialog from now on, in a file of its own: what came before stays, but isn't the last one."""
        if self.saved:
            self.path = _new_path()
            self._write(dialog)

    def _write(self, dialog: SavedDialog) -> None:
        if self._failed:
            return
        try:
            # The dialogs are nobody else's.
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            save_dialog(self.path, dialog)
            self.saved = True
            for old in _kept_files()[:-_KEPT]:
                old.unlink(missing_ok=True)
        except (OSError, RequestError) as error:
            self._failed = True
            tell(f"note: this dialog isn't kept for --resume: {error}")


def _new_path() -> Path:
    """Return a file that isn't there yet, named by the time."""
    path = chats_folder() / time.strftime("%Y%m%d-%H%M%S.json")
    count = 1
    while path.exists():
        count += 1
        path = path.with_name(f"{path.name.partition('.')[0].partition('_')[0]}_{count}.json")
    return path


def _kept_files() -> list[Path]:
    # Hidden ones are what a session that was killed while it saved has left.
    files = [path for path in chats_folder().glob("*.json") if not path.name.startswith(".")]
    return sorted(files, key=lambda path: path.stat().st_mtime_ns)
