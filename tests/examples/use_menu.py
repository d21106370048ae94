"""Uses Llama Bar's menu, in whatever backend of Toga: `python -m tests.examples.use_menu MODEL PICTURE [TEXT]`.

Prints what the menu had before, while and after an answer was written, as JSON. In Qt it is read from Qt's own menu, of
which a picture is taken.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import toga

from examples.menu_bar.llama_bar.app import LlamaBar
from examples.menu_bar.llama_bar.assistant import PROMPTS

from .running import Text, until


class Use:
    """The menu, and what it showed."""

    def __init__(self, bar: LlamaBar, picture: Path, text: str) -> None:
        self.bar, self.picture, self.text = bar, picture, text
        self.seen: dict[str, list[str] | list[bool] | str] = {}

    async def run(self) -> None:
        await until(lambda: hasattr(self.bar, "stop"))
        clipboard = Text(self.text)
        self.bar.assistant.clipboard = clipboard
        stop = [self.bar.stop.enabled]
        self.seen["before"] = self.entries()
        correct = next(prompt for prompt in PROMPTS if prompt.name == "Correct")
        asking = asyncio.create_task(self.bar.assistant.answer(correct))
        await until(lambda: self.bar.state.text == "Correct…")
        stop.append(self.bar.stop.enabled)
        self.seen["writing"] = self.entries()
        await asking
        self.seen["after"], self.seen["stop"] = self.entries(), [*stop, self.bar.stop.enabled]
        self.seen["answer"] = clipboard.text
        if toga.backend == "toga_qt":
            self.photograph()
        await self.bar.assistant.close()

    def entries(self) -> list[str]:
        """Return the texts of the menu, but for those that Toga adds."""
        if toga.backend == "toga_qt":
            native = self.native.actions()
            texts = [action.text() for action in native if action.text()]
        else:
            commands = [each for each in self.bar.status_icons.commands if isinstance(each, toga.Command)]
            texts = [each.text for each in commands if each.group is self.bar.menu]
        return texts[: len(PROMPTS) + 2]

    @property
    def native(self) -> Any:
        # Toga's backends have no types.
        menu: Any = self.bar.menu
        return menu._impl.native.contextMenu()

    def photograph(self) -> None:
        self.native.popup(self.native.pos())
        self.native.grab().save(str(self.picture))
        self.native.close()


def main(model: str, picture: Path, text: str) -> None:
    del sys.argv[1:]
    bar = LlamaBar.make(model)
    use = Use(bar, picture, text)
    bar.loop.run_until_complete(use.run())
    print(json.dumps(use.seen))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "Helo wrld")
