"""The application: its window, menus and documents, and how it ends."""

import asyncio
import sys
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path

import toga

from . import garbage
from .documents import EXTENSIONS
from .panels import DownloadWindow, PreferencesWindow
from .window import DeskWindow

# Briefcase makes the same of its settings.
APP_ID = "org.llama3-mlx.llama-desk"


class DroppedDocument(toga.Document):
    """A file that was dropped on the Dock icon or opened with the application: asked about in the main window."""

    description = "Document"
    extensions = list(EXTENSIONS)  # noqa: RUF012

    def create(self) -> None:
        self.main_window = self._desk.desk_window.window

    def read(self) -> None:
        self._attach()

    def focus(self) -> None:
        # Opened once more.
        self._attach()

    def _attach(self) -> None:
        self._desk.open_document(self.path)

    @property
    def _desk(self) -> "LlamaDesk":
        assert isinstance(self.app, LlamaDesk), "only this application opens such documents"
        return self.app


class LlamaDesk(toga.App):
    """Conversations with a model on this machine."""

    @classmethod
    def make(cls) -> "LlamaDesk":
        """Make the application; there is one in a process."""
        return cls("Llama Desk", APP_ID, app_name="llama_desk", document_types=[DroppedDocument])

    def startup(self) -> None:
        garbage.begin()
        # The model's thread has Python's lock for so long at most before this one gets it.
        sys.setswitchinterval(0.001)
        self.desk_window = DeskWindow(self.paths.data)
        self.desk = self.desk_window.desk
        self.main_window = self.desk_window.window
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._make_commands()
        self.desk_window.window.show()

    def _make_commands(self) -> None:
        # What documents of their own would need, and these don't.
        for name in (toga.Command.NEW, toga.Command.SAVE, toga.Command.SAVE_AS, toga.Command.SAVE_ALL):
            with suppress(KeyError):
                del self.commands[name]
        new = toga.Command(self._new, "New Conversation", shortcut=toga.Key.MOD_1 + "n", group=toga.Group.FILE)
        download = toga.Command(self._download, "Download Model…", group=toga.Group.FILE)
        settings = toga.Command(
            self._preferences, "Settings…", shortcut=toga.Key.MOD_1 + ",", group=toga.Group.APP, section=20
        )
        self.commands.add(new, download, settings)

    def open_document(self, path: Path) -> None:
        """Begin a conversation about a file."""
        self._start(self.desk.attach(path))

    def on_running(self) -> None:
        self._start(self._run())

    def on_exit(self) -> bool:
        """Close the model before the process ends, whatever it does at the moment."""
        if self._closed:
            return True
        self._start(self._close())
        return False

    async def _run(self) -> None:
        await self.desk.start()
        while not self._closed:
            garbage.collect_young()
            self.desk.show_memory()
            await asyncio.sleep(1)

    async def _close(self) -> None:
        await self.desk.close()
        self._closed = True
        self.exit()

    def _start(self, work: Coroutine[object, object, None]) -> None:
        # The event loop itself holds its tasks weakly.
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _new(self, command: toga.Command, **_: object) -> bool:
        self.desk.new()
        return True

    def _download(self, command: toga.Command, **_: object) -> bool:
        DownloadWindow(self.desk).window.show()
        return True

    def _preferences(self, command: toga.Command, **_: object) -> bool:
        PreferencesWindow(self.desk).window.show()
        return True
