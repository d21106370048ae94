"""Standard input and output as a command meets them: terminals, pipes, files, closed, not in UTF-8."""

import os
import stat
import sys

from ..errors import RequestError


def stdin_is_terminal() -> bool:
    """Return whether somebody can type; a closed standard input is no terminal."""
    return sys.stdin is not None and sys.stdin.isatty()


def tolerate_encodings() -> None:
    """Have characters that the terminal's encoding lacks replaced, where writing them would raise."""
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def piped_text() -> str:
    """Return the text that is piped or redirected into the command, empty where there is none.

    Nothing else is read: a command in a loop must not take the input that the loop reads from a device or socket.
    """
    if sys.stdin is None or sys.stdin.isatty():
        return ""
    try:
        kind = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):
        return read_stdin()
    return read_stdin() if stat.S_ISFIFO(kind) or stat.S_ISREG(kind) else ""


def read_stdin() -> str:
    """Read standard input to its end, without the final newline; raises RequestError where it isn't UTF-8."""
    if sys.stdin is None:
        return ""
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
    if sys.stdin is None:
        raise EOFError
    buffer = getattr(sys.stdin, "buffer", None)
    line = sys.stdin.readline() if buffer is None else buffer.readline().decode("utf-8", errors="replace")
    if not line:
        raise EOFError
    if "\ufffd" in line:
        sys.stderr.write("note: a line is not UTF-8; what can't be read is replaced\n")
    return line.rstrip("\r\n")
