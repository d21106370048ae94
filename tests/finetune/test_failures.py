"""What fails in the middle of a run, and how long runs are: nothing good is lost, and too short runs are told of."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file

from llama3_mlx.errors import DataError, RequestError
from llama3_mlx.finetune import Callback, StepReport, TrainSettings, grpo, train
from llama3_mlx.finetune.objectives.rewards import total_rewards
from llama3_mlx.finetune.training.advice import advice
from llama3_mlx.finetune.training.length import length_notes, total_steps, with_epochs

from ..support.finetune_fixtures import write_lines

QUICK: dict[str, Any] = {
    "rank": 2,
    "steps": 5,
    "max_length": 96,
    "batch_size": 2,
    "samples": 0,
    "report": False,
    "targets": "q_proj",
}
ROWS = [{"prompt": f"{n}?", "completion": f"{n}!"} for n in range(4)]


class Broken(Callback):
    """Fails at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, report: StepReport) -> None:
        if report.step == self.step:
            raise ZeroDivisionError("mine")


def test_a_callback_that_raises_leaves_the_steps_before_it_saved(small_chat: Path, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        train(small_chat, ROWS, tmp_path / "run", callbacks=[Broken(3)], **QUICK)
    assert "state of step 3 is saved" in caught.value.__notes__[0]
    result = train(small_chat, ROWS, tmp_path / "run", resume=True, **QUICK)
    train(small_chat, ROWS, tmp_path / "whole", **QUICK)
    assert result.steps == 5
    one, two = (load_file(tmp_path / name / "resume.safetensors") for name in ("run", "whole"))
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_a_reward_that_raises_leaves_the_steps_before_it_saved(small_chat: Path, tmp_path: Path) -> None:
    calls: list[int] = []

    def reward(completions: list[str], **_: Any) -> list[float]:
        calls.append(len(completions))
        return [1 / (3 - len(calls)) for _ in completions]

    options: dict[str, Any] = {**QUICK, "group_size": 2, "answer_tokens": 2, "batch_size": 1, "rewards": [reward]}
    with pytest.raises(DataError, match=r"ZeroDivisionError.* The state of step 2 is saved: mend this"):
        grpo(small_chat, [{"prompt": "a?"}], tmp_path / "run", **options)
    assert grpo(small_chat, [{"prompt": "a?"}], tmp_path / "run", resume=True, **options).steps == 5


def test_equal_rewards_show_as_groups_without_spread(small_chat: Path, tmp_path: Path) -> None:
    def half(completions: list[str], **_: Any) -> list[float]:
        return [0.5] * len(completions)

    options: dict[str, Any] = {**QUICK, "group_size": 2, "answer_tokens": 2, "batch_size": 1, "steps": 1}
    grpo(small_chat, [{"prompt": "a?"}], tmp_path / "run", rewards=[half], **options)
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert line["groups without spread"] == 1.0


@pytest.mark.parametrize(
    ("steps", "checks", "best", "words"),
    [
        ([{"loss": 1.0}] * 40, [], 0, "Nothing was held out"),
        ([{"loss": 1.0}] * 8, [], 0, "8 steps are few"),
        ([{"loss": 1.0}] * 40, [{"loss": 1.0}, {"loss": 2.0}], 7, "lowest at step 7 and rose"),
        ([{"loss": 1.0}] * 40, [{"loss": 2.0}, {"loss": 1.0}], 40, "still falling"),
        ([{"loss": 0.0, "groups without spread": 0.75}] * 40, [], 0, "For 75% of the questions all answers got one"),
    ],
)
def test_the_report_says_what_the_numbers_ask_for(
    steps: list[dict[str, float]], checks: list[dict[str, float]], best: int, words: str
) -> None:
    result = {"ended": "done", "best_step": best}
    said = advice(Path("my run"), {"kind": "train", "model": "M"}, result, steps, checks)
    assert any(words in text for text, _ in said)
    assert "llama3-mlx chat -m M --adapter 'my run'" in [command for _, command in said]


def test_scalars_of_numpy_and_mlx_and_truth_count_as_rewards_by_their_weight() -> None:
    def mixed(completions: list[str], **_: Any) -> list[Any]:
        return [True, np.float32(0.5), mx.array(2.0), None]

    def ones(completions: list[str], **_: Any) -> list[float]:
        return [1.0] * 4

    found = total_rewards([mixed, ones], [None] * 4, ["a"] * 4, {}, (2.0, 0.5))
    assert found == [2.5, 1.5, 4.5, 0.5]


def test_weights_of_rewards_are_as_many_as_these(small_chat: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="1 rewards and 2 weights"):
        grpo(small_chat, [{"prompt": "a"}], tmp_path, rewards=[lambda **_: [0.0]], reward_weights=(1, 2))


def test_sigterm_saves_as_ctrl_c_does(small_chat: Path, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "d.jsonl", ROWS)
    command = [sys.executable, "-m", "llama3_mlx", "train", "-m", str(small_chat), "-d", str(data), "--samples", "0"]
    arguments = ["-o", str(tmp_path / "run"), "--steps", "100000", "--save-every", "100000", "--batch-size", "1"]
    process = subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert f"resume with: llama3-mlx train --resume {tmp_path / 'run'}" in err
    assert (tmp_path / "run" / "resume.safetensors").exists()


@pytest.mark.parametrize(("per_epoch", "steps"), [(1, 10), (12, 108), (40, 120), (100, 100), (5000, 5000)])
def test_small_data_are_gone_through_until_a_hundred_steps_at_most_ten_times(per_epoch: int, steps: int) -> None:
    settings = with_epochs(TrainSettings(), per_epoch, 10)
    assert total_steps(settings, per_epoch) == steps
    few = ": too few to learn much" in length_notes(settings, per_epoch)[0]
    assert few == (steps < 30)
    assert with_epochs(TrainSettings(epochs=1.5), per_epoch, 10).epochs == 1.5
    assert with_epochs(TrainSettings(steps=3), per_epoch, 10).epochs is None


def test_fifty_dialogs_are_divided_into_batches_that_make_a_hundred_steps(small_chat: Path) -> None:
    from llama3_mlx.finetune.sft import build_supervised
    from llama3_mlx.finetune.training.job import load_text_side, make_job

    rows = [{"prompt": f"What is {n}?", "completion": f"It is {n}."} for n in range(50)]
    job = make_job("train", small_chat, rows, "unused", TrainSettings())
    prepared = build_supervised(job, load_text_side(str(small_chat)))
    assert 10 <= prepared.objective.per_epoch <= 25
    assert total_steps(prepared.settings, prepared.objective.per_epoch) >= 100
    seen = [where for index in range(prepared.objective.per_epoch) for where in prepared.objective.batch(index).where]
    assert len(seen) == 50
