"""From a conversation to the token ids of its prompt: its document put in, what no longer fits left out and told."""

from collections.abc import Sequence
from dataclasses import dataclass

from llama3_mlx import Llama

from .conversations import Conversation, Message
from .documents import Document, best_passages

# Of the context, what a document and what an answer may take.
_DOCUMENT_SHARE, _ANSWER_SHARE = 0.5, 0.25


@dataclass(frozen=True)
class Prompt:
    """Token ids up to the answer, and what the reader has to know about them."""

    token_ids: list[int]
    note: str


def make_prompt(llama: Llama, conversation: Conversation, system: str, max_tokens: int) -> Prompt:
    """Return the prompt for the answer to a conversation's last question.

    A document that fits is whole in the system message, which stays the same and so is read once. Of a longer one the
    passages nearest to the question stand before it. Earlier messages go, oldest first, where the context is full.

    Takes as long as the tokenizer does: not for the event loop's thread.
    """
    context = llama.config.max_position_embeddings
    notes: list[str] = []
    messages = list(conversation.messages)
    if conversation.document is not None:
        system, messages = _with_document(llama, conversation.document, system, messages, context, notes)
    longest = context - min(max_tokens, int(context * _ANSWER_SHARE))
    ids = _encode(llama, system, messages)
    left_out = 0
    while len(ids) > longest and len(messages) > 1:
        messages, left_out = messages[2:], left_out + 2
        ids = _encode(llama, system, messages)
    if left_out:
        notes.append(f"The first {left_out} messages no longer fit and weren't read")
    return Prompt(ids, ". ".join(notes))


def _with_document(
    llama: Llama, document: Document, system: str, messages: list[Message], context: int, notes: list[str]
) -> tuple[str, list[Message]]:
    def fits(text: str) -> bool:
        return len(llama.tokenizer.encode(text)) <= context * _DOCUMENT_SHARE

    if fits(document.text):
        return f"{system}\n\nAnswer from this document, {document.name}:\n\n{document.text}", messages
    question = messages[-1]
    numbers, parts = best_passages(document.text, question.text, fits)
    shown = ", ".join(map(str, numbers))
    notes.append(f"{document.name} is longer than the model's context: passages {shown} were read")
    text = "\n\n".join(parts)
    asked = Message("user", f"Passages of {document.name}:\n\n{text}\n\nAnswer from them: {question.text}")
    return system, [*messages[:-1], asked]


def _encode(llama: Llama, system: str, messages: Sequence[Message]) -> list[int]:
    first = [{"role": "system", "content": system}] if system else []
    return llama.encode_chat([*first, *({"role": message.role, "content": message.text} for message in messages)])
