"""Reads messages: with an editor on a terminal, line by line from a pipe."""

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..library.home import home_folder
from .terminal import read_line, stdin_is_terminal

if TYPE_CHECKING:
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

_QUOTES = '"""'


class MessageReader(Protocol):
    """Gives messages until EOFError."""

    def read(self) -> str:
        """Return the next message. Raises EOFError at the end, KeyboardInterrupt for Ctrl-C."""

    def ask(self, question: str) -> bool:
        """Put a question that is answered with yes or no."""

    def holding(self) -> AbstractContextManager[None]:
        """Hold what is typed or pasted meanwhile for the next message."""


def make_reader() -> MessageReader:
    """Return the editor on a terminal, else what reads a pipe."""
    return TerminalReader() if stdin_is_terminal() else PipeReader()


def is_open(text: str) -> bool:
    """Return whether a message goes on in the next line: a block of triple quotes that isn't closed."""
    return text.lstrip().startswith(_QUOTES) and text.count(_QUOTES) % 2 == 1


def unquoted(text: str) -> str:
    """Return a block without its triple quotes; other text as it is."""
    inner = text.strip()
    if len(inner) >= 6 and inner.startswith(_QUOTES) and inner.endswith(_QUOTES) and inner.count(_QUOTES) == 2:
        return inner[3:-3].strip("\n")
    return text


class PipeReader:
    """Reads lines of a pipe or a file; nobody can be asked."""

    def read(self) -> str:
        """Return a line with those that it continues in: behind a final backslash, or up to closing quotes."""
        lines = [read_line()]
        while lines[-1].endswith("\\") or is_open("\n".join(lines)):
            lines[-1] = lines[-1].removesuffix("\\")
            try:
                lines.append(read_line())
            except EOFError:
                break
        return unquoted("\n".join(lines))

    def ask(self, question: str) -> bool:
        """Answer no."""
        return False

    def holding(self) -> AbstractContextManager[None]:
        """Do nothing: a pipe waits."""
        return nullcontext()


class TerminalReader:
    """An editor with history. A pasted text is one message; so is what stands between triple quotes."""

    def __init__(self) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.output import create_output

        self._output = output = create_output(stdout=sys.stdout if sys.stdout.isatty() else sys.stderr)
        # No question to the terminal where its cursor is: many never answer.
        output.enable_cpr = False  # type: ignore[attr-defined]
        self._session: PromptSession[str] = PromptSession(
            ">>> ",
            multiline=True,
            prompt_continuation="... ",
            history=_history(),
            key_bindings=_key_bindings(),
            output=output,
        )

    def read(self) -> str:
        """Return the message that was typed or pasted."""
        return unquoted(self._session.prompt().rstrip("\n"))

    def ask(self, question: str) -> bool:
        """Put the question; anything but y or yes is no."""
        sys.stderr.write(f"{question} [y/N] ")
        sys.stderr.flush()
        try:
            return read_line().strip().lower() in ("y", "yes")
        except EOFError:
            return False

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Show nothing of what is typed into a reply, and have a text that is pasted stay one message."""
        import termios

        terminal = sys.stdin.fileno()
        before = termios.tcgetattr(terminal)
        silent = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
        termios.tcsetattr(terminal, termios.TCSADRAIN, silent)
        self._output.enable_bracketed_paste()
        self._output.flush()
        try:
            yield
        finally:
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)
            self._output.disable_bracketed_paste()
            self._output.flush()


def _key_bindings() -> "KeyBindings":
    from prompt_toolkit.key_binding import KeyBindings

    bindings = KeyBindings()

    @bindings.add("enter")
    def _(event: "KeyPressEvent") -> None:
        buffer = event.current_buffer
        before = buffer.document.text_before_cursor
        if before.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        elif is_open(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    def _(event: "KeyPressEvent") -> None:
        event.current_buffer.insert_text("\n")

    return bindings


def _history() -> "History":
    """Return the history in the home folder, or of this session alone where that can't be written."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    path = home_folder() / "chat_history"
    try:
        # What was typed is nobody else's.
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
    except OSError:
        return InMemoryHistory()
    return FileHistory(Path(path))
