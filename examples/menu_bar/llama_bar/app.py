"""The menu: an icon in the status bar with the list of prompts."""

import asyncio
import gc
from collections.abc import Coroutine

import toga

from .assistant import PROMPTS, Assistant, MacClipboard, Prompt

# Briefcase makes the same of its settings.
APP_ID = "org.llama3-mlx.llama-bar"


class LlamaBar(toga.App):
    """An application without a window."""

    model = ""

    @classmethod
    def make(cls, model: str) -> "LlamaBar":
        """Make the application for a model."""
        cls.model = model
        return cls("Llama Bar", APP_ID, app_name="llama_bar")

    def startup(self) -> None:
        # Collected in the model's thread, a menu that was replaced would be destroyed there: see told.
        gc.disable()
        self.main_window = toga.App.BACKGROUND
        self.assistant = Assistant(self.model, MacClipboard(), self.told)
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self.menu = toga.MenuStatusIcon(text="Llama Bar")
        self.status_icons.add(self.menu)
        for number, prompt in enumerate(PROMPTS):
            self.status_icons.commands.add(self._command(prompt, number))
        self.state = toga.Command(None, "Copy a text, then choose", group=self.menu, section=1)
        self.stop = toga.Command(self._stop, "Stop", group=self.menu, section=1, order=1, enabled=False)
        self.status_icons.commands.add(self.state, self.stop)

    def told(self, line: str) -> None:
        """Show what goes on, above Stop."""
        self.state.text, self.stop.enabled = line, self.assistant.busy
        # A menu shows another text of a command once the command is added again.
        self.status_icons.commands.add(self.state)
        gc.collect(1)

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
