"""The learning examples in a short form, on the real small model: what they print in full has to begin to show."""

import json
from pathlib import Path

from examples import extraction, preference, reward

KEYS = {"customer", "goods", "count", "place", "date"}


def test_notes_become_json(smollm2_folder: Path, tmp_path: Path) -> None:
    before, _ = extraction.run(
        smollm2_folder, tmp_path, count=50, held_out=6, layers=10, batch_size=1, learning_rate=3e-3, epochs=1.0
    )
    assert before == 0
    answers = [extraction.parsed(text) for text in json.loads((tmp_path / "answers.json").read_text())]
    # The form is learned before the contents are.
    shaped = [set(answer) == KEYS for answer in answers if isinstance(answer, dict)]
    assert sum(shaped) >= len(answers) / 2


def test_a_preference_shows_on_pairs_that_were_held_out(smollm2_folder: Path, tmp_path: Path) -> None:
    *_, last = preference.run(smollm2_folder, tmp_path, count=12, held_out=6, layers=6, steps=4, learning_rate=1e-3)
    assert last.more["margin"] > 0.5
    assert last.more["accuracy"] > 0.8


def test_a_reward_rises_on_questions_that_were_held_out(smollm2_folder: Path, tmp_path: Path) -> None:
    before, after = reward.run(smollm2_folder, tmp_path, steps=5, layers=8, learning_rate=3e-3)
    assert after > before + 0.1
