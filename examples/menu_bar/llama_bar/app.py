"""The menu: an icon in the status bar with the list of prompts."""

import asyncio
from collections.abc import Coroutine

import toga

from .assistant import PROMPTS, Assistant, MacClipboard, Prompt


class LlamaBar(toga.App):
    """An application without a window."""

    model = ""

    @classmethod
    def make(cls, model: str) -> "LlamaBar":
        """Make the application for a model."""
        cls.model = model
        return cls("Llama Bar", "org.llama3-mlx.bar", app_name="llama_bar")

    def startup(self) -> None:
        self.main_window = toga.App.BACKGROUND
        self.assistant = Assistant(self.model, MacClipboard(), self.told)
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self.menu = toga.MenuStatusIcon(text="Llama Bar")
        self.status_icons.add(self.menu)
        for number, prompt in enumerate(PROMPTS):
            self.status_icons.commands.add(self._command(prompt, number))
        self.state = toga.Command(self._stop, "Stop", group=self.menu, section=1)
        self.status_icons.commands.add(self.state)

    def told(self, line: str) -> None:
        """Show what goes on beside Stop."""
        self.state.text = f"Stop ({line})"

    def on_exit(self) -> bool:
        if self._closed:
            return True
        self._start(self._close())
        return False

    async def _close(self) -> None:
        await self.assistant.close()
        self._closed = True
        self.exit()

    def _command(self, prompt: Prompt, number: int) -> toga.Command:
        def chosen(command: toga.Command, **_: object) -> bool:  # noqa: ARG001
            self._start(self.assistant.answer(prompt))
            return True

        # Toga names the argument.
        return toga.Command(chosen, prompt.name, group=self.menu, order=number)

    def _stop(self, command: toga.Command, **_: object) -> bool:
        self.assistant.stop()
        return True

    def _start(self, work: Coroutine[object, object, None]) -> None:
        # The event loop itself holds its tasks weakly.
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
