"""The shapes that a training example can have, found by their keys, and brought into three kinds.

Sources: TRL's dataset formats and mlx-lm's LORA.md for messages, text, prompt/completion and chosen/rejected;
https://github.com/tatsu-lab/stanford_alpaca for alpaca; llama-cookbook for the samsum and grammar layouts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import DataError
from .records import Record, collected

Messages = list[Mapping[str, Any]]
_ALPACA = (
    "Below is an instruction that describes a task{with_input}. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n{input}### Response:"
)


@dataclass(frozen=True)
class Sample:
    """An example: a dialog, or a prompt and its completion; with `prompt` None, a text whose tokens are all targets."""

    where: str
    messages: Messages | None = None
    tools: list[Any] | None = None
    prompt: str | None = None
    completion: str = ""


@dataclass(frozen=True)
class Pair:
    """A preferred and a rejected continuation of the same prompt."""

    where: str
    chosen: Sample
    rejected: Sample


@dataclass(frozen=True)
class Labeled:
    """A desirable or undesirable continuation."""

    where: str
    sample: Sample
    desirable: bool


@dataclass(frozen=True)
class Question:
    """A prompt to be answered by the model, with the columns that a reward function may look at."""

    where: str
    messages: Messages
    columns: Mapping[str, Any] = field(default_factory=dict)


Reader = Callable[[Record], Any]


def read_samples(records: Sequence[Record], layout: str = "auto", problems: list[str] | None = None) -> list[Sample]:
    """Return the examples of supervised data.

    Raises DataError with every one that is malformed or of another shape; where `problems` is given, they are added to
    it instead. The same holds for all that read here.
    """
    return _read(records, SUPERVISED, layout, problems)


def read_pairs(records: Sequence[Record], problems: list[str] | None = None) -> list[Pair]:
    """Return the pairs of preference data."""
    return _read(records, PREFERENCE, "auto", problems)


def has_pairs(records: Sequence[Record]) -> bool:
    """Return whether these are pairs, going by the first."""
    return bool(records) and layout_of(records[0], {**LABELLED, **PREFERENCE}) in PREFERENCE


def read_labeled(records: Sequence[Record], problems: list[str] | None = None) -> list[Labeled]:
    """Return the labeled continuations of unpaired preference data; pairs give one of each."""
    if has_pairs(records):
        pairs = read_pairs(records, problems)
        return [item for p in pairs for item in (Labeled(p.where, p.chosen, True), Labeled(p.where, p.rejected, False))]
    return _read(records, LABELLED, "auto", problems)


def read_questions(records: Sequence[Record], problems: list[str] | None = None) -> list[Question]:
    """Return prompts, with all other columns beside them."""
    return _read(records, QUESTIONS, "auto", problems)


def layout_of(record: Record, layouts: Mapping[str, tuple[tuple[str, ...], Reader]]) -> str | None:
    """Return the name of the first layout all of whose keys the record has."""
    return next((name for name, (keys, _) in layouts.items() if all(key in record.value for key in keys)), None)


def _read(
    records: Sequence[Record],
    layouts: Mapping[str, tuple[tuple[str, ...], Reader]],
    layout: str,
    problems: list[str] | None,
) -> list[Any]:
    if layout != "auto" and layout not in layouts:
        raise DataError(f"layout must be one of auto, {', '.join(layouts)}, not {layout!r}")
    made: list[Any] = []
    accepted = layouts if layout == "auto" else {layout: layouts[layout]}
    # The first example that has a layout sets it for all.
    common = next((name for record in records if (name := layout_of(record, accepted))), None)
    explained = False
    with collected(problems) as bad:
        for record in records:
            found = layout_of(record, accepted)
            if found is None:
                bad.append(f"{record.where}: {_no_layout(record, accepted, explained=explained)}")
                explained = True
            elif found != common:
                bad.append(f"{record.where}: its layout is {found} and the first example's {common}: mixed data")
            else:
                try:
                    made.append(layouts[found][1](record))
                except DataError as error:
                    bad.append(f"{record.where}: {error}")
    return made


def _no_layout(record: Record, accepted: Mapping[str, tuple[tuple[str, ...], Reader]], *, explained: bool) -> str:
    """Say that a record has no layout that is accepted; which are accepted is said once."""
    has = ", ".join(map(str, record.value)) or "no keys"
    others = {"train": SUPERVISED, "dpo, orpo and kto": PREFERENCE, "kto": LABELLED}
    commands = [name for name, layouts in others.items() if layout_of(record, layouts)]
    if commands:
        return f"it has {has:.200}: data for {commands[0]}"
    keys = "; ".join(f"{name}: {', '.join(keys)}" for name, (keys, _) in accepted.items())
    return f"it has {has:.200}, which is none of the layouts" + ("" if explained else f" ({keys})")


def _text(value: Mapping[str, Any], key: str, *, empty: bool = False) -> str:
    text = value.get(key)
    if not isinstance(text, str):
        raise DataError(f"{key} must be text, not {text!r:.80}")
    if not text and not empty:
        raise DataError(f"{key} is empty")
    return text


def _messages(value: Any, key: str) -> Messages:
    if not isinstance(value, list) or not value or not all(isinstance(message, Mapping) for message in value):
        raise DataError(f"{key} must be a list of messages, not {value!r:.80}")
    return list(value)


def _tools(value: Mapping[str, Any]) -> list[Any] | None:
    tools = value.get("tools")
    if tools is not None and not isinstance(tools, list):
        raise DataError(f"tools must be a list, not {tools!r:.80}")
    return tools or None


def _dialog(record: Record) -> Sample:
    return Sample(record.where, _messages(record.value["messages"], "messages"), _tools(record.value))


def _completion(record: Record, key: str = "completion") -> Sample:
    """A prompt with the continuation under `key`, both as text or both as messages."""
    prompt, completion = record.value["prompt"], record.value[key]
    if isinstance(prompt, list) or isinstance(completion, list):
        if not (isinstance(prompt, list) and isinstance(completion, list)):
            raise DataError(f"prompt and {key} must both be text or both be messages")
        messages = _messages(prompt, "prompt") + _messages(completion, key)
        return Sample(record.where, messages, _tools(record.value))
    return Sample(record.where, prompt=_text(record.value, "prompt"), completion=_text(record.value, key))


def _plain(record: Record) -> Sample:
    return Sample(record.where, completion=_text(record.value, "text"))


def _alpaca(record: Record) -> Sample:
    given = record.value.get("input") or ""
    prompt = _ALPACA.format(
        with_input=", paired with an input that provides further context" if given else "",
        instruction=_text(record.value, "instruction"),
        input=f"### Input:\n{given}\n\n" if given else "",
    )
    return Sample(record.where, prompt=prompt, completion=_text(record.value, "output"))


def _samsum(record: Record) -> Sample:
    prompt = f"Summarize this dialog:\n{_text(record.value, 'dialogue')}\n---\nSummary:\n"
    return Sample(record.where, prompt=prompt, completion=_text(record.value, "summary"))


def _grammar(record: Record) -> Sample:
    prompt = f"Correct this to standard English: {_text(record.value, 'input')}\n---\nCorrected: "
    return Sample(record.where, prompt=prompt, completion=_text(record.value, "target"))


def _pair(record: Record) -> Pair:
    return Pair(record.where, _completion(record, "chosen"), _completion(record, "rejected"))


def _implicit_pair(record: Record) -> Pair:
    chosen, rejected = (_messages(record.value[key], key) for key in ("chosen", "rejected"))
    if chosen[:-1] != rejected[:-1]:
        raise DataError("chosen and rejected must differ in their last message alone")
    tools = _tools(record.value)
    return Pair(record.where, Sample(record.where, chosen, tools), Sample(record.where, rejected, tools))


def _labeled(record: Record) -> Labeled:
    label = record.value["label"]
    if not isinstance(label, bool):
        raise DataError(f"label must be true or false, not {label!r:.80}")
    return Labeled(record.where, _completion(record), label)


def _question(record: Record) -> Question:
    prompt = record.value["prompt"]
    messages: Messages = (
        _messages(prompt, "prompt")
        if isinstance(prompt, list)
        else [{"role": "user", "content": _text(record.value, "prompt")}]
    )
    return Question(record.where, messages, {key: value for key, value in record.value.items() if key != "prompt"})


SUPERVISED: dict[str, tuple[tuple[str, ...], Reader]] = {
    "messages": (("messages",), _dialog),
    "completion": (("prompt", "completion"), _completion),
    "alpaca": (("instruction", "output"), _alpaca),
    "samsum": (("dialogue", "summary"), _samsum),
    "grammar": (("input", "target"), _grammar),
    "text": (("text",), _plain),
}
PREFERENCE: dict[str, tuple[tuple[str, ...], Reader]] = {
    "pairs": (("prompt", "chosen", "rejected"), _pair),
    "implicit pairs": (("chosen", "rejected"), _implicit_pair),
}
LABELLED: dict[str, tuple[tuple[str, ...], Reader]] = {"labeled": (("prompt", "completion", "label"), _labeled)}
QUESTIONS: dict[str, tuple[tuple[str, ...], Reader]] = {"prompts": (("prompt",), _question)}
