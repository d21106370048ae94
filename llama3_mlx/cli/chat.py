"""`llama3-mlx chat`: a dialog in the terminal."""

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import DialogError, Llama3MLXError
from ..files import save_json
from ..generation.options import GenerationOptions
from .flags import add_flags
from .generate import given_settings, summary
from .model_choice import add_model_flags, load_llama
from .structured_flags import add_structured_flags, load_tools

_HELP = """\
/reset         forget the dialog, keep the system message
/system TEXT   set the system message and start anew (without TEXT: remove it)
/save FILE     write the dialog as JSON
/stats         show counts and rates of the last reply
/exit          leave (also Ctrl-D)
Ctrl-C stops a reply. A line that ends with \\ goes on in the next one."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `chat`."""
    add_model_flags(parser)
    parser.add_argument("-s", "--system", metavar="TEXT", help="system message")
    add_structured_flags(parser)
    add_flags(parser, GenerationOptions, "generation")


def run(args: argparse.Namespace) -> int:
    """Read lines and answer them until the end of input."""
    settings = given_settings(args)
    tools = load_tools(args.tool)
    with load_llama(args) as llama:
        folder = llama.folder
        if llama.dialog is None:
            raise DialogError(f"{folder.name} is a base model without a dialog format: use generate --raw")
        return talk(ChatSession(llama, args.system, settings, tools), folder.name)


def talk(session: "ChatSession", name: str) -> int:
    """Read lines and have the session answer them until the end of input or `/exit`."""
    _use_line_editing()
    if sys.stdin.isatty():
        sys.stderr.write(f"{name}: /help lists the commands, Ctrl-D leaves\n")
    while not session.ended:
        try:
            line = _read_message()
        except EOFError:
            break
        except KeyboardInterrupt:
            sys.stderr.write("\nCtrl-D or /exit leaves\n")
            continue
        session.handle(line)
    if sys.stdin.isatty():
        sys.stderr.write("\n")
    return 0


class ChatSession:
    """The dialog so far and the commands that change it."""

    def __init__(
        self, llama: Any, system: str | None, settings: dict[str, Any], tools: Sequence[Callable[..., Any]] = ()
    ) -> None:
        self.llama, self.settings, self.tools = llama, settings, tools
        self.messages: list[Any] = []
        self.ended = False
        self._last: Any = None
        self._set_system(system or "")
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: _say(_HELP),
            "/reset": self._reset,
            "/system": self._set_system,
            "/save": self._save,
            "/stats": lambda _: _say(summary(self._last) if self._last else "no reply yet"),
            "/exit": self._exit,
            "/quit": self._exit,
            "/bye": self._exit,
        }

    def handle(self, line: str) -> None:
        """Obey a command or answer a message."""
        word, _, rest = line.partition(" ")
        if not line.strip():
            return
        if word in self._commands:
            self._commands[word](rest.strip())
        elif word.startswith("/") and word[1:].isalpha():
            _say(f"no command {word}; /help lists them")
        else:
            self._answer(line)

    def _answer(self, text: str) -> None:
        """Stream a reply; a stopped one is kept as far as it came, a failed question is taken back."""
        self.messages.append({"role": "user", "content": text})
        if self.tools:
            self._answer_with_tools()
            return
        try:
            stream = self.llama.stream_chat(self.messages, **self.settings)
        except Llama3MLXError as error:
            self.messages.pop()
            _say(f"error: {error}")
            return
        try:
            for piece in stream:
                sys.stdout.write(piece.text)
                sys.stdout.flush()
        except KeyboardInterrupt:
            stream.close()
            sys.stderr.write("\n(stopped)")
        sys.stdout.write("\n")
        self._last = stream.completion
        self.messages.append({"role": "assistant", "content": self._last.text})

    def _answer_with_tools(self) -> None:
        """Answer, calling functions in between; calls are shown on stderr."""
        try:
            run = self.llama.run_tools(self.messages, self.tools, **self.settings)
        except Llama3MLXError as error:
            self.messages.pop()
            _say(f"error: {error}")
            return
        except KeyboardInterrupt:
            self.messages.pop()
            _say("\n(stopped)")
            return
        for call in run.calls:
            _say(f"called {call.name}({json.dumps(dict(call.arguments), ensure_ascii=False)})")
        sys.stdout.write(run.text + "\n")
        self._last, self.messages = run.completion, list(run.messages)

    def _reset(self, _: str) -> None:
        self.messages = [message for message in self.messages if message["role"] == "system"]
        _say("the dialog starts anew")

    def _set_system(self, text: str) -> None:
        self.messages = [{"role": "system", "content": text}] if text else []

    def _save(self, name: str) -> None:
        if not name:
            _say("name a file: /save FILE")
            return
        try:
            save_json(Path(name).expanduser(), {"model": str(self.llama.folder), "messages": self.messages})
        except OSError as error:
            _say(f"error: {name} can't be written: {error.strerror}")
        else:
            _say(f"saved {len(self.messages)} messages to {name}")

    def _exit(self, _: str) -> None:
        self.ended = True


def _read_message() -> str:
    """Read a line and those that it continues with a final backslash."""
    prompt = ">>> " if sys.stdin.isatty() else ""
    lines = [input(prompt)]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(input("... " if prompt else ""))
    return "\n".join(lines)


def _use_line_editing() -> None:
    """Give `input` arrow keys and history where the platform has readline."""
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
