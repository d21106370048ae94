"""The layouts that examples have, found by their keys.

Sources: TRL's dataset formats and mlx-lm's LORA.md for messages, text, prompt/completion and chosen/rejected;
https://github.com/tatsu-lab/stanford_alpaca for alpaca; llama-cookbook for the samsum and grammar layouts;
LlamaFactory's data/README.md for ShareGPT's and for alpaca's system and history; on the Hub the cards of
databricks-dolly-15k, OpenOrca, ultrafeedback_binarized and hh-rlhf.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import DataError
from ...json_types import JsonMapping
from .messages import read_messages, read_tools, read_turns
from .records import Record
from .samples import Labeled, Messages, Pair, Question, Sample

_ALPACA = (
    "Below is an instruction that describes a task{with_input}. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n{input}### Response:"
)
_TURN = re.compile(r"\n\n(Human|Assistant): ")
_SYSTEM = ("system", "system_prompt")


@dataclass(frozen=True)
class Layout:
    """Keys that an example must have, keys that it may have, and what reads it."""

    keys: tuple[str, ...]
    read: Callable[[Record], Any]
    optional: tuple[str, ...] = ()


def _text(value: JsonMapping, key: str, *, empty: bool = False) -> str:
    text = value.get(key)
    if not isinstance(text, str):
        raise DataError(f"{key} must be text, not {text!r:.80}")
    if not text and not empty:
        raise DataError(f"{key} is empty")
    return text


def _system(value: JsonMapping) -> str:
    """Return the system message that stands in a column of its own, "" without one."""
    for key in _SYSTEM:
        if value.get(key) is not None:
            return _text(value, key, empty=True)
    return ""


def _history(value: JsonMapping) -> tuple[tuple[str, str], ...]:
    turns = value.get("history") or ()
    valid = isinstance(turns, Sequence) and all(
        isinstance(turn, Sequence) and len(turn) == 2 and all(isinstance(text, str) for text in turn) for turn in turns
    )
    if not valid or isinstance(turns, str):
        raise DataError(f"history must be a list of pairs of a prompt and its answer, not {turns!r:.80}")
    return tuple((question, answer) for question, answer in turns)


def _dialog(record: Record) -> Sample:
    messages, weights = read_messages(record.value["messages"], "messages")
    return Sample(record.where, messages, read_tools(record.value), weights=weights)


def _sharegpt(record: Record) -> Sample:
    messages = read_turns(record.value["conversations"], "conversations")
    if system := _system(record.value):
        messages = [{"role": "system", "content": system}, *messages]
    return Sample(record.where, messages, read_tools(record.value))


def _sharegpt_pair(record: Record) -> Pair:
    prompt = _sharegpt(record)
    sides = [
        [*(prompt.messages or []), *read_turns([record.value[key]], key)]
        if isinstance(record.value[key], Mapping)
        else [*(prompt.messages or []), *read_turns(record.value[key], key)]
        for key in ("chosen", "rejected")
    ]
    return Pair(record.where, *(Sample(record.where, side, prompt.tools) for side in sides))


def _completion(record: Record, prompt_key: str = "prompt", key: str = "completion") -> Sample:
    """A prompt with the continuation under `key`, both as text or both as messages."""
    prompt, completion = record.value[prompt_key], record.value[key]
    if isinstance(prompt, list) or isinstance(completion, list):
        if not (isinstance(prompt, list) and isinstance(completion, list)):
            raise DataError(f"{prompt_key} and {key} must both be text or both be messages")
        messages = read_messages(prompt, prompt_key)[0] + read_messages(completion, key)[0]
        return Sample(record.where, messages, read_tools(record.value))
    return Sample(
        record.where,
        prompt=_text(record.value, prompt_key),
        completion=_text(record.value, key),
        system=_system(record.value),
        history=_history(record.value),
    )


def _columns(prompt_key: str, key: str) -> Layout:
    """Return the layout of a prompt and its completion under these names."""
    return Layout(
        (prompt_key, key), lambda record: _completion(record, prompt_key, key), (*_SYSTEM, "history", "tools")
    )


def _plain(record: Record) -> Sample:
    return Sample(record.where, completion=_text(record.value, "text"))


def _alpaca(record: Record) -> Sample:
    given = record.value.get("input") or ""
    prompt = _ALPACA.format(
        with_input=", paired with an input that provides further context" if given else "",
        instruction=_text(record.value, "instruction"),
        input=f"### Input:\n{given}\n\n" if given else "",
    )
    return Sample(
        record.where,
        prompt=prompt,
        completion=_text(record.value, "output"),
        system=_system(record.value),
        history=_history(record.value),
    )


def _dolly(record: Record) -> Sample:
    context, instruction = record.value.get("context") or "", _text(record.value, "instruction")
    prompt = f"{context}\n\n{instruction}" if context else instruction
    return Sample(record.where, prompt=prompt, completion=_text(record.value, "response"), system=_system(record.value))


def _samsum(record: Record) -> Sample:
    prompt = f"Summarize this dialog:\n{_text(record.value, 'dialogue')}\n---\nSummary:\n"
    return Sample(record.where, prompt=prompt, completion=_text(record.value, "summary"))


def _grammar(record: Record) -> Sample:
    prompt = f"Correct this to standard English: {_text(record.value, 'input')}\n---\nCorrected: "
    return Sample(record.where, prompt=prompt, completion=_text(record.value, "target"))


def _pair(prompt_key: str) -> Callable[[Record], Pair]:
    def read(record: Record) -> Pair:
        prompt, chosen = record.value[prompt_key], record.value["chosen"]
        if isinstance(prompt, str) and isinstance(chosen, list):
            return _text_and_dialogs(record, prompt)
        return Pair(
            record.where, _completion(record, prompt_key, "chosen"), _completion(record, prompt_key, "rejected")
        )

    return read


def _text_and_dialogs(record: Record, prompt: str) -> Pair:
    """Read a prompt as text beside dialogs, which hold it as their first message or go on from it."""
    sides = [read_messages(record.value[key], key)[0] for key in ("chosen", "rejected")]
    if all(side[0].get("role") == "assistant" for side in sides):
        sides = [[{"role": "user", "content": prompt}, *side] for side in sides]
    return _two_dialogs(record, *sides)


def _implicit_pair(record: Record) -> Pair:
    texts = [record.value[key] for key in ("chosen", "rejected")]
    if all(isinstance(text, str) and _TURN.match(text) for text in texts):
        return _two_dialogs(record, *map(_from_transcript, texts))
    return _two_dialogs(record, *(read_messages(record.value[key], key)[0] for key in ("chosen", "rejected")))


def _two_dialogs(record: Record, chosen: Messages, rejected: Messages) -> Pair:
    if chosen[:-1] != rejected[:-1]:
        raise DataError("chosen and rejected must differ in their last message alone")
    tools = read_tools(record.value)
    return Pair(record.where, Sample(record.where, chosen, tools), Sample(record.where, rejected, tools))


def _from_transcript(text: str) -> Messages:
    """Read a dialog out of Human: and Assistant: turns, as hh-rlhf writes them."""
    _, *parts = _TURN.split(text)
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[who], "content": said} for who, said in zip(parts[::2], parts[1::2], strict=True)]


def _labeled(record: Record) -> Labeled:
    label = record.value["label"]
    if label not in (True, False):
        raise DataError(f"label must be true or false (or 1 or 0), not {label!r:.80}")
    return Labeled(record.where, _completion(record), bool(label))


def _question(record: Record) -> Question:
    prompt = record.value["prompt"]
    messages: Messages = (
        read_messages(prompt, "prompt")[0]
        if isinstance(prompt, list)
        else [{"role": "user", "content": _text(record.value, "prompt")}]
    )
    if (system := _system(record.value)) and messages[0].get("role") != "system":
        messages = [{"role": "system", "content": system}, *messages]
    return Question(record.where, messages, {key: value for key, value in record.value.items() if key != "prompt"})


SUPERVISED: dict[str, Layout] = {
    "messages": Layout(("messages",), _dialog, ("tools",)),
    "sharegpt": Layout(("conversations",), _sharegpt, ("tools", *_SYSTEM)),
    "completion": _columns("prompt", "completion"),
    "alpaca": Layout(("instruction", "output"), _alpaca, ("input", "history", *_SYSTEM)),
    "dolly": Layout(("instruction", "response"), _dolly, ("context", *_SYSTEM)),
    "question and answer": _columns("question", "answer"),
    "question and response": _columns("question", "response"),
    "query and response": _columns("query", "response"),
    "prompt and response": _columns("prompt", "response"),
    "input and output": _columns("input", "output"),
    "samsum": Layout(("dialogue", "summary"), _samsum),
    "grammar": Layout(("input", "target"), _grammar),
    "text": Layout(("text",), _plain),
}
PREFERENCE: dict[str, Layout] = {
    "sharegpt pairs": Layout(("conversations", "chosen", "rejected"), _sharegpt_pair, ("tools", *_SYSTEM)),
    "pairs": Layout(("prompt", "chosen", "rejected"), _pair("prompt"), ("tools", *_SYSTEM)),
    "question pairs": Layout(("question", "chosen", "rejected"), _pair("question"), ("tools", *_SYSTEM)),
    "implicit pairs": Layout(("chosen", "rejected"), _implicit_pair, ("tools",)),
}
LABELED: dict[str, Layout] = {
    "labeled": Layout(("prompt", "completion", "label"), _labeled, ("tools", "history", *_SYSTEM))
}
QUESTIONS: dict[str, Layout] = {"prompts": Layout(("prompt",), _question)}
