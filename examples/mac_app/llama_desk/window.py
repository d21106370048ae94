"""The main window: it draws what `Desk` tells, and hands over what the user does."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import toga

from .conversations import Conversation
from .desk import Desk
from .documents import EXTENSIONS
from .layout import column, row
from .view import State

_NO_ADAPTER = "No adapter"


class DeskWindow:
    """A `View` of Toga's widgets."""

    def __init__(self, folder: Path) -> None:
        self.desk = Desk(folder, self)
        self._deleting: asyncio.Future[None] | None = None
        self._choosing: asyncio.Future[None] | None = None
        self._listed: list[tuple[str, str]] = []
        self._offered: dict[toga.Selection, list[str]] = {}
        self._offering = False
        self._make_widgets()
        self.window = toga.MainWindow(title="Llama Desk", size=(980, 680))
        self.window.content = toga.Box(
            children=[self._list_column(), self._conversation_column()], direction="row", margin=10, gap=10
        )

    def _make_widgets(self) -> None:
        self.new_button = toga.Button("New conversation", on_press=self._new)
        self.conversations = toga.DetailedList(
            on_select=self._select, on_primary_action=self._delete, primary_action="Delete", flex=1
        )
        self.models = toga.Selection(on_change=self._choose, flex=1)
        self.adapters = toga.Selection(items=[_NO_ADAPTER], on_change=self._choose, width=180)
        self.memory = toga.Label("", width=80)
        self.text = toga.MultilineTextInput(readonly=True, placeholder="Ask something below.", flex=1)
        self.question = toga.MultilineTextInput(
            placeholder="Ask, or drop a document here", on_change=self._typed, flex=1, height=90
        )
        self.send = toga.Button("Send", on_press=self._send)
        self.stop = toga.Button("Stop", on_press=self._stop, enabled=False)
        self.edit = toga.Button("Edit last", on_press=self._edit)
        self.open = toga.Button("Open document…", on_press=self.choose_document)
        self.document = toga.Label("")
        self.status = toga.Label("", flex=1)
        self.details = toga.Button("Details", on_press=self._show_details, enabled=False)
        self.progress = toga.ProgressBar(max=1.0, width=160)

    def _list_column(self) -> toga.Box:
        return column(self.new_button, self.conversations, width=280)

    def _conversation_column(self) -> toga.Box:
        buttons = column(self.send, self.stop, self.edit, width=110)
        return column(
            row(self.models, self.adapters, self.memory),
            self.text,
            row(self.open, self.document),
            row(self.question, buttons),
            row(self.status, self.progress, self.details),
            flex=1,
        )

    def show_list(self, conversations: Sequence[Conversation], current: Conversation) -> None:
        listed = [(each.id, each.title) for each in conversations]
        if listed == self._listed:
            return
        self._listed = listed
        self.conversations.data = [
            {"title": each.title, "subtitle": each.document.name if each.document else "", "id": each.id}
            for each in conversations
        ]

    def show_text(self, text: str) -> None:
        self.text.value = text
        self.text.scroll_to_bottom()

    def show_state(self, state: State) -> None:
        self._offer(self.models, [state.model, *state.models] if state.model else ["Choose a model", *state.models])
        self._offer(self.adapters, [state.adapter or _NO_ADAPTER, _NO_ADAPTER, *state.adapters])
        self.memory.text, self.status.text, self.document.text = state.memory, state.status, state.document
        self.send.enabled, self.stop.enabled = not state.writing, state.writing
        self.edit.enabled = not state.writing
        self.details.enabled = bool(state.details)
        self.progress.value = state.progress or 0.0
        # Toga's styles have no types.
        style: Any = self.progress.style  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        style.visibility = "hidden" if state.progress is None else "visible"

    def _offer(self, selection: toga.Selection, items: Sequence[str]) -> None:
        """Offer each once, the first chosen; drawn anew only where something differs, since that closes a menu."""
        wanted = sorted(set(items))
        self._offering = True
        if self._offered.get(selection) != wanted:
            selection.items = self._offered[selection] = wanted
        if selection.value != items[0]:
            selection.value = items[0]
        self._offering = False

    def set_question(self, text: str) -> None:
        self.question.value = text

    # Toga hands every handler its widget, and details by keyword that differ between widgets.
    def _new(self, _: toga.Widget, **__: Any) -> None:
        self.desk.new()

    def _select(self, widget: toga.DetailedList, **_: Any) -> None:
        self.desk.select(_id(getattr(widget, "selection", None)))

    def _delete(self, widget: toga.DetailedList, row: object, **_: Any) -> None:
        self._deleting = asyncio.ensure_future(self.desk.delete(_id(row)))

    def _choose(self, _: toga.Widget, **__: Any) -> None:
        # Read at once: a coroutine would begin later, when the memory's next update has drawn the old choice again.
        model, adapter, state = str(self.models.value), str(self.adapters.value), self.desk.state
        # Toga calls when the program itself has set a value, too, and when new items have moved it.
        shown = (state.model, state.adapter or _NO_ADAPTER)
        if self._offering or model not in state.models or (model, adapter) == shown:
            return
        # Another model has other adapters.
        fitting = adapter if model == state.model and adapter != _NO_ADAPTER else ""
        # The loop itself holds its tasks weakly.
        self._choosing = asyncio.ensure_future(self.desk.choose_model(model, fitting))

    async def _send(self, _: toga.Widget, **__: Any) -> None:
        question, self.question.value = self.question.value, ""
        await self.desk.ask(question)

    def _stop(self, _: toga.Widget, **__: Any) -> None:
        self.desk.stop()

    def _edit(self, _: toga.Widget, **__: Any) -> None:
        self.desk.edit()

    async def _typed(self, widget: toga.MultilineTextInput, **_: Any) -> None:
        await self.desk.typed(widget.value)

    async def choose_document(self, _: object, **__: Any) -> None:
        """Ask for a file, and for what is to be known of it."""
        path = await self.window.dialog(toga.OpenFileDialog("Open a document", file_types=list(EXTENSIONS)))
        # None where nothing was chosen, which Toga's types don't say.
        if path:
            await self.desk.attach(path)

    async def _show_details(self, _: toga.Widget, **__: Any) -> None:
        await self.window.dialog(toga.InfoDialog(self.desk.state.status, self.desk.state.details))


def _id(row: object) -> str:
    """The conversation of a row of the list; Toga makes the row's attributes as the program runs."""
    return str(getattr(row, "id", ""))
