"""The prompt of a Llama Guard in token ids: the policy, the conversation, and whose last message is judged."""

from collections.abc import Sequence
from typing import Literal

from ..chat.messages import normalize
from ..chat.tool_prompt import call_as_text
from ..errors import RequestError
from ..json_types import JsonMapping
from ..tokenizer.tokenizer import Tokenizer
from .policy import Policy

Role = Literal["user", "agent"]
Turn = tuple[str, str]
_WORDS = {"user": "User", "agent": "Agent"}


def turns_of(messages: Sequence[JsonMapping], judged: Role | None = None) -> list[Turn]:
    """Return who says what in turn, up to the message that is judged: by default the last one.

    A model knows users and agents alone. Tool calls are the agent's words, results of tools come from outside as the
    user's do, and a system text, which is the operator's, is left out. A user's message is judged without the answer.
    Raises RequestError where nobody's or the wrong one's message is last.
    """
    turns: list[Turn] = []
    for message in normalize(messages):
        if message["role"] == "system":
            continue
        word = "Agent" if message["role"] == "assistant" else "User"
        calls = [call_as_text(call["function"]) for call in message.get("tool_calls", ())]
        text = "\n".join(part for part in (message["content"].strip(), *calls) if part)
        if not text:
            continue
        if turns and turns[-1][0] == word:
            turns[-1] = (word, f"{turns[-1][1]}\n{text}")
        else:
            turns.append((word, text))
    if judged == "user" and turns and turns[-1][0] == "Agent":
        turns.pop()
    if not turns:
        raise RequestError("there is nothing to judge: no message of a user or an assistant has a text")
    if judged is not None and turns[-1][0] != _WORDS[judged]:
        raise RequestError(f"the last message isn't the {judged}'s, which is to be judged")
    if turns[0][0] != "User":
        raise RequestError("a Llama Guard judges dialogs that a user begins: leave the assistant's first message out")
    return turns


def prompt_text(policy: Policy, turns: Sequence[Turn]) -> str:
    """Return the text of the prompt, without the control tokens around it."""
    role = turns[-1][0]
    lines = "".join(f"{category.code}: {category.name}{policy.line_end}" for category in policy.categories)
    conversation = "".join(f"{word}: {text}\n\n" for word, text in turns)
    return (
        f"{'' if policy.is_chat else '[INST] '}Task: Check if there is unsafe content in '{role}' messages in "
        "conversations according our safety policy with the below categories.\n\n"
        f"<BEGIN UNSAFE CONTENT CATEGORIES>\n{lines}<END UNSAFE CONTENT CATEGORIES>\n\n"
        f"<BEGIN CONVERSATION>\n\n{conversation}<END CONVERSATION>\n\n"
        f"Provide your safety assessment for ONLY THE LAST {role} message in the above conversation:\n"
        " - First line must read 'safe' or 'unsafe'.\n"
        " - If unsafe, a second line must include a comma-separated list of violated categories."
        f"{policy.end}"
    )


def prompt_ids(tokenizer: Tokenizer, policy: Policy, turns: Sequence[Turn]) -> list[int]:
    """Return the ids of the prompt; no text of the dialog becomes a control token.

    They are those of the Hugging Face template; Guard 2's, which has no beginning-of-text token, gets it as Meta's own
    code gives it. Raises RequestError for a tokenizer that isn't Llama 3's.
    """
    text = prompt_text(policy, turns)
    if not policy.is_chat:
        return tokenizer.encode(text, bos=True)
    begin, head, tail, eot = (
        _control(tokenizer, name) for name in ("begin_of_text", "start_header_id", "end_header_id", "eot_id")
    )
    opened = [*tokenizer.encode(policy.begin), begin, head, *tokenizer.encode("user"), tail]
    closed = [eot, head, *tokenizer.encode("assistant"), tail]
    return [*opened, *tokenizer.encode(f"\n\n{text}"), *closed]


def _control(tokenizer: Tokenizer, name: str) -> int:
    token = tokenizer.control_tokens.get(f"<|{name}|>")
    if token is None:
        raise RequestError(f"the tokenizer has no <|{name}|>, so this is no Llama Guard")
    return token
