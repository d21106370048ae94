"""Progress: a conversion's phases, a long prompt, a training run to its very end."""

import io
import sys
from pathlib import Path

import pytest

from llama3_mlx.cli.progress import ConversionProgress, PromptBar
from llama3_mlx.cli.terminal import tell
from llama3_mlx.cli.training_run import TrainingProgress
from llama3_mlx.convert import convert
from llama3_mlx.finetune.training.callbacks import StepReport


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_lines_are_broken_between_words_on_a_terminal_and_not_at_all_in_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = " ".join(f"/a/path/of/some/length/{number}" for number in range(12))
    tell(line)
    assert capsys.readouterr().err == line + "\n"
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    tell(f"{line}\nshort")
    first, *others, last = terminal.getvalue().splitlines()
    assert last == "short"
    assert [first, *others] == [first, *(f"  {each.strip()}" for each in others)]
    assert " ".join([first, *map(str.strip, others)]) == line
    assert max(map(len, (first, *others))) <= 80
    assert first.count("/a/") == 3, "as many words as fit: 26 characters each and a space between"


class Recorder:
    """A progress that keeps what it hears of phases."""

    def __init__(self) -> None:
        self.phases: list[tuple[str, int, int]] = []

    def stage(self, name: str) -> None: ...
    def start(self, total_tensors: int, total_bytes: int) -> None: ...
    def advance(self, tensor: str, n_bytes: int, *, finished: bool) -> None: ...
    def phase(self, name: str, done: int, total: int) -> None:
        self.phases.append((name, done, total))


def test_a_calibration_tells_its_layers_from_none_to_all(small_chat: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 400)
    progress = Recorder()
    convert(small_chat, tmp_path / "out", bits=4, group_size=32, calibration=text, progress=progress)
    # Two layers of seven matrices; those of one input are told together.
    told = [(done, total) for name, done, total in progress.phases if name == "calibrating matrices"]
    assert sorted({done for done, _ in told}) == [0, 3, 4, 6, 7, 10, 11, 13, 14]
    assert told == sorted(told)
    assert {total for _, total in told} == {14}


def test_no_part_of_a_calibration_is_untold(small_chat: Path, tmp_path: Path) -> None:
    """Of a tied model of two layers, at the end both models' layers, which are measured."""
    progress = Recorder()
    convert(small_chat, tmp_path / "out", bits=4, group_size=32, quality="calibrated", progress=progress)
    ends = {name: (done, total) for name, done, total in progress.phases}
    assert ends.pop("measuring the result against its source") == (4, 4)
    assert all(done == total for done, total in ends.values())
    assert list(ends) == ["reading the text", "calibrating the embedding", "calibrating matrices"]


def test_no_time_left_is_made_up_of_bytes_while_calibration_takes_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with ConversionProgress() as progress:
        progress.start(2, 100)
        progress.phase("calibrating", 0, 4)
        progress.advance("a", 50, finished=True)
        progress.phase("calibrating", 1, 4)
        converting, calibrating = progress._progress.tasks
        assert (converting.fields["left"], calibrating.fields["left"]) == (False, True)


def test_phases_are_lines_where_stderr_is_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    with ConversionProgress() as progress:
        for done in range(9):
            progress.phase("calibrating", done, 8)
    assert capsys.readouterr().err.splitlines() == [f"calibrating: {done} of 8" for done in (2, 4, 6, 8)]


def test_a_long_prompt_is_shown_until_the_answer_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with PromptBar() as progress:
        progress.report(10, 8000)
        assert terminal.getvalue() == "", "nothing within the first moment"
        monkeypatch.setattr(PromptBar, "_AFTER_S", 0.0)
        progress.report(1024, 8000)
        assert terminal.getvalue().endswith("reading the prompt: 1,024 of 8,000 tokens\x1b[K")
        progress.close()
        shown = terminal.getvalue()
        assert shown.endswith("\r\x1b[K"), "the line is taken away"
        progress.report(2048, 8000)
    assert terminal.getvalue() == shown, "nothing is written into the answer"


def test_training_on_a_terminal_leaves_no_line_of_a_step_that_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    shown = TrainingProgress()
    shown.on_start({"total_steps": 2, "step": 0})
    shown.on_stage("generating sample answers before training")
    shown.close()
    left = [line.rpartition("\r")[2].replace("\x1b[K", "") for line in terminal.getvalue().split("\n")]
    assert left == [""], "what a terminal shows of it"


def test_training_tells_what_it_does_besides_steps_and_gives_no_time_left_at_its_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = TrainingProgress()
    shown.on_start({"total_steps": 2, "step": 0})
    shown.on_stage("generating sample answers before training")
    numbers = (0.1, 2.0, 1e-4, 1.0, 500, 100, 1.0, 500.0, 10**9, 2 * 10**9)
    for step in (1, 2):
        shown.on_step(StepReport(step, 2, *numbers))
    shown.on_stage("testing")
    first, second, third, last = capsys.readouterr().err.splitlines()
    assert (first, last) == ("generating sample answers before training …", "testing …")
    assert second.endswith("0:01 left")
    assert third.startswith("step 2/2")
    assert "left" not in third
