"""The commands of a dialog in the terminal: /help, /save, /load and others."""

import shlex
from pathlib import Path

from ..errors import Llama3MLXError
from .chat_files import expanded, load_dialog_file, save_dialog
from .chat_session import ChatSession, say
from .generate import summary
from .line_editor import MessageReader
from .parser import meant

_HELP = '''\
/reset         forget the dialog, keep the system message
/system TEXT   set the system message and start anew
               ("": switch the default off; without TEXT: remove it)
/save FILE     write the dialog as JSON
/load FILE     resume a dialog that was saved
/stats         show counts and rates of the last reply
/exit          leave (also Ctrl-D)
Ctrl-C stops a reply. A message of several lines: paste it, end a line with \\,
or put it between """ and """.'''
_COMMANDS = ("/bye", "/exit", "/help", "/load", "/quit", "/reset", "/save", "/stats", "/system")


class ChatCommands:
    """Obeys commands and passes messages on to the session."""

    def __init__(self, session: ChatSession, reader: MessageReader) -> None:
        self.session, self._reader = session, reader
        self.ended = False
        # The dialog's own files may be written over without a question.
        self._own: set[Path] = set()

    def handle(self, message: str) -> None:
        """Obey a command or answer a message."""
        word, _, rest = message.strip().partition(" ")
        if not word:
            return
        one_line = "\n" not in message
        if one_line and word in _COMMANDS:
            try:
                self._obey(word, rest.strip())
            except Llama3MLXError as error:
                say(f"error: {error}")
        elif one_line and word.startswith("/") and word[1:].isalpha():
            say(f"no command {word}{meant(word, _COMMANDS) or '; /help lists them'}")
        else:
            with self._reader.holding():
                self.session.answer(message)

    def _obey(self, word: str, rest: str) -> None:
        session = self.session
        if word == "/help":
            say(_HELP)
        elif word == "/reset":
            session.reset()
            say("the dialog starts anew")
        elif word == "/system":
            session.set_system(rest.strip('"') if rest else None)
            say("the dialog starts anew")
        elif word == "/stats":
            say(summary(session.last) if session.last is not None else "no reply yet")
        elif word == "/save":
            self._save(rest)
        elif word == "/load":
            self._load(rest)
        else:
            self.ended = True

    def _save(self, name: str) -> None:
        if not name:
            say("name a file: /save FILE")
            return
        path = expanded(name)
        if path.exists() and path not in self._own and not self._reader.ask(f"{path} exists already; write over it?"):
            say(f"{path} is as it was: choose another name")
            return
        save_dialog(path, self.session.dialog())
        self._own.add(path)
        say(f"saved {len(self.session.messages)} messages to {path}")

    def _load(self, name: str) -> None:
        if not name:
            say("name a file: /load FILE")
            return
        path = expanded(name)
        saved = load_dialog_file(path)
        self.session.begin(saved.messages)
        self._own.add(path)
        say(f"loaded {len(self.session.messages)} messages from {path}")
        now = self.session.dialog()
        if (saved.model, saved.flags) not in ((None, {}), (now.model, now.flags)):
            say(f"note: model and flags stay as they are; chat --resume {shlex.quote(str(path))} has the dialog's own")
