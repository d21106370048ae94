"""What only a GPU takes, switched on: whole runs of every objective, compiled; equal to those without compiling."""

import json
import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from llama3_mlx import Llama
from llama3_mlx.checkpoint.loading import load_model
from llama3_mlx.convert import convert
from llama3_mlx.finetune import dpo, grpo, kto, orpo, train
from llama3_mlx.finetune.training.job import TrainResult

from ..support.finetune_fixtures import write_lines

SHORT: dict[str, Any] = {
    "rank": 2, "steps": 2, "learning_rate": 1e-2, "max_length": 96, "batch_size": 2, "samples": 0, "report": False,
    "save_every": 1, "valid_share": 0.3, "valid_every": 1, "dtype": "float32",
}  # fmt: skip
DIALOGS = [
    {"messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": f"{n} {n * 7}"}]}
    for n in range(8)
]
PAIRS = [{"prompt": f"{n}?", "chosen": f"{n}", "rejected": f"{n + 1}!"} for n in range(6)]
LABELED = [{"prompt": f"{n}?", "completion": f"{n}", "label": n % 2 == 0} for n in range(6)]
PROMPTS = [{"prompt": f"{n}?"} for n in range(4)]
DATA: dict[str, list[Any]] = {"train": DIALOGS, "dpo": PAIRS, "orpo": PAIRS, "kto": LABELED, "grpo": PROMPTS}
STARTS: dict[str, Any] = {"train": train, "dpo": dpo, "orpo": orpo, "kto": kto}


def losses(result: TrainResult) -> list[float]:
    lines = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines]


def run(kind: str, model: Path, out: Path, **changes: Any) -> TrainResult:
    """A short run of an objective; it ends with a test of what it left."""
    settings = {**SHORT, **changes}
    data = write_lines(out.parent / f"{kind}.jsonl", DATA[kind])
    if kind == "grpo":
        rewards = out.parent / "r.py"
        rewards.write_text(
            "def ones(completions, **_):\n    return [text.count('e') + len(text) for text in completions]\n"
        )
        more = {"rewards": (f"{rewards}:ones",), "group_size": 3, "answer_tokens": 4}
        return grpo(model, data, out, **{**settings, **more})
    return STARTS[kind](model, data, out, **settings)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("train", {}),
        ("train", {"dropout": 0.1, "accumulate": 2}),
        ("train", {"dropout": 0.1, "checkpointing": "light"}),
        ("train", {"dropout": 0.1, "checkpointing": "full", "packing": False}),
        ("train", {"dora": True, "checkpointing": "none"}),
        ("train", {"modules_to_save": ("embed_tokens", "model.norm"), "targets": ("q_proj",)}),
        ("dpo", {}),
        ("dpo", {"dropout": 0.1, "accumulate": 2, "checkpointing": "full"}),
        ("dpo", {"loss": "ipo", "modules_to_save": ("embed_tokens",), "targets": ("v_proj",)}),
        ("orpo", {"targets": ("embed_tokens", "q_proj")}),
        ("kto", {"targets": ("embed_tokens", "q_proj")}),
        ("grpo", {"modules_to_save": ("embed_tokens",), "targets": ("q_proj",)}),
        ("grpo", {"beta": 0.1, "dropout": 0.1}),
    ],
)
def test_a_compiled_run_has_the_losses_of_one_that_is_not(
    kind: str, changes: dict[str, Any], small_chat: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    expected = losses(run(kind, small_chat, tmp_path / "cpu", **changes))
    request.getfixturevalue("gpu_branches")
    found = losses(run(kind, small_chat, tmp_path / "gpu", **changes))
    assert len(found) == 4
    # Dropout's masks depend on the length of rows, which the two choose differently.
    assert found == pytest.approx(expected, rel=0.2 if "dropout" in changes else 2e-3)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("train", {"dtype": "float16"}),
        ("train", {"dtype": "bfloat16", "dora": True}),
        ("dpo", {"dtype": "bfloat16"}),
        ("kto", {"dtype": "float16"}),
    ],
)
def test_half_precision_has_the_losses_of_the_cpu(
    kind: str, changes: dict[str, Any], small_chat: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    expected = losses(run(kind, small_chat, tmp_path / "cpu", **changes))
    request.getfixturevalue("gpu_branches")
    result = run(kind, small_chat, tmp_path / "gpu", **changes)
    found = losses(result)
    assert len(found) == 4
    assert all(map(math.isfinite, found))
    assert found == pytest.approx(expected, rel=1e-2)
    with Llama.load(small_chat, adapter=result.folder, dtype=changes["dtype"]) as llama:
        assert llama.generate("ab", max_tokens=3, ignore_eos=True).token_ids


def test_a_quantized_model_is_trained_on_its_packed_matrices(
    small_chat: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    convert(small_chat, tmp_path / "small-4bit", bits=4, group_size=32, quality="rtn")
    expected = losses(run("train", tmp_path / "small-4bit", tmp_path / "cpu"))
    request.getfixturevalue("gpu_branches")
    assert losses(run("train", tmp_path / "small-4bit", tmp_path / "gpu")) == pytest.approx(expected, rel=2e-3)


@pytest.mark.usefixtures("gpu_branches")
def test_a_model_is_loaded_and_answers_in_its_stored_dtype(small_chat: Path, tmp_path: Path) -> None:
    convert(small_chat, tmp_path / "small-4bit", bits=4, group_size=32, quality="rtn", dtype="float16")
    assert load_model(tmp_path / "small-4bit").model.norm.weight.dtype == mx.float16
    with Llama.load(tmp_path / "small-4bit") as llama:
        answers = llama.generate_batch(["ab", "abc", "a b c"], max_tokens=4, ignore_eos=True)
    assert [len(answer.token_ids) for answer in answers] == [4, 4, 4]
