"""The examples in a short form: what they print has to begin to show, on small models, random or taught here."""

import asyncio
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from examples import extraction, inbox, notes, preference, reward, tour
from llama3_mlx import Llama
from llama3_mlx.convert.quantization import methods
from llama3_mlx.finetune import TrainSettings, fuse, train

from .support.small_chat import SPECIAL, save_small_chat

ROOT = Path(__file__).parents[1]

KEYS = {"customer", "goods", "count", "place", "date"}


@pytest.fixture(scope="module")
def note_chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model whose tokens are the words of the notes, so that it learns from few examples."""
    folder = save_small_chat(
        tmp_path_factory.mktemp("notes") / "model", vocab_size=1024, bos_token_id=0, eos_token_id=[1, 4]
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    texts = [message["content"] for dialog in notes.dialogs(300, 0, notes.WORDINGS) for message in dialog["messages"]]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1024, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_notes_become_json(note_chat: Path, tmp_path: Path) -> None:
    everything = {"targets": (), "modules_to_save": ("embed_tokens", "layers.0", "layers.1")}
    before, _ = extraction.run(
        note_chat, tmp_path, count=150, held_out=12, learning_rate=5e-3, epochs=8.0, report=False, **everything
    )
    assert before == 0
    answers = [extraction.parsed(text) for text in json.loads((tmp_path / "answers.json").read_text())]
    # The form is learned before the contents are.
    shaped = [set(answer) == KEYS for answer in answers if isinstance(answer, dict)]
    assert sum(shaped) >= len(answers) / 2


def test_a_preference_shows_on_pairs_that_were_held_out(small_chat: Path, tmp_path: Path) -> None:
    *_, last = preference.run(small_chat, tmp_path, count=8, held_out=4, steps=3, learning_rate=1e-2)
    assert last.more["margin"] > 0.5
    assert last.more["accuracy"] > 0.8


@pytest.fixture(scope="module")
def color_chat(small_chat: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of bytes that has learned to answer the reward's questions with "gray" or "no"."""
    folder = tmp_path_factory.mktemp("color")
    rows = [
        {"messages": [*reward.question(thing), {"role": "assistant", "content": text}]}
        for thing in reward.THINGS[:12]
        for text in ("gray", "no")
    ]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = TrainSettings(
        steps=100, learning_rate=1e-2, batch_size=2, row_length=256, train_on="all", samples=0, report=False,
        targets=(), modules_to_save=("embed_tokens", "layers.0", "layers.1"),
    )  # fmt: skip
    train(small_chat, folder / "data.jsonl", folder / "adapter", settings)
    fuse(small_chat, folder / "adapter", folder / "model")
    return folder / "model"


def test_a_reward_rises_on_questions_that_were_held_out(color_chat: Path, tmp_path: Path) -> None:
    before, after = reward.run(color_chat, tmp_path, steps=4, learning_rate=1e-2)
    assert after > before + 0.1


def test_mails_are_sorted_and_answered_at_the_same_time(small_chat: Path) -> None:
    with Llama.load(small_chat, disk_cache=False) as llama:
        found = inbox.sort_mails(llama, inbox.MAILS)
        assert [type(each) for each in found] == [inbox.Sorted] * len(inbox.MAILS)
        answering = inbox.answer_all(llama, inbox.MAILS[:2], longest=40)
        texts = asyncio.run(asyncio.wait_for(answering, 120))
        assert all(len(text) >= 40 for text in texts)


def test_the_command_line_works_in_pipelines(small_chat: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("Rain in the north, sun in the south, and a cold night everywhere.")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    command = [ROOT / "examples" / "pipeline.sh", small_chat, tmp_path / "note.txt"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert result.returncode == 0, result.stderr
    *_, title, decision = result.stdout.splitlines()
    assert title.startswith("title: ")
    assert decision in ("weather", "something else")


def test_the_tour_converts_asks_and_teaches(color_chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = methods.held_out_windows
    monkeypatch.setattr(methods, "held_out_windows", lambda source: whole(source)[:1])
    screen = io.StringIO()
    console = Console(file=screen, width=80)
    before, after = tour.Tour(color_chat, tmp_path, console).run(steps=200, answer_tokens=4)
    shown = screen.getvalue()
    assert before != after
    assert "distance   KL" in shown
    losses = [float(found) for found in re.findall(r"step +\d+  loss +([\d.]+)", shown)]
    assert len(losses) == 10
    assert losses[-1] < losses[0] / 2
    assert (tmp_path / "adapters" / tour.ADAPTER / "report.html").exists()
    assert max(map(len, shown.splitlines())) <= 80 or str(tmp_path) in shown
