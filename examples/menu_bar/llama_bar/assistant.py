"""What the assistant does, without a menu: a list of prompts, the clipboard in, the answer out."""

import asyncio
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

from llama3_mlx import AsyncStream, Llama, Llama3MLXError, available_models

T = TypeVar("T")


@dataclass(frozen=True)
class Prompt:
    """An entry of the menu: its name, and what is asked about the text that was copied."""

    name: str
    instruction: str


PROMPTS = (
    Prompt("Summarize", "Summarize this text in three sentences."),
    Prompt("Correct", "Correct the spelling and grammar of this text. Answer with the corrected text alone."),
    Prompt("Make it shorter", "Say the same in half as many words."),
    Prompt("Translate into English", "Translate this text into English. Answer with the translation alone."),
    Prompt("Explain", "Explain this text to somebody who is new to its subject."),
)


class Clipboard(Protocol):
    """Where text comes from and goes to. Its methods may take time; they are called off the event loop's thread."""

    def read(self) -> str:
        """Return the text that was copied, empty if there is none."""
        ...

    def write(self, text: str) -> None:
        """Make a text the one that is pasted."""


class MacClipboard:
    """The Mac's, by the two commands that come with it."""

    def read(self) -> str:
        return subprocess.run(["pbpaste"], capture_output=True, text=True, check=True).stdout

    def write(self, text: str) -> None:
        subprocess.run(["pbcopy"], input=text, text=True, check=True)


def first_model() -> str:
    """Return the name of the first model that is on this machine, empty if there is none."""
    return next((each.name for each in available_models()), "")


class Assistant:
    """Loads its model with the first question; without a name, the first that is on this machine.

    `told` hears what goes on, a line each, on the event loop's thread.
    """

    def __init__(self, model: str, clipboard: Clipboard, told: Callable[[str], object]) -> None:
        self.model, self.clipboard, self.told = model, clipboard, told
        self._llama: Llama | None = None
        self._stream: AsyncStream | None = None
        self._task: asyncio.Task[str] | None = None
        self._stopped = self._closed = False
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="llama-bar")

    @property
    def busy(self) -> bool:
        """Whether an answer is being written, which `stop` would end."""
        return self._task is not None

    async def answer(self, prompt: Prompt) -> None:
        """Put the answer about the copied text into the clipboard; one question at a time."""
        if self.busy or self._closed:
            return
        self._stopped = False
        self._task = asyncio.create_task(self._answer(prompt))
        try:
            line = await self._task
        finally:
            self._task = self._stream = None
        self.told(line)

    async def _answer(self, prompt: Prompt) -> str:
        """Return what came of it, in a line."""
        try:
            text = await self._run(self.clipboard.read)
            if not text.strip():
                return "Copy a text first"
            self.model = self.model or await self._run(first_model)
            if not self.model:
                return "There is no model yet: llama3-mlx pull NAME"
            completed, done = await self._written(prompt, text)
            if done:
                await self._run(lambda: self.clipboard.write(completed))
            return f"{prompt.name}: ready to paste" if done else "Stopped: the clipboard is as it was"
        except Llama3MLXError as error:
            return f"{error.title}. {error.remedy}"
        except (OSError, subprocess.SubprocessError) as error:
            return f"The clipboard can't be used: {error}"

    async def _written(self, prompt: Prompt, text: str) -> tuple[str, bool]:
        """Return the answer, and whether the model came to its end."""
        if self._llama is None:
            self.told("Loading…")
            self._llama = await self._run(lambda: Llama.load(self.model))
        llama = self._llama
        messages = [{"role": "user", "content": f"{prompt.instruction}\n\n{text}"}]
        token_ids = await self._run(lambda: llama.encode_chat(messages))
        self.told(f"{prompt.name}…")
        if self._stopped:
            return "", False
        self._stream = llama.astream(token_ids, max_tokens=1024)
        answer = "".join([piece.text async for piece in self._stream])
        return answer.strip(), self._stream.completion.finish_reason != "cancelled"

    def stop(self) -> None:
        """End the answer that is being written; the clipboard stays as it is."""
        self._stopped = True
        if self._stream is not None:
            self._stream.cancel()

    async def close(self) -> None:
        """End everything and give the memory back."""
        self._closed = True
        self.stop()
        if self._task is not None:
            await self._task
        if self._llama is not None:
            await self._run(self._llama.close)
        self._executor.shutdown()

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)
