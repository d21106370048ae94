"""Data whose answers the model gives itself: what a draft head learns from, and what it will draft for.

Answers are kept in a file as they come, so that a run that was broken off resumes where it was. An assistant's message
that calls tools stays as it is, and so does a dialog that has tools: what they would return isn't known.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from ...errors import DataError
from ...files import complete_lines, disk_errors, save_json
from ...json_types import JsonMapping, JsonObject
from ...llama import Llama
from ..data.encoding import as_dialog
from ..data.formats import read_samples
from ..data.loading import DataReader
from ..data.samples import Messages, Sample
from ..data.sources import Source
from ..settings import DraftSettings

RECORD, SPLITS = "answered.json", ("valid", "train")
# Dialogs that are answered between two writes.
_AT_ONCE = 64


def regenerate(
    llama: Llama,
    data: Sequence[Source],
    valid: Sequence[Source],
    folder: Path,
    settings: DraftSettings,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Path:
    """Answer the prompts of the data anew and return `folder`, which then holds them as train and valid files.

    Answers that are there from the same prompts and settings are kept. Raises DataError for data without prompts, and
    for a folder whose answers were given in another way.
    """
    if llama.dialog is None:
        raise DataError("prompts are answered in dialogs, and this base model has no dialog format")
    reader = DataReader(data, valid, settings)
    records = {"train": reader.train(), "valid": reader.valid()}
    dialogs = {
        name: [_dialog(sample) for sample in read_samples(part, settings.layout, reader.problems)]
        for name, part in records.items()
    }
    reader.notes()
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _check_record(folder, _way(llama, dialogs, settings))
        done = {name: complete_lines(folder / f"{name}.jsonl") for name in SPLITS}
        total, count = sum(map(len, dialogs.values())), sum(map(len, done.values()))
        for name in SPLITS:
            left = dialogs[name][len(done[name]) :]
            for start in range(0, len(left), _AT_ONCE):
                number = len(done[name]) + start
                made = _answer(llama, left[start : start + _AT_ONCE], settings, number)
                with (folder / f"{name}.jsonl").open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in made)
                count += len(made)
                progress(count, total)
    return folder


def _dialog(sample: Sample) -> Sample:
    """Return the sample as a dialog; raises DataError for a text, which asks nothing."""
    if sample.messages is not None:
        return sample
    if sample.prompt is None:
        raise DataError(f"{sample.where}: a text has no prompt to answer: leave out --regenerate, or give dialogs")
    return Sample(sample.where, messages=as_dialog(sample))


def _answer(llama: Llama, samples: Sequence[Sample], settings: DraftSettings, number: int) -> list[JsonObject]:
    """Return the dialogs with the assistant's messages answered anew, one after another, all dialogs at once."""
    given: list[Messages] = [list(sample.messages or ()) for sample in samples]
    made: list[Messages] = [[] for _ in samples]
    waiting = [index for index, sample in enumerate(samples) if not sample.tools]
    while waiting:
        for index in waiting:
            made[index] += _before_answer(given[index][len(made[index]) :])
        waiting = [index for index in waiting if len(made[index]) < len(given[index])]
        if waiting:
            streams = [
                llama.stream_chat(
                    made[index],
                    max_tokens=settings.answer_tokens,
                    temperature=settings.temperature,
                    seed=settings.seed * 1_000_003 + number + index,
                    speculate=False,
                )
                for index in waiting
            ]
            answers = [stream.completion for stream in streams]
            for index, answer in zip(waiting, answers, strict=True):
                made[index].append({"role": "assistant", "content": answer.text})
    return [
        {"messages": list(sample.messages or ()), "tools": sample.tools} if sample.tools else {"messages": messages}
        for sample, messages in zip(samples, made, strict=True)
    ]


def _before_answer(messages: Sequence[JsonMapping]) -> list[JsonMapping]:
    """Return the messages up to the next one that is to be answered anew."""
    for at, message in enumerate(messages):
        if message.get("role") == "assistant" and not message.get("tool_calls"):
            return list(messages[:at])
    return list(messages)


def _way(llama: Llama, dialogs: dict[str, list[Sample]], settings: DraftSettings) -> JsonObject:
    """Return what decides the answers."""
    texts = {name: [[sample.messages, sample.tools] for sample in part] for name, part in dialogs.items()}
    return {
        "model": str(llama.folder),
        "adapter": settings.adapter,
        "prompts": hashlib.sha256(json.dumps(texts, sort_keys=True, default=str).encode()).hexdigest(),
        "answer_tokens": settings.answer_tokens,
        "temperature": settings.temperature,
        "seed": settings.seed,
    }


def _check_record(folder: Path, way: JsonObject) -> None:
    path = folder / RECORD
    if not path.exists():
        save_json(path, way)
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    changed = [key for key in way if before.get(key) != way[key]]
    if changed:
        raise DataError(
            f"{folder} holds answers that were given with another {', '.join(changed)}: choose another folder, or "
            "delete this one"
        )
