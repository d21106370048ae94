"""Whole runs: going on after kills, stopping, cancelling, bad losses, full disks, threads."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file

from llama3_mlx import Llama3MLXError, RequestError
from llama3_mlx.cli import main
from llama3_mlx.finetune import DataError, TrainingError, TrainSettings, dpo, train
from llama3_mlx.finetune.sft import build_supervised
from llama3_mlx.finetune.training.callbacks import Callback, StepReport, ValidationReport
from llama3_mlx.finetune.training.job import resumed_job
from llama3_mlx.finetune.training.running import run_job

from ..support.finetune_fixtures import SHORT_RUN, write_lines

LONG_PROMPT = json.dumps(
    {"messages": [{"role": "user", "content": "long " * 200}, {"role": "assistant", "content": "x"}]}
)


@pytest.fixture(scope="module")
def dialogs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve short dialogs."""
    values = [
        {"messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": f"{n} {n * 7}"}]}
        for n in range(12)
    ]
    return write_lines(tmp_path_factory.mktemp("data") / "train.jsonl", values)


class Steps(Callback):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.steps: list[StepReport] = []
        self.validations: list[ValidationReport] = []
        self.saved: list[int] = []

    def on_step(self, report: StepReport) -> None:
        self.steps.append(report)

    def on_validation(self, report: ValidationReport) -> None:
        self.validations.append(report)

    def on_save(self, step: int) -> None:
        self.saved.append(step)


def losses(folder: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if line["kind"] == "step"]


def resume(folder: Path, **changes: Any) -> Any:
    return run_job(resumed_job(folder, changes), build_supervised, resume=True)


class Cancelled(Callback):
    """Sets the event after a step."""

    def __init__(self, event: threading.Event, step: int) -> None:
        self.event, self.step = event, step

    def on_step(self, report: StepReport) -> None:
        if report.step == self.step:
            self.event.set()


def test_a_cancelled_run_goes_on_to_the_same_bytes(tiny_folder: Path, dialogs: Path, tmp_path: Path) -> None:
    whole = train(tiny_folder, dialogs, tmp_path / "whole", TrainSettings(**SHORT_RUN))
    assert whole.ended == "done"
    event = threading.Event()
    broken = train(
        tiny_folder,
        dialogs,
        tmp_path / "broken",
        TrainSettings(**SHORT_RUN),
        cancel=event,
        callbacks=[Cancelled(event, 3)],
    )
    assert (broken.ended, broken.steps) == ("cancelled", 3)
    # What a kill in the midst of a save leaves behind.
    half = tmp_path / "broken" / ".resume-half_way.safetensors"
    half.write_bytes(b"half")
    assert resume(tmp_path / "broken").steps == 8
    assert (tmp_path / "whole" / "adapters.safetensors").read_bytes() == (
        tmp_path / "broken" / "adapters.safetensors"
    ).read_bytes()
    assert losses(tmp_path / "whole") == losses(tmp_path / "broken")
    assert not half.exists()


def test_a_run_that_goes_on_keeps_its_data(
    tiny_folder: Path, dialogs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    train(tiny_folder, dialogs, run, TrainSettings(**{**SHORT_RUN, "steps": 1}))
    other = write_lines(tmp_path / "other.jsonl", [{"text": "a"}])
    assert main(["train", "--resume", run, "-d", str(other)]) == 2
    assert "--data can't change in a resumed run" in capsys.readouterr().err
    assert main(["train", "--resume", run, "-m", str(tiny_folder), "-d", str(dialogs), "-o", run, "--quiet"]) == 0


RUN = """
import json, sys
from llama3_mlx.finetune import train, TrainSettings
from llama3_mlx.finetune.training.job import resumed_job
from llama3_mlx.finetune.training.running import run_job
from llama3_mlx.finetune.sft import build_supervised
from pathlib import Path
model, data, out, settings = sys.argv[1:]
if (Path(out) / "resume.safetensors").exists():
    run_job(resumed_job(Path(out), {}), build_supervised, resume=True)
else:
    train(model, data, out, TrainSettings(**json.loads(settings)))
"""


@pytest.mark.slow
def test_ten_kills_at_random_moments_leave_the_same_adapter(tiny_folder: Path, dialogs: Path, tmp_path: Path) -> None:
    settings = {**SHORT_RUN, "steps": 60}
    train(tiny_folder, dialogs, tmp_path / "whole", TrainSettings(**settings))
    out, rng = tmp_path / "killed", np.random.default_rng(0)
    command = [sys.executable, "-c", RUN, str(tiny_folder), str(dialogs), str(out), json.dumps(settings)]
    kills = 0
    for _ in range(60):
        before = (out / "resume.safetensors").stat().st_mtime_ns if (out / "resume.safetensors").exists() else 0
        process = subprocess.Popen(command)
        # Wait until it trains, then strike at any moment within some steps.
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            state = out / "resume.safetensors"
            if state.exists() and state.stat().st_mtime_ns != before:
                break
            time.sleep(0.005)
        if kills < 10:
            time.sleep(rng.random() * 0.15)
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
            if not (out / "resume.safetensors").exists():
                for path in out.glob("*.safetensors"):
                    path.unlink()
            continue
        assert process.wait() == 0
        break
    assert kills == 10
    assert (out / "adapters.safetensors").read_bytes() == (tmp_path / "whole" / "adapters.safetensors").read_bytes()
    assert losses(out) == losses(tmp_path / "whole")


def test_a_run_may_be_made_longer_but_not_changed(tiny_folder: Path, dialogs: Path, tmp_path: Path) -> None:
    train(tiny_folder, dialogs, tmp_path / "run", TrainSettings(**{**SHORT_RUN, "steps": 2}))
    assert resume(tmp_path / "run", steps=3).steps == 3
    with pytest.raises(TrainingError, match="aren't those that"):
        resume(tmp_path / "run", learning_rate=1.0)
    with pytest.raises(TrainingError, match="holds a training run"):
        train(tiny_folder, dialogs, tmp_path / "run", TrainSettings(**SHORT_RUN))
    with pytest.raises(TrainingError, match="nothing to resume"):
        resumed = tmp_path / "other"
        resumed.mkdir()
        (resumed / "run.json").write_text((tmp_path / "run" / "run.json").read_text())
        resume(resumed)


def test_a_loss_that_is_no_number_stops_and_names_the_batch(tiny_folder: Path, dialogs: Path, tmp_path: Path) -> None:
    settings = TrainSettings(**{**SHORT_RUN, "learning_rate": 1e30, "clip": 0.0, "warmup": 0, "dropout": 0.0})
    with pytest.raises(TrainingError, match=r"step \d+: the loss (is|exploded).*train.jsonl, line \d+"):
        train(tiny_folder, dialogs, tmp_path / "run", settings)
    # The step before had spoilt the state already.
    assert not (tmp_path / "run" / "resume.safetensors").exists()


def test_a_state_that_a_step_has_spoilt_is_not_saved(
    tiny_folder: Path, dialogs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Steps()
    monkeypatch.setattr(
        "llama3_mlx.finetune.training.trainer.learning_rate", lambda step, *_: 1e30 if step == 3 else 1e-3
    )  # fmt: skip
    with pytest.raises(TrainingError, match=r"step 5: .* The state of step 3 is saved and good"):
        train(tiny_folder, dialogs, tmp_path / "run", TrainSettings(**SHORT_RUN), callbacks=[heard])
    assert heard.saved == [1, 2, 3]
    for name in ("resume.safetensors", "adapters.safetensors"):
        assert all(np.abs(array).max() < 100 for array in load_file(tmp_path / "run" / name).values())


def test_the_best_by_validation_is_what_is_left(tiny_folder: Path, dialogs: Path, tmp_path: Path) -> None:
    heard = Steps()
    settings = TrainSettings(**{**SHORT_RUN, "valid_share": 0.3, "valid_every": 2, "learning_rate": 0.3, "clip": 0.0})
    result = train(tiny_folder, dialogs, tmp_path / "run", settings, callbacks=[heard])
    assert [report.step for report in heard.validations] == [2, 4, 6, 8]
    best = min(heard.validations, key=lambda report: report.loss)
    assert (result.valid_loss, result.best_step) == (best.loss, best.step)
    last = (tmp_path / "run" / "last" / "adapters.safetensors").read_bytes()
    assert (last == (tmp_path / "run" / "adapters.safetensors").read_bytes()) == (best.step == 8)


def test_the_test_loss_is_that_of_the_adapter_that_is_left(tiny_folder: Path, dialogs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    lines = dialogs.read_text().splitlines(keepends=True)
    for name, part in (("train", lines[:8]), ("valid", lines[8:10]), ("test", lines[10:])):
        (folder / f"{name}.jsonl").write_text("".join(part))
    settings = {**SHORT_RUN, "dropout": 0.0, "valid_every": 1, "learning_rate": 0.3, "clip": 0.0}
    result = train(tiny_folder, folder, tmp_path / "run", TrainSettings(**settings))
    assert result.best_step < 8
    # What is left, validated on the test data before a step of no size.
    start = {"start_from": str(tmp_path / "run"), "learning_rate": 0.0, "steps": 1}
    again = train(
        tiny_folder, folder / "train.jsonl", tmp_path / "again", TrainSettings(**{**settings, **start}),
        valid=folder / "test.jsonl",
    )  # fmt: skip
    assert result.test_loss == pytest.approx(again.valid_loss, rel=1e-5)


def test_patience_ends_a_run_that_gets_no_better(tiny_folder: Path, dialogs: Path, tmp_path: Path) -> None:
    settings = TrainSettings(
        **{**SHORT_RUN, "valid_share": 0.3, "valid_every": 1, "learning_rate": 0.0, "patience": 2, "steps": 20}
    )
    result = train(tiny_folder, dialogs, tmp_path / "run", settings)
    assert (result.ended, result.steps) == ("early", 3)


def test_accumulation_is_weighted_by_tokens(tiny_folder: Path, dialogs: Path, tmp_path: Path) -> None:
    heard = {}
    for size, accumulate in ((2, 1), (1, 2)):
        steps = Steps()
        changes = {"batch_size": size, "accumulate": accumulate, "steps": 3, "dropout": 0.0, "packing": False}
        settings = TrainSettings(**{**SHORT_RUN, **changes})
        train(tiny_folder, dialogs, tmp_path / f"run{size}", settings, callbacks=[steps])
        heard[size] = steps.steps

    # Whichever examples come together, an epoch's mean over tokens is the same for the untouched model.
    def mean(reports: list[StepReport]) -> float:
        return sum(r.loss * r.target_tokens for r in reports) / sum(r.target_tokens for r in reports)

    assert heard[1][0].target_tokens > 0
    assert mean(heard[1][:1]) == pytest.approx(mean(heard[2][:1]), rel=0.05)


def test_a_data_set_smaller_than_a_batch_works(tiny_folder: Path, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "one.jsonl", [{"text": "one line alone"}])
    result = train(tiny_folder, data, tmp_path / "run", TrainSettings(**{**SHORT_RUN, "batch_size": 8, "steps": 2}))
    assert result.steps == 2


def test_training_works_in_a_thread_of_an_application(tiny_folder: Path, dialogs: Path, tmp_path: Path) -> None:
    results: list[Any] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(train(tiny_folder, dialogs, tmp_path / "run", TrainSettings(**{**SHORT_RUN, "steps": 2})))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not errors
    assert results[0].steps == 2


def test_a_full_disk_leaves_the_earlier_state_intact(
    tiny_folder: Path, dialogs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = mx.save_safetensors, []

    def failing(path: str, tensors: Any, metadata: Any = None) -> None:
        calls.append(path)
        if len(calls) > 4:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(path, tensors, metadata)

    monkeypatch.setattr(mx, "save_safetensors", failing)
    with pytest.raises(TrainingError, match="No space left on device; what was saved before is intact"):
        train(tiny_folder, dialogs, tmp_path / "run", TrainSettings(**SHORT_RUN))
    monkeypatch.undo()
    assert not list((tmp_path / "run").glob(".*"))
    assert resume(tmp_path / "run").steps == 8
    train(tiny_folder, dialogs, tmp_path / "whole", TrainSettings(**SHORT_RUN))
    names = ("adapters.safetensors", "adapter_config.json")
    assert all((tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in names)


def test_a_disk_that_is_really_full_gives_one_line(tiny_folder: Path, dialogs: Path, tmp_path: Path) -> None:
    import resource

    code = (
        "import resource, signal, sys, json\n"
        "from llama3_mlx.finetune import train, TrainSettings\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "from llama3_mlx import Llama3MLXError\n"
        "try:\n    train(sys.argv[1], sys.argv[2], sys.argv[3], TrainSettings(**json.loads(sys.argv[4])))\n"
        "except Llama3MLXError as error:\n    print('one line:', error)\n"
    )
    assert resource
    command = [sys.executable, "-c", code, str(tiny_folder), str(dialogs), str(tmp_path / "run"), json.dumps(SHORT_RUN)]
    process = subprocess.run(command, capture_output=True, text=True)
    assert "one line: saving failed" in process.stdout, process.stderr
    assert not (tmp_path / "run" / "adapters.safetensors").exists()


@pytest.mark.parametrize("optimizer", ["adafactor", "lion", "muon", "sgd"])
def test_every_optimizer_goes_on_to_the_same_bytes(
    tiny_folder: Path, dialogs: Path, tmp_path: Path, optimizer: str
) -> None:
    settings = TrainSettings(**{**SHORT_RUN, "steps": 4, "optimizer": optimizer, "learning_rate": 1e-3})
    train(tiny_folder, dialogs, tmp_path / "whole", settings)
    event = threading.Event()
    train(tiny_folder, dialogs, tmp_path / "broken", settings, cancel=event, callbacks=[Cancelled(event, 2)])
    resume(tmp_path / "broken")
    one, two = (load_file(tmp_path / name / "resume.safetensors") for name in ("whole", "broken"))
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rank": 0}, "rank must be"),
        ({"targets": ("nose",)}, "no layer 'nose'"),
        ({"targets": ("lm_head",)}, "tied"),
        ({"layers": 5}, "the model has 2"),
        ({"rank_for": ("down_proj",)}, "NAME=RANK"),
        ({"rank_for": ("nose=3",)}, "no trained layer matches"),
        ({"modules_to_save": ("nose",), "targets": ("q_proj",)}, "matches 'nose'"),
        ({"memory": "much"}, "12GB"),
        ({"memory": "1MB"}, "needs"),
        ({"optimizer": "magic"}, "adamw"),
        ({"learning_rate": "fast"}, "must be a number"),
        ({"schedule": "zigzag"}, "cosine"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    tiny_folder: Path, dialogs: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(RequestError, match=words):
        train(tiny_folder, dialogs, tmp_path / "run", TrainSettings(**{**SHORT_RUN, **changes}))
    assert not (tmp_path / "run" / "adapters.safetensors").exists()


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("", "is empty"),
        ('{"text": "a"}\n{"text": \n', "line 2: not valid JSON"),
        ('{"messages": [{"role": "user", "content": "hi"}]}\n', "line 1: there is no assistant's turn"),
        ('{"messages": [{"role": "king", "content": "hi"}]}\n', "line 1: .*'king'"),
        ('{"text": "a"}\n{"prompt": "a", "completion": "b"}\n', "line 2: its layout is completion"),
        ('{"texts": "a"}\n', "line 1: it has texts"),
        ('{"text": 5}\n', "line 1: text must be text"),
        ("[1]\n", "line 1: an example must be an object"),
        (LONG_PROMPT + "\n", "beyond max_length 64"),
    ],
)  # fmt: skip
def test_bad_data_are_one_clear_error(tiny_folder: Path, tmp_path: Path, lines: str, words: str) -> None:
    (tmp_path / "train.jsonl").write_text(lines)
    with pytest.raises(DataError, match=words):
        train(tiny_folder, tmp_path / "train.jsonl", tmp_path / "run", TrainSettings(**SHORT_RUN))
    assert not (tmp_path / "run").exists()


def test_all_bad_lines_are_named_at_once(tiny_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"text": "a"}\nnothing\n{"text": "b"}\n[]\n')
    with pytest.raises(DataError) as caught:
        train(tiny_folder, path, tmp_path / "run", TrainSettings(**SHORT_RUN))
    assert "2 examples can't be used" in str(caught.value)
    assert "line 2" in str(caught.value)
    assert "line 4" in str(caught.value)


def test_lines_that_are_bad_in_different_ways_come_together_and_in_order(tiny_folder: Path, tmp_path: Path) -> None:
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    lines = [json.dumps(good) for _ in range(11)]
    lines[1] = "not valid JSON"
    lines[3] = json.dumps({"messages": [{"role": "king", "content": "a"}, *good["messages"][1:]]})
    lines[4] = json.dumps({"prompt": "a", "completion": "b"})
    lines[5] = json.dumps({"messages": "a"})
    lines[9] = json.dumps({"messages": good["messages"][:1]})
    (tmp_path / "train.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "valid.jsonl").write_text("[]\n")
    with pytest.raises(DataError) as caught:
        train(tiny_folder, tmp_path, tmp_path / "run", TrainSettings(**SHORT_RUN))
    told = str(caught.value).splitlines()
    places = [line.removeprefix(f"{tmp_path}/").partition(":")[0] for line in told[1:]]
    assert told[0] == "6 examples can't be used (--skip-bad: without them):"
    assert places == [f"train.jsonl, line {n}" for n in (2, 4, 5, 6, 10)] + ["valid.jsonl, line 1"]


def test_whole_layers_are_trained_saved_and_loaded(tiny_folder: Path, dialogs: Path, tmp_path: Path) -> None:
    from llama3_mlx.adapters.adapter_set import load_adapter
    from llama3_mlx.checkpoint.loading import load_model

    settings = TrainSettings(**{**SHORT_RUN, "modules_to_save": ("layers.1.mlp", "model.norm"), "targets": ("q_proj",)})
    train(tiny_folder, dialogs, tmp_path / "run", settings)
    saved = load_file(tmp_path / "run" / "adapters.safetensors")
    assert {"model.layers.1.mlp.up_proj.weight", "model.norm.weight", "model.layers.1.self_attn.q_proj.lora_a"} <= set(
        saved
    )
    model = load_model(tiny_folder)
    tokens = mx.array([[128000, 5, 9]])
    before = model(tokens)
    load_adapter(model, tmp_path / "run")
    assert mx.abs(model(tokens) - before).max().item() != 0
    assert mx.allclose(model.model.norm.replaced.weight, mx.array(saved["model.norm.weight"])).item()


def test_training_on_from_an_adapter_starts_with_its_loss(tiny_folder: Path, dialogs: Path, tmp_path: Path) -> None:
    settings = {**SHORT_RUN, "dropout": 0.0, "steps": 20}
    first, second = Steps(), Steps()
    train(tiny_folder, dialogs, tmp_path / "one", TrainSettings(**settings), callbacks=[first])
    train(
        tiny_folder, dialogs, tmp_path / "two",
        TrainSettings(**{**settings, "start_from": str(tmp_path / "one"), "steps": 1}), callbacks=[second],
    )  # fmt: skip
    assert second.steps[0].loss < first.steps[0].loss - 0.5
    # Ranks of their own are filled up to the largest in the file.
    ranks = {"rank_for": ("down_proj=1",)}
    train(tiny_folder, dialogs, tmp_path / "ranks", TrainSettings(**{**settings, **ranks, "steps": 4}))
    third = Steps()
    train(
        tiny_folder, dialogs, tmp_path / "four",
        TrainSettings(
            **{**settings, **ranks, "start_from": str(tmp_path / "ranks"), "steps": 1}
        ),
        callbacks=[third],
    )  # fmt: skip
    assert third.steps[0].loss < first.steps[0].loss
    with pytest.raises(Llama3MLXError, match="rank 2"):
        train(
            tiny_folder, dialogs, tmp_path / "three",
            TrainSettings(**{**settings, "start_from": str(tmp_path / "one"), "rank": 3}),
        )  # fmt: skip


PAIRS = """
import json, sys
from llama3_mlx.finetune import dpo
model, data, out, settings = sys.argv[1:]
dpo(model, data, out, **json.loads(settings))
"""


def in_two_processes(script: Path, *arguments: str) -> None:
    """Run a script as mlx.launch does, on this machine."""
    hosts = script.parent / "hosts.json"
    ports = [str(20000 + os.getpid() % 20000 + n) for n in range(2)]
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in ports]))
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), *arguments],
            env={**os.environ, "MLX_RANK": str(rank), "MLX_HOSTFILE": str(hosts)},
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]


def same_curves(one: Path, two: Path) -> None:
    """Hold the losses and numbers of tokens of two runs together."""
    keys = ("step", "loss", "tokens", "target_tokens")
    curves = [
        [
            [line.get(key, 0) for key in keys]
            for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        ]
        for folder in (one, two)
    ]
    for first, second in zip(*curves, strict=True):
        assert second == [pytest.approx(value, rel=1e-4) for value in first]


def test_two_processes_with_half_the_batch_learn_as_one(tiny_folder: Path, dialogs: Path, tmp_path: Path) -> None:
    settings = {**SHORT_RUN, "batch_size": 2, "dropout": 0.0, "steps": 4, "packing": False}
    train(tiny_folder, dialogs, tmp_path / "one", TrainSettings(**settings))
    (tmp_path / "run.py").write_text(RUN)
    in_two_processes(
        tmp_path / "run.py", str(tiny_folder), str(dialogs), str(tmp_path / "two"), json.dumps(settings)
    )  # fmt: skip
    same_curves(tmp_path / "one", tmp_path / "two")


def test_a_process_without_a_share_of_a_batch_changes_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    """Batches of one pair leave the second process none."""
    data = write_lines(
        tmp_path / "pairs.jsonl", [{"prompt": f"{n}?", "chosen": f"{n}", "rejected": f"{n + 1}!"} for n in range(5)]
    )
    (tmp_path / "run.py").write_text(PAIRS)
    settings = {**SHORT_RUN, "dropout": 0.0, "steps": 2, "valid_share": 0.4, "valid_every": 2}
    dpo(tiny_folder, data, tmp_path / "one", **settings)
    in_two_processes(tmp_path / "run.py", str(tiny_folder), str(data), str(tmp_path / "two"), json.dumps(settings))
    same_curves(tmp_path / "one", tmp_path / "two")


def test_who_stops_before_the_first_step_waits_for_no_sample_answers(
    tiny_folder: Path, dialogs: Path, tmp_path: Path
) -> None:
    """The reference is a run that nobody stops: resumed, the other one has its answers from before training."""
    settings = TrainSettings(**{**SHORT_RUN, "steps": 2, "samples": 1, "sample_tokens": 4})
    train(tiny_folder, dialogs, tmp_path / "whole", settings)
    event = threading.Event()
    event.set()
    stopped = train(tiny_folder, dialogs, tmp_path / "stopped", settings, cancel=event)
    assert (stopped.ended, stopped.steps) == ("cancelled", 0)
    assert not (tmp_path / "stopped" / "before.json").exists()
    resume(tmp_path / "stopped")
    whole, resumed = (json.loads((tmp_path / name / "before.json").read_text()) for name in ("whole", "stopped"))
    assert resumed == whole
    assert any(whole)
