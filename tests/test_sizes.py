"""Sizes as people write them and as they are shown."""

import pytest

from llama3_mlx.finetune.training.memory_plan import read_bytes
from llama3_mlx.units import count_text, parameters_text, size_text


@pytest.mark.parametrize(("text", "n_bytes"), [("4.1MB", 4_100_000), ("12GB", 12_000_000_000), ("0.3 g", 300_000_000)])
def test_a_size_is_rounded_to_whole_bytes(text: str, n_bytes: int) -> None:
    assert read_bytes(text) == n_bytes


@pytest.mark.parametrize(
    ("n_bytes", "text"), [(4_200, "4.20 kB"), (3_100_000, "3.10 MB"), (120_000_000, "0.12 GB"), (5e9, "5.00 GB")]
)
def test_no_size_is_shown_as_nothing(n_bytes: float, text: str) -> None:
    assert size_text(n_bytes) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 tokens"), (1, "1 token"), (2048, "2,048 tokens")])
def test_a_count_agrees_with_its_noun(count: int, text: str) -> None:
    assert count_text(count, "token") == text


@pytest.mark.parametrize(("count", "text"), [(8_030_261_248, "8.03B"), (134_515_008, "134.52M"), (82_240, "82.24K")])
def test_no_model_is_shown_with_no_parameters(count: int, text: str) -> None:
    assert parameters_text(count) == text
