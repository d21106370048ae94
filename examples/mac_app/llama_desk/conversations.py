"""Conversations, and the folder that keeps each as a JSON file."""

import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from .documents import Document
from .files import read_object, write_whole

Role = Literal["user", "assistant"]


@dataclass
class Message:
    """What one side said."""

    role: Role
    text: str
    note: str = ""
    """What a reader has to know of an answer: that it was stopped, or what the model didn't see."""


@dataclass
class Conversation:
    """Messages in their order, and the document that they are about, if there is one."""

    messages: list[Message] = field(default_factory=list[Message])
    document: Document | None = None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def title(self) -> str:
        """The beginning of the first question."""
        first = next((message.text for message in self.messages if message.role == "user"), "New conversation")
        line = " ".join(first.split())
        return line if len(line) <= 28 else f"{line[:27]}…"

    def take_back(self) -> str:
        """Remove the last question with its answer and return it, to be edited; empty if there is none."""
        while self.messages:
            message = self.messages.pop()
            if message.role == "user":
                return message.text
        return ""

    @property
    def text(self) -> str:
        """The whole as it is shown and copied."""
        return "\n\n".join(
            f"{'You' if message.role == 'user' else 'Llama'}\n{message.text}"
            + (f"\n[{message.note}]" if message.note else "")
            for message in self.messages
        )


class ConversationStore:
    """The conversations of a folder, newest first.

    A file that can't be read is left alone and named in `unreadable`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.unreadable: list[str] = []

    def load(self) -> list[Conversation]:
        """Return all conversations."""
        self.unreadable = []
        found: list[tuple[float, Conversation]] = []
        for path in self.folder.glob("*.json"):
            try:
                found.append((path.stat().st_mtime, _parsed(read_object(path), path.stem)))
            except (OSError, ValueError, KeyError, TypeError):
                self.unreadable.append(path.name)
        return [conversation for _, conversation in sorted(found, key=lambda pair: pair[0], reverse=True)]

    def save(self, conversation: Conversation) -> None:
        """Write a conversation; an empty one isn't kept."""
        if conversation.messages or conversation.document:
            values = asdict(conversation)
            del values["id"]
            write_whole(self._path(conversation), json.dumps(values, ensure_ascii=False, indent=1))

    def delete(self, conversation: Conversation) -> None:
        """Remove a conversation's file."""
        self._path(conversation).unlink(missing_ok=True)

    def _path(self, conversation: Conversation) -> Path:
        return self.folder / f"{conversation.id}.json"


def _parsed(values: Mapping[str, Any], name: str) -> Conversation:
    """Raises KeyError, TypeError or ValueError for what isn't a conversation."""
    messages = [Message(**message) for message in values["messages"]]
    if any(message.role not in ("user", "assistant") for message in messages):
        raise ValueError("a message is a user's or an assistant's")
    document = values["document"]
    return Conversation(messages, Document(**document) if document else None, name)
