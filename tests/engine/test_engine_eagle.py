"""EAGLE-3 drafts in the engine: the text is that of plain decoding, or drawn from the same distribution."""

from typing import Any

import numpy as np
import pytest

from llama3_mlx import CacheOptions, Llama
from llama3_mlx.model.transformer import LlamaForCausalLM
from llama3_mlx.speculation import Costs

from ..support.byte_llama import byte_llama, byte_model, calm
from ..support.drafted_distribution import check_distribution
from ..support.eagle import knowing_head

PLAIN: dict[str, Any] = {"max_tokens": 50, "temperature": 0, "ignore_eos": True}


def target() -> LlamaForCausalLM:
    """A model that says nearly what its last token alone decides."""
    return calm(byte_model(num_hidden_layers=4), 0.01)


@pytest.fixture(scope="module")
def drafting() -> Any:
    model = target()
    with byte_llama(model, draft=knowing_head(model)) as llama:
        # A head of a tiny model is a large part of it, and would never pay.
        llama.engine.speculators.draft_costs = Costs(verify=0.01, draft=0.005)
        yield llama


@pytest.fixture(scope="module")
def plain() -> Any:
    with byte_llama(target()) as llama:
        yield llama


def prompts(n: int) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [[int(token) for token in rng.integers(0, 256, int(rng.integers(1, 60)))] for _ in range(n)]


def test_texts_stay_as_they_are(drafting: Llama, plain: Llama) -> None:
    expected = [plain.generate(prompt, speculate=False, **PLAIN) for prompt in prompts(50)]
    done = [drafting.generate(prompt, **PLAIN) for prompt in prompts(50)]
    batch = drafting.generate_batch(prompts(50), **PLAIN)
    off = [drafting.generate(prompt, speculate=False, **PLAIN) for prompt in prompts(5)]
    tokens = [each.token_ids for each in expected]
    assert [each.token_ids for each in done] == tokens
    assert [each.token_ids for each in batch] == tokens
    assert [each.token_ids for each in off] == tokens[:5]
    assert sum(each.passes for each in done) < 0.6 * sum(each.passes for each in expected)


def test_each_answer_to_one_prompt_drafts_for_itself(drafting: Llama, plain: Llama) -> None:
    settings: dict[str, Any] = {"max_tokens": 20, "temperature": 0, "ignore_eos": True}
    prompt = prompts(1)[0]
    for each in drafting.samples(prompt, 4, **settings):
        assert each.token_ids == plain.generate(prompt, speculate=False, **settings).token_ids


def test_penalties_logprobs_and_stop_strings_stay(drafting: Llama, plain: Llama) -> None:
    for prompt in prompts(10):
        settings: dict[str, Any] = PLAIN | {"frequency_penalty": 0.02, "repetition_penalty": 1.01, "logprobs": 2}
        expected = plain.generate(prompt, speculate=False, **settings)
        done = drafting.generate(prompt, **settings)
        assert done.token_ids == expected.token_ids
        assert done.logprobs is not None
        assert expected.logprobs is not None
        for one, other in zip(done.logprobs, expected.logprobs, strict=True):
            assert one.logprob == pytest.approx(other.logprob, abs=1e-3)
        stop = expected.text[10:12]
        stopped = drafting.generate(prompt, **PLAIN, stop=[stop])
        assert stopped.text == plain.generate(prompt, speculate=False, **PLAIN, stop=[stop]).text


def test_constraints_stay(drafting: Llama, plain: Llama) -> None:
    for prompt in prompts(5):
        settings: dict[str, Any] = {"max_tokens": 40, "temperature": 0, "regex": "([a-m]{3} )*"}
        expected = plain.generate(prompt, speculate=False, **settings)
        assert drafting.generate(prompt, **settings).token_ids == expected.token_ids


def test_a_cached_prefix_leaves_the_head_without_its_states_and_the_text_as_it_is(
    drafting: Llama, plain: Llama
) -> None:
    rng = np.random.default_rng(5)
    prompt = [int(token) for token in rng.integers(0, 256, 300)]
    first = drafting.generate(prompt, **PLAIN)
    longer = [*prompt, *first.token_ids, 1, 2, 3]
    again = drafting.generate(longer, **PLAIN)
    assert again.cached_tokens > 0
    assert again.token_ids == plain.generate(longer, speculate=False, **PLAIN).token_ids
    assert again.passes < 40


def test_200_requests_of_mixed_settings_with_cancels_are_each_as_alone(drafting: Llama, plain: Llama) -> None:
    rng = np.random.default_rng(9)
    running = []
    for at in range(200):
        prompt = [int(token) for token in rng.integers(0, 256, int(rng.integers(1, 80)))]
        settings: dict[str, Any] = {"max_tokens": int(rng.integers(1, 24)), "temperature": 0, "ignore_eos": True}
        settings |= {"speculate": bool(rng.integers(0, 4)), "presence_penalty": 0.01 * int(rng.integers(0, 2))}
        running.append((prompt, settings, drafting.stream(prompt, **settings), at % 5 == 0))
    for prompt, settings, stream, cancelled in running:
        if cancelled:
            stream.close()
            continue
        tokens = [token for chunk in stream for token in chunk.token_ids]
        assert tokens == list(plain.generate(prompt, **{**settings, "speculate": False}).token_ids)
    assert drafting.engine.running == drafting.engine.waiting == 0


@pytest.mark.parametrize("kind", [CacheOptions(kv_bits=8, kv_start=32), CacheOptions(window=64)])
def test_drafts_go_with_every_kind_of_cache(kind: CacheOptions) -> None:
    model = calm(byte_model(num_hidden_layers=4), 0.01)
    if kind.kv_bits:
        model = calm(byte_model(num_hidden_layers=4, head_dim=64), 0.01)
    with byte_llama(model, draft=knowing_head(model), cache=kind) as llama:
        llama.engine.speculators.draft_costs = Costs(verify=0.01, draft=0.005)
        for prompt in prompts(6):
            settings = PLAIN | {"max_tokens": 80}
            expected = llama.generate(prompt, speculate=False, **settings)
            assert llama.generate(prompt, **settings).token_ids == expected.token_ids


def test_preempted_answers_go_on(plain: Llama) -> None:
    model = target()
    with byte_llama(model, draft=knowing_head(model), memory_bytes=2_000_000) as llama:
        llama.engine.speculators.draft_costs = Costs(verify=0.01, draft=0.005)
        done = llama.generate_batch(prompts(12), **PLAIN)
        assert [each.token_ids for each in done] == [
            plain.generate(prompt, speculate=False, **PLAIN).token_ids for prompt in prompts(12)
        ]


def test_10000_samples_have_the_models_distribution() -> None:
    """Chi-square of the first two tokens, the second being drafted, against the distribution worked out whole."""
    model = calm(byte_model(num_hidden_layers=1), 0.01)
    head = knowing_head(model, eagle_aux_hidden_state_layer_ids=[0, 1])
    with byte_llama(model, draft=head) as llama:
        llama.engine.speculators.draft_costs = Costs(verify=0.01, draft=0.005)
        check_distribution(llama)
