"""Text to calibrate on: the built-in texts, written for this project, or the user's; cut into windows of tokens."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from ...errors import ConversionError
from ...tokenizer.tokenizer import Tokenizer

WINDOW = 256
_MIN_WINDOWS = 4


def builtin_texts(folder: str) -> list[str]:
    """Return the texts of a folder of this package."""
    entries = (files(__package__) / folder).iterdir()
    return [entry.read_text(encoding="utf-8") for entry in sorted(entries, key=lambda entry: entry.name)]


def text_of(file: Path) -> str:
    """Return the text of a file; raises ConversionError where it can't be read."""
    try:
        return file.expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise ConversionError(f"the calibration text {file} can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConversionError(f"the calibration text {file} can't be read: {error}; give a UTF-8 text file") from None


def token_windows(
    tokenizer: Tokenizer, texts: Sequence[str], *, length: int | None = None, max_windows: int | None = None
) -> list[list[int]]:
    """Return windows of `length` tokens (default: WINDOW); what is left of the text at its end is cut off.

    A window starts with the beginning-of-text token where the model was trained to see one. If there are more than
    `max_windows`, they are taken evenly from all of the text.
    """
    bos = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
    length = length or WINDOW
    step = length - len(bos)
    ids = [token for text in texts for token in tokenizer.encode(text)]
    windows = [bos + ids[start : start + step] for start in range(0, len(ids) - step + 1, step)]
    if len(windows) < min(_MIN_WINDOWS, max_windows or _MIN_WINDOWS):
        raise ConversionError(
            f"the calibration text has {len(ids)} tokens, too few for {_MIN_WINDOWS} windows of {length}: "
            "give a longer text"
        )
    if max_windows is not None and len(windows) > max_windows:
        windows = [windows[i * len(windows) // max_windows] for i in range(max_windows)]
    return windows
