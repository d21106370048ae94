"""Standard input and output as a command meets them: terminals, pipes, files, closed, not in UTF-8."""

import io
import os
import shutil
import stat
import sys
import textwrap
from typing import TextIO

from ..errors import RequestError


def stdin_is_terminal() -> bool:
    """Return whether somebody can type."""
    return sys.stdin.isatty()


def prepare_streams() -> None:
    """Have closed standard streams read and write nothing, and replace characters that the terminal's encoding lacks.

    The number of a closed stream would else be that of the next file that is opened, and 0 isn't one that MLX reads.
    """
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115, PTH123
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def show(text: str, *, indent: int = 2) -> None:
    """Write lines to standard output: on a terminal broken between words, with what follows indented."""
    sys.stdout.write(_folded(text, sys.stdout, indent) + "\n")
    sys.stdout.flush()


def tell(text: str) -> None:
    """Write lines to stderr, in the same way."""
    sys.stderr.write(_folded(text, sys.stderr, 2) + "\n")
    sys.stderr.flush()


def _folded(text: str, stream: TextIO, indent: int) -> str:
    if not stream.isatty():
        return text
    columns = shutil.get_terminal_size().columns
    whole = textwrap.TextWrapper(
        columns, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False, expand_tabs=False
    )
    return "\n".join(line if len(line) <= columns else whole.fill(line) for line in text.split("\n"))


def piped_text() -> str:
    """Return the text that is piped or redirected into the command, empty where there is none.

    Nothing else is read: a command in a loop must not take the input that the loop reads from a device or socket.
    """
    if sys.stdin.isatty():
        return ""
    try:
        kind = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):
        # What stands in for a file: a text, or what can't be read.
        return read_stdin() if isinstance(sys.stdin, io.StringIO) else ""
    return read_stdin() if stat.S_ISFIFO(kind) or stat.S_ISREG(kind) else ""


def read_stdin() -> str:
    """Read standard input to its end, without the final newline; raises RequestError where it isn't UTF-8."""
    buffer = getattr(sys.stdin, "buffer", None)
    if buffer is None:
        return sys.stdin.read().removesuffix("\n")
    try:
        text: str = buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"the text on standard input is not UTF-8: byte {error.start} can't be read; convert it, for instance "
            "with iconv -f latin1 -t utf-8"
        ) from None
    return text.removesuffix("\n")


def read_line() -> str:
    """Read a line of standard input; bytes that aren't UTF-8 are replaced. Raises EOFError at its end."""
    buffer = getattr(sys.stdin, "buffer", None)
    line = sys.stdin.readline() if buffer is None else buffer.readline().decode("utf-8", errors="replace")
    if not line:
        raise EOFError
    if "\ufffd" in line:
        sys.stderr.write("note: a line is not UTF-8; what can't be read is replaced\n")
    return line.rstrip("\r\n")
