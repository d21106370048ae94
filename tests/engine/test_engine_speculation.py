"""Speculation in the engine: the text is that of plain decoding, or drawn from the same distribution."""

from typing import Any

import numpy as np
import pytest

from llama3_mlx import CacheOptions, Llama, RequestError
from llama3_mlx.model.transformer import LlamaForCausalLM

from ..support.byte_llama import SCOPE, byte_llama, byte_model, calm
from ..support.drafted_distribution import check_distribution
from ..support.eagle import cheap_drafts


@pytest.fixture(scope=SCOPE)
def drafting() -> Any:
    """A model and one that is nearly the same: its drafts are often right, and sometimes not."""
    with byte_llama(small(), draft=calm(small(), 0.95), max_sequences=16) as llama:
        yield cheap_drafts(llama)


def small() -> LlamaForCausalLM:
    return calm(byte_model(num_hidden_layers=1, hidden_size=32))


def prompts(n: int) -> list[list[int]]:
    """Prompts that repeat themselves, as what is to be edited or summarized does."""
    rng = np.random.default_rng(0)
    parts = [[int(token) for token in rng.integers(0, 256, int(rng.integers(5, 40)))] for _ in range(n)]
    return [part + part[: len(part) // 2] + part for part in parts]


def test_looked_up_drafts_leave_50_texts_as_they_are() -> None:
    with byte_llama(calm(byte_model(), 0.05)) as llama:
        cheap_drafts(llama)
        settings: dict[str, Any] = {"max_tokens": 40, "temperature": 0, "ignore_eos": True}
        plain = llama.generate_batch(prompts(50), speculate=False, **settings)
        drafted = [llama.generate(prompt, speculate=True, **settings) for prompt in prompts(50)]
        batched = llama.generate_batch(prompts(50), **settings)
        assert [each.token_ids for each in drafted] == [each.token_ids for each in plain]
        assert [each.token_ids for each in batched] == [each.token_ids for each in plain]
        assert all(each.passes >= 39 for each in plain)
        assert sum(each.passes for each in drafted) < 0.8 * sum(each.passes for each in plain)


def test_looked_up_drafts_keep_seed_penalties_and_logprobs() -> None:
    with byte_llama(calm(byte_model())) as llama:
        for at, prompt in enumerate(prompts(10)):
            settings: dict[str, Any] = {"max_tokens": 40, "temperature": 0.2, "seed": at, "ignore_eos": True}
            settings |= {"frequency_penalty": 0.02, "logprobs": 2, "repetition_penalty": 1.01}
            plain = llama.generate(prompt, speculate=False, **settings)
            drafted = llama.generate(prompt, speculate=True, **settings)
            assert drafted.token_ids == plain.token_ids
            assert drafted.logprobs is not None
            assert plain.logprobs is not None
            for one, other in zip(drafted.logprobs, plain.logprobs, strict=True):
                assert one.logprob == pytest.approx(other.logprob, abs=1e-3)
                assert [token for token, _ in one.alternatives] == [token for token, _ in other.alternatives]


def test_a_draft_model_leaves_texts_as_they_are(drafting: Llama) -> None:
    with byte_llama(small()) as plain:
        for prompt in prompts(12):
            expected = plain.generate(prompt, max_tokens=50, temperature=0, speculate=False, ignore_eos=True)
            done = drafting.generate(prompt, max_tokens=50, temperature=0, ignore_eos=True)
            assert done.token_ids == expected.token_ids
            assert done.passes < 40
        batch = drafting.generate_batch(prompts(5), max_tokens=30, temperature=0, ignore_eos=True)
        expected_batch = plain.generate_batch(prompts(5), max_tokens=30, temperature=0, ignore_eos=True)
        assert [each.token_ids for each in batch] == [each.token_ids for each in expected_batch]


def test_samples_with_a_draft_model_have_the_models_distribution(drafting: Llama) -> None:
    """Chi-square of four tokens together, of which all but the first may be drafted."""
    check_distribution(drafting)


@pytest.mark.parametrize("kind", [CacheOptions(kv_bits=8, kv_start=32), CacheOptions(window=64)])
def test_drafts_go_with_every_kind_of_cache(kind: CacheOptions) -> None:
    with byte_llama(byte_model(head_dim=64), cache=kind) as llama:
        for prompt in prompts(6):
            settings: dict[str, Any] = {"max_tokens": 80, "temperature": 0, "ignore_eos": True}
            plain = llama.generate(prompt, speculate=False, **settings)
            assert llama.generate(prompt, speculate=True, **settings).token_ids == plain.token_ids


@pytest.mark.parametrize("kind", [CacheOptions(), CacheOptions(kv_bits=8), CacheOptions(kv_bits=4, kv_start=16)])
def test_alone_and_without_drafts_a_seed_always_gives_the_same_text(kind: CacheOptions) -> None:
    """What docs/engine.md promises; with others in its batch, rounding may move a quantized value by a whole step."""
    with byte_llama(byte_model(head_dim=64), cache=kind) as llama:
        settings: dict[str, Any] = {"max_tokens": 60, "temperature": 1.0, "seed": 3, "ignore_eos": True}
        texts = []
        for _ in range(2):
            llama.release_memory()
            texts.append(llama.generate(prompts(1)[0], speculate=False, **settings).token_ids)
            llama.generate_batch(prompts(3), **settings)
        assert texts[0] == texts[1]
        assert texts[0] != llama.generate(prompts(1)[0], speculate=False, **{**settings, "seed": 4}).token_ids


def test_a_draft_model_of_another_tokenizer_is_refused(tiny_folder: Any, smollm2_folder: Any) -> None:
    with pytest.raises(RequestError, match="has another tokenizer"):
        Llama.load(tiny_folder, draft=smollm2_folder)
