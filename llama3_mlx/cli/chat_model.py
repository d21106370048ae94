"""What the terminal commands need of a model: one loaded into this process, or one of a server."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..generation.completion import DraftCounts
from ..tools.call import ToolCall


class Answer(Protocol):
    """A finished answer, or what there is of a stopped one."""

    @property
    def text(self) -> str: ...
    @property
    def token_ids(self) -> Sequence[int]: ...
    @property
    def finish_reason(self) -> str: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def cached_tokens(self) -> int: ...
    @property
    def prompt_tokens_per_second(self) -> float: ...
    @property
    def tokens_per_second(self) -> float: ...
    @property
    def peak_memory_bytes(self) -> int: ...
    @property
    def passes(self) -> int: ...
    @property
    def drafts(self) -> Sequence[DraftCounts]: ...
    @property
    def passes_off(self) -> int: ...


class TextPiece(Protocol):
    """New text of an answer."""

    @property
    def text(self) -> str: ...


class AnswerStream(Protocol):
    """An answer as it comes."""

    def __iter__(self) -> Iterator[TextPiece]: ...
    def close(self) -> None: ...
    @property
    def completion(self) -> Answer: ...


class ToolDialog(Protocol):
    """A dialog in which functions were called."""

    @property
    def text(self) -> str: ...
    @property
    def calls(self) -> Sequence[ToolCall]: ...
    @property
    def messages(self) -> Sequence[Any]: ...
    @property
    def completion(self) -> Answer | None: ...


class ChatModel(Protocol):
    """A model that answers dialogs."""

    @property
    def folder(self) -> Path | str: ...
    def stream_chat(self, *messages: Any, **settings: Any) -> AnswerStream:
        """Answer a dialog, piece by piece."""

    def run_tools(self, *dialog_and_tools: Any, **settings: Any) -> ToolDialog:
        """Answer a dialog, running the functions that the model calls."""
