"""The engine over several processes answers as it does in one: continuous batching, structure, prefixes, cancels.

Perplexity and scores of continuations are those of one process, too.
"""

from pathlib import Path

import pytest

from .conftest import Ask

# The engine's tests that take a second or less, but those of two models at once.
ENGINE_TESTS = {
    "tensor": "batch_keeps or reuses_it or reused_by or shared_with or cancelled or dropped or time_limit "
    "or own_sequence",
    "tensor, head": "samples_share or logprobs_are_those or mixed_batch",
    "pipeline": "different_settings or reuses_it or priority or form_goes",
}
SPLITS = ("tensor", "pipeline")


@pytest.mark.parametrize("split", [*SPLITS, "tensor, head"])
def test_mixed_requests_with_cancels_answer_as_in_one_process(split: str, small_chat: Path, ask: Ask) -> None:
    count = 300 if split == "tensor" else 60
    found = ask(2, "engine_worker", "compare", split=split, folder=str(small_chat), count=count)
    assert not found["differing"]
    assert found["cached"][1] > 256
    for ours, expected in found["measured"]:
        assert ours == pytest.approx(expected, rel=1e-5, abs=1e-4)


@pytest.mark.parametrize(("size", "split"), [(3, "tensor"), (2, "pipeline")])
def test_smollm2_says_the_same(size: int, split: str, smollm2_folder: Path, ask: Ask) -> None:
    found = ask(size, "engine_worker", "texts", split=split, folder=str(smollm2_folder))
    assert len(set(found)) == 1
    assert "Paris" in found[0]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("drafter", ["head", "model"])
def test_drafts_leave_the_text_as_it_is(split: str, drafter: str, ask: Ask) -> None:
    """A head reads hidden states wherever they are; a draft model lies on rank 0 alone."""
    found = ask(2, "engine_worker", "drafted", split=split, drafter=drafter)
    assert found["all"] == found["one"]
    assert f"draft {drafter}" in found["sources"]
    assert found["all_passes"] < 0.6 * found["one_passes"]


@pytest.mark.parametrize("split", ENGINE_TESTS)
def test_the_engines_own_tests_pass_over_two_processes(split: str, ask: Ask) -> None:
    files = ["tests/engine/test_engine.py", "tests/engine/test_engine_structured.py"]
    code, printed = ask(2, "engine_worker", "run_tests", split=split, files=files, expression=ENGINE_TESTS[split])
    assert code == 0, printed
