"""Whether what is converted can be used with its tokenizer afterwards, found out before the work."""

import tempfile
from pathlib import Path

from ...checkpoint.folder import ModelFolder
from ...errors import ConversionError, TokenizerError
from ...files import is_full
from ...tokenizer.loading import has_tokenizer, load_tokenizer
from .side_files import write_json
from .source import Source


def check_tokenizer(source: Source) -> tuple[str, ...]:
    """Return what is to be said about the tokenizer that the source would write; nothing if it writes none.

    Raises TokenizerError where it couldn't be loaded again.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            source.save_side_files(folder)
            if not has_tokenizer(folder):
                return ()
            write_json(folder / "config.json", source.config.to_dict())
            opened = ModelFolder(folder)
            load_tokenizer(opened)
        except TokenizerError as error:
            text = str(error).replace(name, str(source.location))
            raise TokenizerError(
                f"{text}; what is converted couldn't be used with it: mend it, or move the tokenizer's files away to "
                "convert the weights alone"
            ) from None
        except OSError as error:
            if is_full(error):
                raise ConversionError(
                    f"{folder} has no room for the tokenizer's files, which are tried there ({error.strerror}): make "
                    "room, or name another folder by TMPDIR"
                ) from None
            raise
        return opened.notes
