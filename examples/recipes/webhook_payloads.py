"""What Meta sends to a webhook, as far as webhook_bot.py reads it: texts of WhatsApp and of Messenger."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, Field


@dataclass(frozen=True)
class Incoming:
    """A text: its id, who wrote it, and the account (phone number or page) that answers."""

    channel: Literal["whatsapp", "messenger"]
    id: str
    sender: str
    account: str
    text: str


class _Body(BaseModel):
    body: str


class _WhatsAppMessage(BaseModel):
    id: str
    sender: str = Field(alias="from")
    text: _Body | None = None


class _Metadata(BaseModel):
    phone_number_id: str


class _Value(BaseModel):
    metadata: _Metadata | None = None
    messages: list[_WhatsAppMessage] = []


class _Change(BaseModel):
    field: str
    value: _Value


class _Id(BaseModel):
    id: str


class _MessengerMessage(BaseModel):
    mid: str
    text: str | None = None
    is_echo: bool = False


class _Messaging(BaseModel):
    sender: _Id
    recipient: _Id
    message: _MessengerMessage | None = None


class _Entry(BaseModel):
    changes: list[_Change] = []
    messaging: list[_Messaging] = []


class Payload(BaseModel):
    """One request of Meta's; states of delivery, pictures and the bot's own messages have no text to answer."""

    object: str
    entry: list[_Entry] = []

    def messages(self) -> Iterator[Incoming]:
        """Yield the texts that people wrote."""
        for entry in self.entry:
            for value in (change.value for change in entry.changes if change.field == "messages"):
                for each in value.messages:
                    if value.metadata is not None and each.text is not None:
                        account = value.metadata.phone_number_id
                        yield Incoming("whatsapp", each.id, each.sender, account, each.text.body)
            for event in entry.messaging:
                found = event.message
                if found is not None and found.text is not None and not found.is_echo:
                    yield Incoming("messenger", found.mid, event.sender.id, event.recipient.id, found.text)
