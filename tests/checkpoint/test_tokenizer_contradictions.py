"""Contradictory tokenizers and templates give the ids of transformers, or are refused by name."""

import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from llama3_mlx.chat.dialog import load_dialog
from llama3_mlx.checkpoint.folder import ModelFolder
from llama3_mlx.errors import Llama3MLXError
from llama3_mlx.tokenizer.loading import load_tokenizer

from .contradictions import V
from .tokenizer_contradictions import CHANGES, TokenizerChange, pairs, whole

TEXTS = ("hello the ISLE, 42 times", "a <note> here", "x <note>y Ünder 🦙")
DIALOG = [{"role": "user", "content": "hello the <note> isle"}, {"role": "assistant", "content": "Well, this is it."}]


def in_transformers(folder: Path) -> dict[str, Any]:
    """Ids of texts and of a dialog in transformers; what it refuses is left out."""
    found: dict[str, Any] = {}
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        for text in TEXTS:
            found[text] = tokenizer.encode(text, add_special_tokens=False)
    except Exception:
        return found
    try:
        parts = [{**each, "content": [{"type": "text", "text": each["content"]}]} for each in DIALOG]
        given = parts if "m.content[0].text" in str(tokenizer.chat_template) else DIALOG
        found["dialog"] = tokenizer.apply_chat_template(given, add_generation_prompt=True, return_dict=False)
    except Exception:
        pass
    return found


def ours(folder: Path) -> dict[str, Any]:
    """The same of ours; an error stands for what is refused."""
    opened = ModelFolder(folder)
    try:
        tokenizer = load_tokenizer(opened)
    except Llama3MLXError as error:
        return dict.fromkeys((*TEXTS, "dialog"), error)
    found: dict[str, Any] = {}
    for text in TEXTS:
        try:
            found[text] = tokenizer.encode(text)
        except Llama3MLXError as error:
            found[text] = error
    try:
        dialog = load_dialog(opened, tokenizer)
        if dialog is not None:
            found["dialog"] = dialog.encode(DIALOG)
    except Llama3MLXError as error:
        found["dialog"] = error
    return found


def differences(changes: tuple[TokenizerChange, ...], folder: Path) -> list[str]:
    """Return what is neither transformers' nor refused by the name of a change."""
    made = whole()
    for change in changes:
        try:
            change.apply(made)
        except (AttributeError, TypeError):
            return []
    made.write(folder)
    reference, wrong = in_transformers(folder), []
    for what, result in ours(folder).items():
        if isinstance(result, Llama3MLXError):
            named = any(re.search(change.words, str(result)) for change in changes) and "\n" not in str(result)
            wrong += [] if named else [f"{what}: refused without a name: {result}"]
        elif what not in reference:
            wrong += [f"{what}: {result}, and transformers refuses"] if what != "dialog" else []
        elif result != reference[what]:
            wrong.append(f"{what}: {result}, not {reference[what]}")
        elif max(result) >= V:
            wrong.append(f"{what}: {result} is beyond the embedding")
    return wrong


@pytest.mark.parametrize("part", range(4))
def test_each_gives_transformers_ids_or_is_refused_by_name(part: int, tmp_path: Path) -> None:
    wrong = [
        f"{[change.name for change in changes]}: {line}"
        for changes in pairs(120)[part::4]
        for line in differences(changes, tmp_path / "model")
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("change", [change for change in CHANGES if change.loads], ids=lambda change: change.name)
def test_what_can_be_decided_loads(change: TokenizerChange, tmp_path: Path) -> None:
    made = whole()
    change.apply(made)
    found = ours(made.write(tmp_path / "model"))
    assert isinstance(found[TEXTS[0]], list)
    assert isinstance(found.get("dialog", []), list) or "beyond" in change.name
