"""The harness' model: its own `hf` model of the same weights in float32 is the reference, on tasks of every kind."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from llama3_mlx.evaluation.language_model import HarnessModel

from ..support.small_chat import save_small_chat
from .harness_tasks import TASKS, save_tasks


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TaskManager]:
    with pytest.MonkeyPatch.context() as patch:
        import datasets

        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield TaskManager(include_path=str(save_tasks(tmp_path_factory.mktemp("tasks"))), include_defaults=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose template keeps to one date."""
    folder = save_small_chat(tmp_path_factory.mktemp("harness") / "small", max_position_embeddings=512)
    path = folder / "tokenizer_config.json"
    path.write_text(path.read_text().replace("strftime_now('%d %b %Y')", "'26 Jul 2024'"))
    return folder


@pytest.fixture(scope="module")
def ours(folder: Path) -> Iterator[HarnessModel]:
    model = HarnessModel(str(folder))
    yield model
    model.llama.close()


@pytest.fixture(scope="module")
def reference(folder: Path) -> HFLM:
    return HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=4)


def evaluated(model: Any, tasks: TaskManager, names: list[str], **settings: Any) -> Any:
    return lm_eval.simple_evaluate(model=model, tasks=names, task_manager=tasks, bootstrap_iters=0, **settings)


def assert_same(ours: Any, theirs: Any) -> None:
    for name, figures in theirs["results"].items():
        numbers = {key: value for key, value in figures.items() if isinstance(value, float)}
        assert numbers
        for key, value in numbers.items():
            assert ours["results"][name][key] == pytest.approx(value, rel=1e-4), (name, key)
    for name, samples in theirs["samples"].items():
        for one, other in zip(ours["samples"][name], samples, strict=True):
            assert one["arguments"] == other["arguments"]
            for (mine, *more), (his, *rest) in zip(flat(one["resps"]), flat(other["resps"]), strict=True):
                assert mine == (pytest.approx(his, abs=1e-4) if isinstance(his, float) else his)
                assert more == rest


def flat(responses: list[list[Any]]) -> list[tuple[Any, ...]]:
    """Each response as a tuple: (log-likelihood, greedy), (log-likelihood,) or (text,)."""
    return [tuple(each) if isinstance(each, tuple | list) else (each,) for row in responses for each in row]


def test_every_kind_of_task_gives_what_the_harness_own_model_gives(
    ours: HarnessModel, reference: HFLM, tasks: TaskManager
) -> None:
    names = list(TASKS)
    assert_same(evaluated(ours, tasks, names), evaluated(reference, tasks, names))


@pytest.mark.parametrize("multiturn", [True, False])
def test_dialogs_give_what_the_harness_own_model_gives(
    ours: HarnessModel, reference: HFLM, tasks: TaskManager, multiturn: bool
) -> None:
    names = ["choices", "written", "continued"]
    settings = {"apply_chat_template": True, "fewshot_as_multiturn": multiturn, "system_instruction": "Be brief."}
    found = evaluated(ours, tasks, names, **settings)
    assert_same(found, evaluated(reference, tasks, names, **settings))
    (prompt, *_), *_ = found["samples"]["continued"][0]["arguments"]
    assert prompt.startswith("<|begin_of_text|>")
    assert prompt.endswith("assistant<|end_header_id|>\n\nThe best answer is")


def test_long_contexts_are_cut_from_the_left_as_in_the_harness_own_model(
    folder: Path, ours: HarnessModel, tasks: TaskManager
) -> None:
    short = HarnessModel(ours.llama, max_length=40)
    reference = HFLM(pretrained=str(folder), dtype="float32", device="cpu", max_length=40, truncation=True)
    names = ["choices", "texts", "written"]
    assert_same(evaluated(short, tasks, names), evaluated(reference, tasks, names))
