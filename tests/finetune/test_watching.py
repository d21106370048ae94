"""What is seen of a run from outside: loggers, the picture of its curves, data from functions."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.finetune_data import make_data
from benchmarks.finetune_memory import resident
from llama3_mlx import CheckpointError, MissingExtraError, RequestError
from llama3_mlx.cli.training_run import TrainingProgress
from llama3_mlx.finetune import Callback, DataError, StepReport, ValidationReport, train
from llama3_mlx.finetune.training.loggers import make_loggers

from ..support.finetune_fixtures import SHORT_RUN, write_lines


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A folder with data to train and to validate on."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name, count in (("train", 8), ("valid", 2)):
        write_lines(folder / f"{name}.jsonl", [{"text": f"{name} {n} times {n} is {n * n}"} for n in range(count)])
    return folder


def metrics(folder: Path, kind: str) -> dict[int, float]:
    """The losses of metrics.jsonl by step."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if line["kind"] == kind}


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_reads_back_what_was_logged(tiny_folder: Path, texts: Path, tmp_path: Path) -> None:
    """Read by TensorBoard's own event reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    train(str(tiny_folder), texts, tmp_path / "out", **{**SHORT_RUN, "loggers": ("tensorboard",), "steps": 4})
    events = EventAccumulator(str(tmp_path / "out" / "tensorboard"))
    events.Reload()
    for group, kind in (("train", "step"), ("validation", "validation")):
        logged = {event.step: event.value for event in events.Scalars(f"{group}/loss")}
        assert logged == pytest.approx(metrics(tmp_path / "out", kind))


def test_wandb_gets_every_step(tiny_folder: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """wandb itself, offline; its own reader isn't public, so what it was handed is recorded on the way."""
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    handed: dict[int, float] = {}
    init = wandb.init

    def recording(**settings: Any) -> Any:
        # wandb.init puts the run's own functions into the module.
        run, log = init(**settings), wandb.log

        def recorded(values: dict[str, float], step: int) -> None:
            handed.update({step: values["train/loss"]} if "train/loss" in values else {})
            log(values, step=step)

        monkeypatch.setattr(wandb, "log", recorded)
        return run

    monkeypatch.setattr(wandb, "init", recording)
    train(str(tiny_folder), texts, tmp_path / "out", **{**SHORT_RUN, "loggers": ("wandb",), "steps": 3})
    assert handed == pytest.approx(metrics(tmp_path / "out", "step"))
    assert list(tmp_path.glob("out/wandb/offline-run-*/run-*.wandb"))


def test_loggers_that_are_unknown_or_absent_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="no logger 'mlflow'; accepted are tensorboard"):
        make_loggers(["mlflow"], tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "trackio", None)
    with pytest.raises(MissingExtraError, match="pip install trackio"):
        make_loggers(["trackio"], tmp_path)


def test_the_curves_come_as_a_picture_too(tiny_folder: Path, texts: Path, tmp_path: Path) -> None:
    train(str(tiny_folder), texts, tmp_path / "out", **{**SHORT_RUN, "png": True, "report": True, "steps": 4})
    with Image.open(tmp_path / "out" / "report.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300
        # Lines on the ground: more than one color.
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 2


def test_data_come_from_a_function(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "made.py").write_text(
        "def squares(split):\n"
        "    count = {'train': 6, 'valid': 2}[split]\n"
        "    return [{'prompt': f'{n} squared?', 'completion': str(n * n)} for n in range(count)]\n"
    )
    out = tmp_path / "out"
    train(str(tiny_folder), f"{tmp_path / 'made.py'}:squares", out, **{**SHORT_RUN, "steps": 2})
    assert len(metrics(out, "step")) == 2
    assert metrics(out, "validation")
    with pytest.raises(DataError, match="cubes"):
        train(str(tiny_folder), f"{tmp_path / 'made.py'}:cubes", tmp_path / "no", **SHORT_RUN)


@pytest.mark.parametrize(
    ("example", "learned"),
    [
        ({"instruction": "Add.", "input": "1 2", "output": "three"}, "three"),
        ({"dialogue": "A: hi\nB: bye", "summary": "They part."}, "They part."),
        ({"input": "he go", "target": "he goes"}, "he goes"),
    ],
)
def test_presets_learn_the_answer_of_their_layout(
    tiny_folder: Path, tmp_path: Path, example: dict[str, str], learned: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from llama3_mlx.cli import main

    path = write_lines(tmp_path / "train.jsonl", [example] * 3)
    assert main(["data", "check", str(path), "-m", str(tiny_folder)]) == 0
    shown = capsys.readouterr().out
    assert f"\N{MATHEMATICAL LEFT WHITE SQUARE BRACKET}{learned}" in shown


def test_layouts_that_are_mixed_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "train.jsonl", [{"text": "a b c"}, {"prompt": "a", "completion": "b"}])
    with pytest.raises(DataError, match=r"train\.jsonl, line 2: .*mixed"):
        train(str(tiny_folder), path, tmp_path / "out", **SHORT_RUN)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads resident memory from /proc")
def test_a_run_over_changing_lengths_does_not_grow(tiny_folder: Path, tmp_path: Path) -> None:
    """The short form of benchmarks/finetune_memory.py."""
    data = make_data("mixed", tiny_folder, tmp_path / "data", 24)
    found = resident(tiny_folder, data, tmp_path / "out", packing=False, steps=(10, 30))
    assert len(found) == 2
    assert found[1] <= 1.05 * found[0]


def test_an_error_in_a_function_for_data_names_its_line(tiny_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def rows(split):\n    return [{}['text']]\n")
    with pytest.raises(DataError, match=r"mine\.py, line 2: KeyError: 'text'"):
        train(str(tiny_folder), f"{file}:rows", tmp_path / "out", **SHORT_RUN)
    with pytest.raises(DataError, match=r"mine\.py:FUNCTION"):
        train(str(tiny_folder), str(file), tmp_path / "out", **SHORT_RUN)
    file.write_text("def rows(split)\n")
    with pytest.raises(DataError, match=r"mine\.py, line 1: SyntaxError"):
        train(str(tiny_folder), f"{file}:rows", tmp_path / "out", **SHORT_RUN)


def test_validation_data_that_are_not_there_are_an_error(tiny_folder: Path, texts: Path, tmp_path: Path) -> None:
    (texts / "valid.jsonl").unlink()
    with pytest.raises(DataError, match="no examples to validate on"):
        train(str(tiny_folder), texts, tmp_path / "out", valid=texts, **SHORT_RUN)


def test_what_was_chosen_is_told_before_weights_are_loaded(
    texts: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    class Notes(Callback):
        def on_plan(self, notes: Sequence[str]) -> None:
            told.extend(notes)

    def unreadable(*_: object) -> None:
        raise CheckpointError("broken")

    monkeypatch.setattr("llama3_mlx.finetune.training.setup.load_for_training", unreadable)
    with pytest.raises(CheckpointError):
        train(str(tiny_folder), texts, tmp_path / "out", callbacks=[Notes()], memory="12GB", **SHORT_RUN)
    assert told[0].startswith("train on 8 examples")
    assert "of 12.00 GB" in told[-2]
    assert told[-1].startswith("8 steps, ") and "too few to learn much" in told[-1]


def test_a_line_of_progress_is_never_wrapped_and_never_left_behind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    shown = TrainingProgress()
    shown.on_start({"total_steps": 3, "step": 0})
    numbers = (0.1, 2.0, 1e-4, 1.0, 500, 100, 1.0, 500.0, 10**9, 2 * 10**9)
    for step in (1, 2):
        shown.on_step(StepReport(step, 3, *numbers, {"margin": 0.1, "accuracy": 1.0}))
    shown.on_validation(ValidationReport(2, 1.5, best=False))
    shown.close()
    output = capsys.readouterr().err
    written = output.split("\r")[1:]
    assert [line.partition(":")[0] for line in written] == ["step 0/3\x1b[K", "step 1/3", "step 2/3", "\x1b[Kstep 2"]
    assert output.endswith("\n")
    assert not output.endswith("\n\n")
    # Each is written over the one before, whose rest is erased; a line that stays finds an empty one.
    assert all(line.rstrip("\n").endswith("\x1b[K") or line.startswith("\x1b[K") for line in written)
    assert all(len(line.replace("\x1b[K", "").rstrip("\n")) < 60 for line in written)
