"""The examples on the real small model; those that train in a short form: what they print has to begin to show."""

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

from examples import extraction, inbox, preference, reward, tour
from llama3_mlx import Llama
from llama3_mlx.convert.quantization import methods

ROOT = Path(__file__).parents[1]

KEYS = {"customer", "goods", "count", "place", "date"}


def test_notes_become_json(smollm2_folder: Path, tmp_path: Path) -> None:
    before, _ = extraction.run(
        smollm2_folder, tmp_path, count=30, held_out=4, layers=8, batch_size=1, learning_rate=4e-3, epochs=1.0
    )
    assert before == 0
    answers = [extraction.parsed(text) for text in json.loads((tmp_path / "answers.json").read_text())]
    # The form is learned before the contents are.
    shaped = [set(answer) == KEYS for answer in answers if isinstance(answer, dict)]
    assert sum(shaped) >= len(answers) / 2


def test_a_preference_shows_on_pairs_that_were_held_out(smollm2_folder: Path, tmp_path: Path) -> None:
    *_, last = preference.run(smollm2_folder, tmp_path, count=8, held_out=4, layers=4, steps=3, learning_rate=2e-3)
    assert last.more["margin"] > 0.5
    assert last.more["accuracy"] > 0.8


def test_a_reward_rises_on_questions_that_were_held_out(smollm2_folder: Path, tmp_path: Path) -> None:
    before, after = reward.run(smollm2_folder, tmp_path, steps=5, layers=8, learning_rate=3e-3)
    assert after > before + 0.1


def test_mails_are_sorted_and_answered_at_the_same_time(smollm2_folder: Path) -> None:
    with Llama.load(smollm2_folder, disk_cache=False) as llama:
        found = inbox.sort_mails(llama, inbox.MAILS)
        assert [type(each) for each in found] == [inbox.Sorted] * len(inbox.MAILS)
        texts = asyncio.run(inbox.answer_all(llama, inbox.MAILS[:2], longest=40))
        assert all(len(text) >= 40 for text in texts)


def test_the_command_line_works_in_pipelines(smollm2_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("Rain in the north, sun in the south, and a cold night everywhere.")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    command = [ROOT / "examples" / "pipeline.sh", smollm2_folder, tmp_path / "note.txt"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    *_, title, decision = result.stdout.splitlines()
    assert title.startswith("title: ")
    assert decision in ("weather", "something else")


def test_the_tour_converts_asks_and_teaches(
    smollm2_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = methods.held_out_windows
    monkeypatch.setattr(methods, "held_out_windows", lambda source: whole(source)[:1])
    screen = io.StringIO()
    console = Console(file=screen, width=80)
    before, after = tour.Tour(smollm2_folder, tmp_path, console).run(steps=8, answer_tokens=4)
    shown = screen.getvalue()
    assert before != after
    assert "KL divergence to the source" in shown
    losses = [float(found) for found in re.findall(r"step +\d+  loss +([\d.]+)", shown)]
    assert len(losses) == 8
    assert losses[-1] < losses[0] / 2
    assert (tmp_path / "adapters" / tour.ADAPTER / "report.html").exists()
    assert max(map(len, shown.splitlines())) <= 80 or str(tmp_path) in shown
