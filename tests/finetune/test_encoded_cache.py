"""A large set is encoded once for all that read it; whatever its ids depend on makes another set."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama3_mlx.finetune.data.encoding import Example, ExampleEncoder, encode_all
from llama3_mlx.finetune.data.formats import read_samples
from llama3_mlx.finetune.data.records import read_records
from llama3_mlx.finetune.data.samples import Sample
from llama3_mlx.finetune.settings import TrainSettings
from llama3_mlx.finetune.sft import make_encoder
from llama3_mlx.finetune.training.job import load_text_side


@pytest.fixture
def read(small_chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[list[Example], int]]:
    """Read a set with these settings, and how many of its samples had to be encoded."""
    monkeypatch.setenv("LLAMA3_MLX_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LLAMA3_MLX_CACHE_GB", "1")
    monkeypatch.setattr("llama3_mlx.finetune.data.encoding.LEAST_SAMPLES", 10)
    encoded: list[Any] = []
    original = ExampleEncoder.examples

    def counted(self: ExampleEncoder, sample: Any) -> list[Example]:
        encoded.append(sample)
        return original(self, sample)

    monkeypatch.setattr(ExampleEncoder, "examples", counted)

    def result(words: str = "Say", count: int = 12, **settings: Any) -> tuple[list[Example], int]:
        lines = [
            {"messages": [{"role": "user", "content": f"{words} {n}."}, {"role": "assistant", "content": f"{n}"}]}
            for n in range(count)
        ]
        path = tmp_path / "data.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        encoded.clear()
        samples = read_samples(read_records([str(path)], "train", []), "auto")
        encoder = make_encoder(load_text_side(str(small_chat)), TrainSettings(**settings))
        return encode_all(encoder, samples, split_texts=True), len(encoded)

    return result


def same(a: list[Example], b: list[Example]) -> bool:
    return len(a) == len(b) and all(
        np.array_equal(x.ids, y.ids)
        and np.array_equal(x.is_target, y.is_target)
        and (x.ids.dtype, x.is_target.dtype, x.where, x.truncated)
        == (y.ids.dtype, y.is_target.dtype, y.where, y.truncated)
        for x, y in zip(a, b, strict=True)
    )


def test_a_set_is_encoded_once(read: Callable[..., tuple[list[Example], int]]) -> None:
    first, encoded = read()
    again, none = read()
    assert (encoded, none) == (12, 0)
    assert same(first, again)


@pytest.mark.parametrize(
    "change", [{"words": "Tell"}, {"count": 13}, {"max_length": 20}, {"train_on": "all"}, {"parse_special": True}]
)
def test_what_changes_the_ids_makes_another_set(
    change: dict[str, Any], read: Callable[..., tuple[list[Example], int]]
) -> None:
    read()
    assert read(**change)[1] == change.get("count", 12)


def test_a_broken_file_is_made_again(read: Callable[..., tuple[list[Example], int]], tmp_path: Path) -> None:
    first, _ = read()
    (path,) = (tmp_path / "home" / "cache" / "encoded").glob("*.npz")
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"no zip"):
        path.write_bytes(content)
        again, encoded = read()
        assert encoded == 12
        assert same(first, again)


def test_progress_is_told(small_chat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llama3_mlx.finetune.data.encoding._PROGRESS_EVERY", 2)
    told: list[tuple[int, int]] = []
    encoder = make_encoder(load_text_side(str(small_chat)), TrainSettings())
    encoder.progress = lambda *counts: told.append(counts)
    encode_all(encoder, [Sample(f"{n}", completion="a") for n in range(5)])
    assert told == [(0, 5), (2, 5), (4, 5)]
