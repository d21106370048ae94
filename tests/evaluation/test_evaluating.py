"""Benchmarks from the command line and from Python, on local tasks; figures are those of the harness itself."""

import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

import lm_eval
from lm_eval.tasks import TaskManager

from llama3_mlx import Llama
from llama3_mlx.cli import main
from llama3_mlx.errors import RequestError
from llama3_mlx.evaluation import EvalOptions, Evaluation, evaluate, evaluating, write_evaluation
from llama3_mlx.evaluation.benchmarks import PRESETS, Benchmark, benchmarks_of
from llama3_mlx.evaluation.figures import Figure, Outcome, differences, read_figures, read_samples
from llama3_mlx.evaluation.language_model import HarnessModel
from llama3_mlx.evaluation.report import compared

from ..support.small_chat import CONFIG, save_small_chat
from ..support.tiny_model import CONFIG as TINY
from ..support.tiny_model import tiny_weights
from .harness_tasks import save_tasks

GROUPS = {
    "inner": {"task": ["choices", "letters"], "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}]},
    "outer": {"task": ["inner", "contexts"], "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}]},
}
# `python -m llama3_mlx.lm_eval` without what takes long beside: the index of the harness' own tasks, programs that tell
# of the machine.
PROGRAM = """
import runpy
import lm_eval.evaluator
from lm_eval.tasks._index import TaskIndex
build = TaskIndex.build
TaskIndex.build = staticmethod(lambda paths: build(paths[1:]))
lm_eval.evaluator.add_env_info = lambda results: None
runpy.run_module("llama3_mlx.lm_eval", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def tasks_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Tasks of every kind and two groups, one in the other."""
    import datasets

    folder = save_tasks(tmp_path_factory.mktemp("tasks"))
    for name, group in GROUPS.items():
        (folder / f"{name}.yaml").write_text(json.dumps({"group": name, **group}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield folder


@pytest.fixture(scope="module")
def other_chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    weights = tiny_weights({**TINY, **CONFIG}, seed=5)
    return save_small_chat(tmp_path_factory.mktemp("chat") / "other", weights=weights)


def test_figures_of_groups_and_their_tasks_are_the_harness_own(small_chat: Path, tasks_folder: Path) -> None:
    with Llama.load(small_chat) as llama:
        found = evaluate(llama, ["outer", "written"], EvalOptions(tasks_folder=tasks_folder, limit=4))
        results = lm_eval.simple_evaluate(
            model=HarnessModel(llama),
            tasks=["outer"],
            task_manager=TaskManager(include_path=str(tasks_folder), include_defaults=False),
            limit=4,
        )
    outer, written = found.outcomes
    assert [(each.task, each.metric, each.depth) for each in outer.figures] == [
        ("outer", "acc,none", 0),
        ("inner", "acc,none", 1),
        ("choices", "acc,none", 2),
        ("choices", "acc_norm,none", 2),
        ("letters", "acc,none", 2),
        ("contexts", "acc,none", 1),
    ]
    for figure in outer.figures:
        assert figure.value == results["results"][figure.task][figure.metric]
    assert outer.main is not None
    assert (outer.main.task, outer.main.n, outer.main.value) == ("outer", 12, results["results"]["outer"]["acc,none"])
    assert written.main is not None and written.main.shots == 1


def test_the_command_prints_a_table_and_writes_a_report(
    small_chat: Path, other_chat: Path, tasks_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--tasks", "outer,texts", "--tasks-folder", str(tasks_folder), "--compare", str(other_chat)]
    assert main(["eval", str(small_chat), *flags, "--out", str(tmp_path / "out"), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert [each["title"] for each in values["benchmarks"]] == ["outer", "texts"]
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == values
    assert page.count("<rect") == 2
    for each in values["differences"]:
        mine, theirs = (
            next(f["value"] for b in side["benchmarks"] for f in b["figures"] if same(f, each))
            for side in (values, values["compared"])
        )
        assert each["value"] == pytest.approx(mine - theirs)
    assert main(["eval", str(small_chat), *flags]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^  outer +outer +0 +acc,none +15 +\d+\.\d\d ± \d+\.\d\d$", out, re.MULTILINE)
    assert re.search(r"^    inner +acc,none +10 ", out, re.MULTILINE)
    assert "small less other" in out


def same(figure: dict[str, Any], other: dict[str, Any]) -> bool:
    return (figure["task"], figure["metric"]) == (other["task"], other["metric"])


def outcome(values: list[list[float]], names: tuple[str, ...] = ("a", "b")) -> Outcome:
    """Two tasks in a group, with what each question gave."""
    each = [sum(row) / len(row) for row in values]
    whole = sum(map(sum, values)) / sum(map(len, values))
    leaves = [Figure(name, "acc,none", m, None, len(v), 0, 1) for name, m, v in zip(names, each, values, strict=True)]
    samples = {(name, "acc,none"): dict(enumerate(row)) for name, row in zip(names, values, strict=True)}
    benchmark = Benchmark(title="g", task="g", metric="acc,none")
    group = Figure("g", "acc,none", whole, None, sum(map(len, values)), 0, 0)
    return Outcome(benchmark, [group, *leaves], samples)


def test_differences_have_the_error_of_paired_questions() -> None:
    mine, theirs = [[1.0, 0, 1, 1], [0.0, 1]], [[0.0, 0, 1, 0], [0.0, 0]]
    group, a, b = differences(outcome(mine), outcome(theirs))
    assert (a.value, b.value) == (0.5, 0.5)
    assert group.value == pytest.approx(3 / 6)
    # By hand: differences 1 0 0 1 and 0 1, each task's standard error, then weighted by 4/6 and 2/6.
    error_a, error_b = math.sqrt(1 / 3 / 4), math.sqrt(0.5 / 2)
    assert [a.error, b.error] == pytest.approx([error_a, error_b])
    assert group.error == pytest.approx(math.hypot(4 / 6 * error_a, 2 / 6 * error_b))


def test_a_macro_average_counts_each_task_the_same() -> None:
    found = outcome([[1.0, 0, 1, 1], [0.0, 1]])
    macro = Outcome(Benchmark(title="g", task="g", metric="acc,none", macro=True), found.figures, found.samples)
    assert macro.main is not None and found.main is not None
    assert macro.main.value == pytest.approx((0.75 + 0.5) / 2)
    assert found.main.value == pytest.approx(4 / 6)


def test_presets_are_tasks_of_the_installed_harness() -> None:
    known = set(evaluating._task_manager(None, frozenset()).all_tasks)
    assert {each.task for preset in PRESETS.values() for each in preset} - known == {None}
    assert [each.title for each in PRESETS["llama3-instruct"]] == ["MMLU", "GPQA main", "HumanEval", "GSM8K", "MATH"]
    asked = benchmarks_of(["llama3-instruct", " boolq"], EvalOptions(shots=2, chat=False))
    assert {(each.shots, each.chat) for each in asked} == {(2, False)}


def test_a_preset_says_what_it_cannot_run_and_why(
    small_chat: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    short = tuple(each for each in PRESETS["llama3-base"] if each.title in ("QuAC", "BoolQ"))
    monkeypatch.setitem(PRESETS, "llama3-base", (*short, PRESETS["llama3-instruct"][2]))
    assert main(["eval", str(small_chat), "--tasks", "llama3-base"]) == 2
    out, error = capsys.readouterr()
    (line,) = [line for line in error.splitlines() if line.startswith("error: ")]
    assert line.startswith(
        "error: 2 of 3 benchmarks didn't run: BoolQ: its data is neither on this machine nor could it"
    )
    assert "aps/super_glue" in line
    assert "HumanEval: it runs the programs that the model writes" in line
    assert re.search(r"QuAC +— +44\.4 +51\.1 +not run: lm-evaluation-harness has no such task", out)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--tasks", "boolqq"], "there is no task 'boolqq'; did you mean boolq"),
        (["--tasks", ","], "name tasks of lm-evaluation-harness, or llama3-base or llama3-instruct"),
        (["--tasks", "boolq", "--limit", "0"], "limit must be at least 1"),
        (["--tasks", "boolq", "--tasks-folder", "nowhere"], "nowhere with tasks"),
        (["--tasks", "boolq", "--data", "nowhere"], "there is no folder nowhere with data sets"),
        (["--tasks", "boolq", "--max-length", "999999999"], "max_length must be from 2"),
    ],
)
def test_bad_input_is_one_line(
    small_chat: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    assert main(["eval", str(small_chat), *flags]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_data_sets_are_read_from_a_folder_under_their_names(
    small_chat: Path, tasks_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A copy as `hf download --repo-type dataset --local-dir` makes it: here a split as JSONL."""
    copy, own = tmp_path / "data" / "somebody" / "questions", tmp_path / "tasks"
    copy.mkdir(parents=True)
    own.mkdir()
    (copy / "test.jsonl").write_text((tasks_folder / "test.jsonl").read_text())
    task = json.loads((tasks_folder / "letters.yaml").read_text())
    del task["dataset_kwargs"]
    (own / "copied.yaml").write_text(json.dumps({**task, "task": "copied", "dataset_path": "somebody/questions"}))
    flags = ["--tasks", "copied", "--tasks-folder", str(own)]
    assert main(["eval", str(small_chat), *flags, "--data", str(tmp_path / "data"), "--json"]) == 0
    (given,) = json.loads(capsys.readouterr().out)["benchmarks"]
    with Llama.load(small_chat) as llama:
        main_figure = evaluate(llama, ["letters"], EvalOptions(tasks_folder=tasks_folder)).outcomes[0].main
    assert main_figure is not None
    assert given["result"]["value"] == main_figure.value
    assert main(["eval", str(small_chat), *flags]) == 2
    assert "somebody/questions" in capsys.readouterr().err


def test_a_base_model_is_not_asked_in_dialogs(
    small_chat: Path, tasks_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Llama.load(small_chat) as llama:
        monkeypatch.setattr(llama, "dialog", None)
        found = evaluate(llama, ["letters"], EvalOptions(tasks_folder=tasks_folder, chat=True))
    assert found.outcomes[0].problem is not None
    assert "without a chat template: evaluate it with --no-chat" in found.outcomes[0].problem


def test_the_harness_own_command_line_knows_the_model(small_chat: Path, tasks_folder: Path, tmp_path: Path) -> None:
    words = ["run", "--model", "llama3-mlx", "--model_args", f"pretrained={small_chat}", "--tasks", "letters"]
    more = ["--include_path", str(tasks_folder), "--output_path", str(tmp_path), "--log_samples"]
    run = subprocess.run([sys.executable, "-c", PROGRAM, *words, *more], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    (results,) = tmp_path.rglob("results_*.json")
    given = json.loads(results.read_text())
    with Llama.load(small_chat) as llama:
        found = evaluate(llama, ["letters"], EvalOptions(tasks_folder=tasks_folder))
    assert found.outcomes[0].main is not None
    assert given["results"]["letters"]["acc,none"] == found.outcomes[0].main.value


def test_an_evaluation_without_figures_has_a_report(tmp_path: Path) -> None:
    empty = Evaluation("model", [Outcome(PRESETS["llama3-base"][0], problem="no <data>")])
    page = write_evaluation(tmp_path / "out", empty).read_text()
    assert "no &lt;data&gt;" in page
    assert compared(empty, empty) == []


def test_results_of_the_harness_that_are_no_numbers_are_left_out() -> None:
    results: dict[str, Any] = {"results": {"x": {"alias": "x", "acc,none": 0.5, "acc_stderr,none": "N/A"}}}
    assert [(each.metric, each.error) for each in read_figures(results)] == [("acc,none", None)]
    assert read_samples({"samples": {"x": [{"metrics": ["m"], "m": (1, 2), "filter": "none", "doc_id": 0}]}}) == {}


def test_no_task_at_all_is_refused() -> None:
    with pytest.raises(RequestError, match="name tasks"):
        benchmarks_of([" "], EvalOptions())
