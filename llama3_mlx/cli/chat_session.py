"""A dialog and its turns: whatever happens in a turn, the dialog is as it was before it, or has the answer."""

import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..chat.messages import MessageMapping
from ..errors import ContextLengthError, Llama3MLXError
from ..json_types import JsonMapping
from .chat_files import AutoSave, SavedDialog
from .chat_model import Answer, AnswerStream, ChatModel
from .progress import PromptBar
from .shield_flag import MakeShielded, shielded
from .terminal import tell


class ChatSession:
    """The messages so far and what adds to them."""

    def __init__(
        self,
        model: ChatModel,
        system: str | None,
        settings: JsonMapping,
        tools: Sequence[Callable[..., Any]] = (),
        autosave: AutoSave | None = None,
        flags: JsonMapping | None = None,
    ) -> None:
        """Begin a dialog.

        `system` None leaves the message to the chat template, an empty one switches the template's own off; `flags`
        are kept with the dialog.
        """
        self.model, self.settings, self.tools, self.autosave = model, dict(settings), tools, autosave
        opening: list[MessageMapping] = [] if system is None else [{"role": "system", "content": system}]
        self.messages = opening
        self.last: Answer | None = None
        self.shield: MakeShielded | None = None
        """What scans the code of answers as they are shown; the dialog keeps what the model wrote."""
        self._flags = dict(flags or {})

    def set_system(self, text: str | None) -> None:
        """Begin a new dialog with this system message."""
        self.begin([] if text is None else [{"role": "system", "content": text}])

    def reset(self) -> None:
        """Forget the dialog, except its system message."""
        self.begin([message for message in self.messages if message["role"] == "system"])

    def begin(self, messages: Sequence[MessageMapping]) -> None:
        """Go on with another dialog; it is now the one that `--resume` finds."""
        self.messages = list(messages)
        if self.autosave is not None:
            self.autosave.begin_anew(self.dialog())

    def dialog(self) -> SavedDialog:
        """Return the dialog as it is now, to be saved."""
        folder = self.model.folder
        model = str(folder.absolute()) if isinstance(folder, Path) else folder
        return SavedDialog(model=model, flags=self._flags, messages=self.messages)

    def answer(self, text: str) -> None:
        """Answer a message. A stopped answer is kept as far as it came; a message that fails is taken back."""
        before = list(self.messages)
        self.messages = [*before, {"role": "user", "content": text}]
        try:
            if self.tools:
                self._answer_with_tools()
            else:
                self._stream_answer()
        except KeyboardInterrupt:
            self.messages = before
            say("\n(stopped)")
        except (Llama3MLXError, OSError) as error:
            self.messages = before
            hint = "; /reset begins a new dialog, /save keeps this one" if isinstance(error, ContextLengthError) else ""
            say(f"error: {error}{hint}")
        if self.autosave is not None:
            self.autosave.save(self.dialog())

    def _stream_answer(self) -> None:
        with PromptBar() as progress:
            stream = self.model.stream_chat(self.messages, progress=progress.report, **self.settings)
            texts: list[str] = []
            shown = self.shield() if self.shield else None
            try:
                for piece in stream:
                    progress.close()
                    texts.append(piece.text)
                    write(shown.add(piece.text) if shown else piece.text)
            except KeyboardInterrupt:
                progress.close()
                self._stop(stream, "".join(texts))
                return
        write(f"{shown.finish()}\n" if shown else "\n")
        self.last = stream.completion
        self._add(self.last.text)
        if self.last.finish_reason in ("length", "timeout"):
            say(f"(cut off after {len(self.last.token_ids)} tokens: {self.last.finish_reason})")

    def _stop(self, stream: AnswerStream, text: str) -> None:
        """End the answer and keep what there is; a further Ctrl-C doesn't wait for the end."""
        with contextlib.suppress(KeyboardInterrupt):
            stream.close()
            self.last = stream.completion
        say("\n(stopped)")
        if text:
            self._add(text)
        else:
            self.messages = self.messages[:-1]

    def _answer_with_tools(self) -> None:
        """Answer, calling functions in between; calls are shown on stderr."""
        with PromptBar() as progress:
            run = self.model.run_tools(self.messages, self.tools, progress=progress.report, **self.settings)
        for call in run.calls:
            say(f"called {call.name}({json.dumps(dict(call.arguments), ensure_ascii=False)})")
        write(shielded(run.text, self.shield) + "\n")
        self.last, self.messages = run.completion, list(run.messages)

    def _add(self, text: str) -> None:
        self.messages = [*self.messages, {"role": "assistant", "content": text}]


def write(text: str) -> None:
    """Write part of an answer to stdout, to be seen at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def say(text: str) -> None:
    """Write a line about the dialog to stderr."""
    tell(text)
