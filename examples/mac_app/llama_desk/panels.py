"""The smaller windows: downloading a model, and the preferences."""

from dataclasses import replace
from typing import Any

import toga

from llama3_mlx import Llama3MLXError

from .desk import Desk
from .layout import column, row


class DownloadWindow:
    """Asks for a model of the Hub, says what it needs, and downloads it."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.name = toga.TextInput(placeholder="mlx-community/Llama-3.2-3B-Instruct-4bit", flex=1)
        self.needs = toga.Label("What it needs is shown before anything is downloaded.")
        self.window = toga.Window(title="Download a model", size=(560, 140))
        buttons = [
            toga.Button("What does it need?", on_press=self.estimate),
            toga.Button("Download", on_press=self.download),
            toga.Button("Cancel", on_press=self.cancel),
        ]
        self.window.content = column(self.name, self.needs, row(*buttons), margin=12)

    async def estimate(self, _: toga.Widget, **__: Any) -> None:
        """Show the memory that the model would take, and what of a conversation fits beside it."""
        try:
            needs = await self.desk.host.needs(self.name.value.strip())
        except Llama3MLXError as error:
            self.needs.text = f"{error.title}. {error.remedy}"
            return
        size = f"{needs.at_context(min(4096, needs.context)) / 1e9:.1f} GB with 4,096 tokens of conversation"
        room = f"{needs.longest_context:,} tokens fit" if needs.longest_context else "too large for this machine"
        self.needs.text = f"{size}; {room}."

    async def download(self, _: toga.Widget, **__: Any) -> None:
        """Download and load the model; the main window shows how far that is."""
        if self.name.value.strip():
            await self.desk.choose_model(self.name.value.strip())

    def cancel(self, _: toga.Widget, **__: Any) -> None:
        """Leave the download."""
        self.desk.cancel_load()


class PreferencesWindow:
    """Shows the preferences and keeps them."""

    def __init__(self, desk: Desk) -> None:
        self.desk, chosen = desk, desk.preferences
        self.system = toga.MultilineTextInput(value=chosen.system, flex=1)
        self.temperature = toga.Slider(min=0.0, max=1.5, value=chosen.temperature, flex=1)
        self.max_tokens = toga.NumberInput(min=1, max=131072, step=1, value=chosen.max_tokens)
        self.offline = toga.Switch("Stay offline", value=chosen.offline)
        self.window = toga.Window(title="Preferences", size=(460, 320))
        self.window.content = column(
            toga.Label("Instructions for every conversation"),
            self.system,
            row(toga.Label("Temperature"), self.temperature),
            row(toga.Label("Longest answer, in tokens"), self.max_tokens),
            self.offline,
            toga.Button("Keep", on_press=self.keep),
            margin=12,
        )

    async def keep(self, _: toga.Widget, **__: Any) -> None:
        """Write the preferences and close the window."""
        chosen = replace(
            self.desk.preferences,
            system=self.system.value,
            temperature=round(self.temperature.value, 2),
            max_tokens=int(self.max_tokens.value or 1),
            offline=self.offline.value,
        )
        await self.desk.keep_preferences(chosen)
        self.window.close()
