"""What the application does, without a window: conversations, questions and answers, models, documents."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from llama3_mlx import AsyncStream, AvailableModel, Llama3MLXError, LoadProgress, go_offline, watch_memory

from . import garbage
from .conversations import Conversation, ConversationStore, Message
from .documents import DocumentError, dropped_paths, read_document
from .model_host import ModelHost
from .preferences import Preferences
from .view import State, View, rate_text

# Text is drawn at most this often: a window that draws each token has time for nothing else.
_DRAWN_EVERY_S = 0.08
_REASONS = {"cancelled": "Stopped", "length": "Cut off at the longest answer that the settings allow"}


class Desk:
    """The application's logic. Everything is called on the event loop's thread, and nothing blocks it."""

    def __init__(self, folder: Path, view: View) -> None:
        """`folder` keeps conversations and preferences."""
        self.view, self.host = view, ModelHost()
        self.state = State()
        self.preferences, self._invalid = Preferences.load(folder / "preferences.json")
        self._preferences_path = folder / "preferences.json"
        self.store = ConversationStore(folder / "conversations")
        self.conversations = self.store.load()
        self.current = Conversation()
        self._installed: list[AvailableModel] = []
        self._stream: AsyncStream | None = None
        self._writing: asyncio.Task[None] | None = None
        self._loading: asyncio.Task[None] | None = None
        self._stopped = self._closed = False
        self._end_watch: Callable[[], None] | None = None

    async def start(self) -> None:
        """Show what is there, and load the model of the last time."""
        if self.preferences.offline:
            go_offline()
        loop = asyncio.get_running_loop()
        self._end_watch = watch_memory(lambda level: loop.call_soon_threadsafe(self._pressed, level))
        unread = self.store.unreadable
        unreadable = f"Not readable and left alone: {', '.join(unread)}." if unread else ""
        self._show_conversation()
        self._update(status=self._invalid or unreadable)
        await self.refresh_models()
        if self.preferences.model:
            await self.choose_model(self.preferences.model, self.preferences.adapter)
        elif not self._installed:
            self._update(status="Choose Download to get a model.")

    async def refresh_models(self) -> None:
        """List the models on this machine anew."""
        self._installed = await self.host.models()
        self._update(models=tuple(model.name for model in self._installed))

    async def choose_model(self, name: str, adapter: str = "") -> None:
        """Load a model, downloading it if need be; what was being loaded before ends."""
        if self._loading is not None:
            self.host.cancel_load()
            await self._loading
        await self._end_writing()
        self._loading = asyncio.create_task(self._load(name, adapter))
        await self._loading

    def cancel_load(self) -> None:
        """Leave a download; it resumes where it was when the model is chosen again."""
        self.host.cancel_load()

    async def _load(self, name: str, adapter: str) -> None:
        self._update(model="", adapter="", status=f"Loading {name}…", details="", progress=0.0)
        garbage.collect_all()
        try:
            if not await self.host.load(name, adapter, self._show_progress):
                self._update(status=f"{name} wasn't loaded. What is downloaded stays for the next time.")
                return
            self.preferences = replace(self.preferences, model=name, adapter=adapter)
            await self.keep_preferences(self.preferences)
            await self.refresh_models()
            fitting = next((model.adapters for model in self._installed if model.name == name), ())
            self._update(model=name, adapter=adapter, adapters=fitting, status="Ready.")
        except Llama3MLXError as error:
            self._show_error(error)
        finally:
            self._loading = None
            self._update(progress=None)

    def _show_progress(self, event: LoadProgress) -> None:
        share = event.done / event.total if event.total else 0.0
        size = f"{event.done / 1e9:.2f} of {event.total / 1e9:.2f} GB"
        self._update(progress=share, status=f"{event.stage.capitalize()} {event.name}: {size}")

    async def ask(self, question: str) -> None:
        """Put a question and write its answer into the current conversation."""
        question = question.strip()
        if not question or self.state.writing or self._closed:
            return
        if self.host.llama is None:
            self.view.set_question(question)
            self._update(status="Choose a model first.")
            return
        conversation = self.current
        if conversation not in self.conversations:
            self.conversations.insert(0, conversation)
        conversation.messages.append(Message("user", question))
        self._stopped = False
        self._update(writing=True, status="Reading…", details="")
        self._show_conversation()
        self._writing = asyncio.create_task(self._write(conversation, question))
        await self._writing

    async def _write(self, conversation: Conversation, question: str) -> None:
        answer = Message("assistant", "")
        conversation.messages.append(answer)
        try:
            self._stream, note = await self.host.start(self._without_last(conversation), self.preferences)
            await self._receive(self._stream, conversation, answer)
            completion = self._stream.completion
            answer.note = ". ".join(each for each in (note, _REASONS.get(completion.finish_reason, "")) if each)
            self._update(status=rate_text(completion.tokens_per_second))
        except Llama3MLXError as error:
            answer.note = "Not finished"
            self._show_error(error)
            if not answer.text:
                conversation.take_back()
                self.view.set_question(question)
        finally:
            self._stream = self._writing = None
            await self.host.run(partial(self.store.save, conversation))
            self._update(writing=False)
            self._show_conversation()

    async def _receive(self, stream: AsyncStream, conversation: Conversation, answer: Message) -> None:
        loop, drawn = asyncio.get_running_loop(), 0.0
        if self._stopped:
            stream.cancel()
        self._update(status="Writing…")
        async for piece in stream:
            answer.text += piece.text
            if conversation is self.current and loop.time() - drawn > _DRAWN_EVERY_S:
                self.view.show_text(conversation.text)
                drawn = loop.time()

    @staticmethod
    def _without_last(conversation: Conversation) -> Conversation:
        """The conversation up to the answer that is to be written; a copy, since another thread reads it."""
        return replace(conversation, messages=conversation.messages[:-1])

    def stop(self) -> None:
        """End the answer that is being written; what is written of it stays."""
        self._stopped = True
        if self._stream is not None:
            self._stream.cancel()

    def edit(self) -> None:
        """Take the last question back, to be changed and put again; called once more, the one before it."""
        if not self.state.writing and self.current.messages:
            self.view.set_question(self.current.take_back())
            self._show_conversation()

    def new(self) -> None:
        """Begin a conversation. An answer that is being written goes on where it belongs."""
        self.current = Conversation()
        self._show_conversation()

    def select(self, conversation_id: str) -> None:
        """Show another conversation."""
        found = next((each for each in self.conversations if each.id == conversation_id), None)
        if found is not None and found is not self.current:
            self.current = found
            self._show_conversation()

    async def delete(self, conversation_id: str) -> None:
        """Remove a conversation for good, and what the model keeps of it."""
        found = next((each for each in self.conversations if each.id == conversation_id), None)
        if found is None:
            return
        await self._end_writing()
        self.conversations.remove(found)
        await self.host.run(partial(self.store.delete, found))
        await self.host.forget()
        if found is self.current:
            self.current = Conversation()
        self._show_conversation()

    async def attach(self, path: Path) -> None:
        """Make the conversation one about a document; one that has begun is left for a new one."""
        try:
            document = await self.host.run(partial(read_document, path))
        except DocumentError as error:
            self._update(status=str(error))
            return
        if self.current.messages or self.current.document:
            self.current = Conversation()
        self.current.document = document
        self._show_conversation()

    async def typed(self, text: str) -> None:
        """Open the documents that were dropped where questions are typed, and take their paths out of the text."""
        paths = dropped_paths(text)
        if paths:
            kept = [line for line in text.split("\n") if not dropped_paths(line)]
            self.view.set_question("\n".join(kept).strip())
            await self.attach(paths[0])

    async def keep_preferences(self, preferences: Preferences) -> None:
        """Use other preferences from the next answer on, and keep them."""
        self.preferences = preferences
        if preferences.offline:
            go_offline()
        await self.host.run(partial(preferences.save, self._preferences_path))

    def show_memory(self) -> None:
        """Tell the window what MLX holds now."""
        held = self.host.memory_bytes
        self._update(memory=f"{held / 1e9:.1f} GB" if held >= 1e9 else f"{held / 1e6:.0f} MB")

    async def close(self) -> None:
        """End what is being written or loaded, keep it, and give everything back. Nothing can be called afterwards."""
        if self._closed:
            return
        self._closed = True
        if self._end_watch is not None:
            self._end_watch()
        self.host.cancel_load()
        if self._loading is not None:
            await self._loading
        await self._end_writing()
        await self.host.close()

    async def _end_writing(self) -> None:
        if self._writing is not None:
            self.stop()
            await self._writing

    def _pressed(self, level: str) -> None:
        if level != "normal" and not self._closed:
            self._update(status=f"Memory pressure: {level}. Closing other applications or a smaller model helps.")

    def _show_conversation(self) -> None:
        self.view.show_list(self.conversations, self.current)
        self.view.show_text(self.current.text)
        self._update(document=self.current.document.name if self.current.document else "")

    def _show_error(self, error: Llama3MLXError) -> None:
        self._update(status=f"{error.title}. {error.remedy}", details=error.cause)

    def _update(self, **changes: object) -> None:
        self.state = replace(self.state, **changes)  # type: ignore[arg-type]
        self.view.show_state(self.state)
