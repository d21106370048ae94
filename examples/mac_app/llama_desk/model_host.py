"""The model: loaded, asked and closed from an event loop, which never waits for it.

`Llama` computes on a thread of its own. What else takes time (loading, tokenizing, closing) runs on one more thread,
which ends with the host; `asyncio.to_thread` would leave the loop's own behind.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import mlx.core as mx

from llama3_mlx import (
    AsyncStream,
    AvailableModel,
    Llama,
    LoadProgress,
    ModelNeeds,
    available_models,
    download,
)

from .conversations import Conversation
from .preferences import Preferences
from .prompting import make_prompt

T = TypeVar("T")
Told = Callable[[LoadProgress], None]


class ModelHost:
    """At most one loaded model. Its methods are called on the event loop's thread."""

    def __init__(self) -> None:
        self.llama: Llama | None = None
        self.name, self.adapter = "", ""
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="llama-desk")
        self._cancel = threading.Event()

    async def models(self) -> list[AvailableModel]:
        """Return the models on this machine."""
        return await self.run(available_models)

    async def needs(self, name: str) -> ModelNeeds:
        """Return what a model would need in memory. Raises HubError and others of Llama3MLXError."""
        return await self.run(partial(Llama.estimate, name))

    async def load(self, name: str, adapter: str, told: Told) -> bool:
        """Load a model in the place of the one before, downloading it if need be; False if that was cancelled.

        `told` is called on the event loop's thread. Raises Llama3MLXError.
        """
        await self.unload()
        self._cancel.clear()
        loop = asyncio.get_running_loop()

        def progress(event: LoadProgress) -> None:
            loop.call_soon_threadsafe(told, event)

        def run() -> Llama | None:
            folder = download(name, progress=progress, cancel=self._cancel)
            if folder is None or self._cancel.is_set():
                return None
            return Llama.load(folder, adapter=adapter or None, progress=progress)

        self.llama = await self.run(run)
        if self.llama is None:
            return False
        self.name, self.adapter = name, adapter
        return True

    def cancel_load(self) -> None:
        """Ask for the end of a download. Files that are whole stay for the next time."""
        self._cancel.set()

    async def start(self, conversation: Conversation, preferences: Preferences) -> tuple[AsyncStream, str]:
        """Begin the answer to a conversation's last question; gives its stream and a note on what the model reads."""
        llama = self.llama
        if llama is None:
            raise RuntimeError("no model is loaded")
        prompt = await self.run(
            partial(make_prompt, llama, conversation, preferences.system, max_tokens=preferences.max_tokens)
        )
        stream = llama.astream(prompt.token_ids, max_tokens=preferences.max_tokens, temperature=preferences.temperature)
        return stream, prompt.note

    async def forget(self) -> None:
        """Give back what is kept of conversations, once one is closed."""
        if self.llama is not None:
            await self.run(self.llama.release_memory)

    async def unload(self) -> None:
        """Give the model's memory back, ending what is being written."""
        if self.llama is not None:
            llama, self.llama, self.name, self.adapter = self.llama, None, "", ""
            await self.run(llama.close)

    async def close(self) -> None:
        """End everything, with the thread; nothing can be called afterwards."""
        self.cancel_load()
        await self.unload()
        self._executor.shutdown()

    @property
    def memory_bytes(self) -> int:
        """What MLX holds: weights, KV caches and what is being computed."""
        return mx.get_active_memory()

    async def run(self, work: Callable[[], T]) -> T:
        """Return what `work` returns, called on the host's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)
