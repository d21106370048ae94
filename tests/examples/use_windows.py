"""Uses Llama Desk's windows as a person would, in whatever backend of Toga: `python -m tests.examples.use_windows`.

The folder that is its argument gets pictures where the backend can take them. What was seen is printed as JSON.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import toga

from examples.mac_app.llama_desk.app import LlamaDesk
from examples.mac_app.llama_desk.panels import DownloadWindow, PreferencesWindow
from examples.mac_app.llama_desk.preferences import Preferences

from .running import until


def offered(selection: toga.Selection) -> list[str]:
    """Return the texts of a list's items, which Toga's types don't know."""
    items: Any = selection.items
    return [str(item.value) for item in items]


class Use:
    """One step a method; `seen` is what the windows showed."""

    def __init__(self, app: LlamaDesk, folder: Path) -> None:
        self.app, self.folder = app, folder
        self.seen: dict[str, object] = {}

    async def run(self) -> None:
        # The application's own start, which lists the models.
        await until(lambda: hasattr(self.app, "desk") and "mine" in self.app.desk.state.models)
        self.desk, self.window = self.app.desk, self.app.desk_window
        await self.choose_adapter()
        await self.preferences()
        await self.download()
        self.seen["titles"] = self.titles_of_commands()
        await self.desk.close()

    async def choose_adapter(self) -> None:
        """Choose a model in the list, then an adapter that fits it, and none again."""
        self.seen["offered"] = offered(self.window.models)
        self.window.models.value = "mine"
        await self.loaded("mine", "")
        self.seen["adapters"] = offered(self.window.adapters)
        answers = [await self.answer()]
        for adapter in ("warm", ""):
            self.window.adapters.value = adapter or "No adapter"
            # What is drawn in between, once a second, must not take the choice back.
            self.desk.show_memory()
            await self.loaded("mine", adapter)
            answers.append(await self.answer())
        self.seen["answers"] = answers
        self.photograph("adapter", self.window.window)

    async def loaded(self, model: str, adapter: str) -> None:
        await until(lambda: (self.desk.state.model, self.desk.state.adapter) == (model, adapter))
        await until(lambda: self.desk.state.progress is None and self.desk.host.llama is not None)

    async def answer(self) -> str:
        self.desk.new()
        self.desk.preferences.max_tokens, self.desk.preferences.temperature = 6, 0.0
        await self.desk.ask("Hi")
        return self.desk.current.messages[-1].text

    async def preferences(self) -> None:
        """Change everything and keep it; an application that starts later has it."""
        panel = PreferencesWindow(self.desk)
        panel.window.show()
        panel.system.value, panel.temperature.value, panel.max_tokens.value = "Be brief.", 0.25, 77
        panel.offline.value = False
        self.photograph("preferences", panel.window)
        await panel.keep(panel.system)
        kept, note = Preferences.load(self.app.paths.data / "preferences.json")
        self.seen["kept"] = [kept.system, kept.temperature, kept.max_tokens, kept.offline, note]
        self.seen["shown again"] = PreferencesWindow(self.desk).system.value
        self.seen["closed"] = panel.window not in self.app.windows

    async def download(self) -> None:
        """Ask what a model needs, leave a download, then download and load one."""
        panel = DownloadWindow(self.desk)
        panel.window.show()
        panel.name.value = "org/none"
        await panel.estimate(panel.name)
        self.seen["unknown"] = panel.needs.text
        panel.name.value = " org/small "
        await panel.estimate(panel.name)
        self.seen["needs"] = panel.needs.text
        self.photograph("download", panel.window)
        panel.name.value = "org/slow"
        downloading = asyncio.create_task(panel.download(panel.name))
        await until(lambda: (self.desk.state.progress or 0) > 0)
        self.seen["on its way"] = self.window.status.text
        panel.cancel(panel.name)
        await downloading
        self.seen["left"] = self.desk.state.status
        panel.name.value = "org/small"
        await panel.download(panel.name)
        self.seen["model"] = [self.desk.state.model, str(self.window.models.value), self.desk.state.status]

    def titles_of_commands(self) -> list[str]:
        """Return the titles of the windows that the menu's own commands open."""
        titles: list[str] = []
        for command in self.app.commands:
            if isinstance(command, toga.Command) and command.text in ("Download Model…", "Settings…"):
                before = set(self.app.windows)
                # Toga hands the command over itself, which its types don't say.
                action: Any = command.action
                action()
                titles += [window.title for window in set(self.app.windows) - before]
        return sorted(titles)

    def photograph(self, name: str, window: toga.Window) -> None:
        if toga.backend == "toga_qt":
            window.as_image().save(self.folder / f"{name}.png")


def main(folder: Path) -> None:
    del sys.argv[1:]
    app = LlamaDesk.make()
    use = Use(app, folder)
    app.loop.run_until_complete(use.run())
    print(json.dumps(use.seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
