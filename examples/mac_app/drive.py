"""The application under automated use: a conversation of many turns in its window, measured, and pictures of it.

`python -m examples.mac_app.drive MODEL FOLDER [TURNS]`, in Qt's window where this isn't a Mac (`TOGA_BACKEND=toga_qt`,
with `QT_QPA_PLATFORM=offscreen` where there is no screen). FOLDER gets the application's files and the pictures; what
was measured is printed as JSON.
"""

import asyncio
import json
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llama3_mlx.kv_cache import ModelCache
from llama3_mlx.kv_cache.step import Mask
from llama3_mlx.model.feature_tap import FeatureTap
from llama3_mlx.model.transformer import LlamaForCausalLM

from .llama_desk.app import LlamaDesk
from .loop_watch import LoopWatch, Waits

if TYPE_CHECKING:
    import mlx.core as mx


@dataclass
class Measured:
    """What the application did to its event loop, its memory and its threads."""

    turns: int = 0
    model_calls: int = 0
    model_calls_on_loop: int = 0
    loading: Waits = field(default_factory=Waits)
    talking: Waits = field(default_factory=Waits)
    memory_loaded: int = 0
    memory_full: int = 0
    memory_closed: int = 0
    threads_after_quit: tuple[str, ...] = ()


class Drive:
    """Uses the application as a person would, and looks at what that costs."""

    def __init__(self, app: LlamaDesk, model: str, folder: Path, turns: int) -> None:
        self.app, self.model, self.folder, self.turns = app, model, folder, turns
        self.measured = Measured()
        self._loop_thread = threading.get_ident()
        self._watch_model()

    def _watch_model(self) -> None:
        """Count the model's calls, and those on the event loop's thread."""
        call, measured, loop_thread = LlamaForCausalLM.hidden, self.measured, self._loop_thread

        def counted(
            self: LlamaForCausalLM,
            tokens: "mx.array",
            cache: ModelCache | None = None,
            mask: Mask = "causal",
            *,
            tap: FeatureTap | None = None,
        ) -> "mx.array":
            measured.model_calls += 1
            measured.model_calls_on_loop += threading.get_ident() == loop_thread
            return call(self, tokens, cache, mask, tap=tap)

        LlamaForCausalLM.hidden = counted  # type: ignore[method-assign]

    async def run(self) -> None:
        """Load, talk, look, close the conversation, and quit while an answer is being written."""
        desk, window = self.app.desk, self.app.desk_window
        watch = LoopWatch()
        await desk.choose_model(self.model)
        self.measured.loading, watch.waits = watch.waits, self.measured.talking
        desk.preferences = replace(desk.preferences, max_tokens=8, temperature=0.0)
        self.measured.memory_loaded = desk.host.memory_bytes
        for turn in range(self.turns):
            await desk.ask(f"Question {turn + 1}: what is {turn} plus {turn}?")
            self.measured.turns += 1
        self.measured.memory_full = desk.host.memory_bytes
        watch.end()
        await desk.delete(desk.current.id)
        self.measured.memory_closed = desk.host.memory_bytes
        await self._pictures()
        window.question.value = "Tell me a long story."
        await asyncio.sleep(0.05)
        desk.preferences = replace(desk.preferences, max_tokens=100_000)
        writing = asyncio.create_task(desk.ask(window.question.value))
        await _until(lambda: bool(desk.current.messages and desk.current.messages[-1].text))
        self.app.request_exit()
        await writing

    async def _pictures(self) -> None:
        desk, window = self.app.desk, self.app.desk_window
        desk.preferences = replace(desk.preferences, max_tokens=60)
        await desk.ask("What is the capital of France?")
        notes = self.folder / "garden.md"
        notes.write_text("# The garden\n\nThe cherry tree was planted in 2011. It carries fruit in June.\n")
        window.question.value = str(notes)
        await _until(lambda: bool(desk.state.document))
        await desk.ask("When was the cherry tree planted?")
        desk.show_memory()
        await asyncio.sleep(0.2)
        window.window.as_image().save(self.folder / "window.png")


async def _until(true: Callable[[], bool]) -> None:
    """Wait, at most for a minute: what goes wrong in the application is shown in its window, and ends nothing here."""
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.01)


def main(model: str, folder: Path, turns: int) -> Measured:
    """Run the application to its end."""
    # Toga would open what stands on the command line as documents.
    del sys.argv[1:]
    app = LlamaDesk.make()
    failed: list[BaseException] = []

    async def drive() -> None:
        driven = Drive(app, model, folder, turns)
        try:
            await driven.run()
        except BaseException as error:
            failed.append(error)
            app.exit()
        done.append(driven.measured)

    done: list[Measured] = []
    app.loop.call_soon(lambda: kept.append(app.loop.create_task(drive())))
    kept: list[asyncio.Task[None]] = []
    app.main_loop()
    if failed:
        raise failed[0]
    return replace(done[0], threads_after_quit=tuple(thread.name for thread in threading.enumerate()))


if __name__ == "__main__":
    name, given, count = (*sys.argv[1:], "50")[:3]
    print(json.dumps(asdict(main(name, Path(given), int(count)))))
