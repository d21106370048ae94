"""EAGLE-3 drafts in the engine: the text is that of plain decoding, or drawn from the same distribution."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from llama3_mlx import CacheOptions, Llama
from llama3_mlx.adapters.adapter_set import AdapterSet
from llama3_mlx.model.transformer import LlamaForCausalLM
from llama3_mlx.speculation.eagle_head import EagleHead

from ..adapters.test_adapters import random_adapter
from ..support.byte_llama import byte_llama, byte_model, calm
from ..support.drafted_distribution import check_distribution
from ..support.eagle import cheap_drafts, knowing_head

PLAIN: dict[str, Any] = {"max_tokens": 32, "temperature": 0, "ignore_eos": True}
DEPTHS = [0, 1, 2]
ADAPTERS = ("one", "two")


def target() -> LlamaForCausalLM:
    """A model that says nearly what its last token alone decides."""
    return calm(byte_model(num_hidden_layers=2), 0.01)


def adapted(model: LlamaForCausalLM) -> AdapterSet:
    """Two adapters over the model, its head included."""
    adapters = AdapterSet(model)
    for seed, name in enumerate(ADAPTERS):
        adapters.add(name, random_adapter(model, seed, ("q_proj", "down_proj", "lm_head")))
    return adapters


@pytest.fixture(scope="module")
def drafting() -> Any:
    model = target()
    head = knowing_head(model, eagle_aux_hidden_state_layer_ids=DEPTHS)
    with byte_llama(model, draft=head, adapters=adapted(model)) as llama:
        yield cheap_drafts(llama)


@pytest.fixture(scope="module")
def plain() -> Any:
    model = target()
    with byte_llama(model, adapters=adapted(model)) as llama:
        yield llama


def prompts(n: int) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [[int(token) for token in rng.integers(0, 256, int(rng.integers(1, 60)))] for _ in range(n)]


def test_texts_stay_as_they_are(drafting: Llama, plain: Llama) -> None:
    expected = plain.generate_batch(prompts(50), speculate=False, **PLAIN)
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


def test_adapters_over_the_target_leave_texts_as_they_are(drafting: Llama, plain: Llama) -> None:
    """Alone, and in batches of several adapters; one of the layers with them is the target's head."""
    names = [(None, *ADAPTERS)[at % 3] for at in range(9)]
    expected = [
        plain.generate(prompt, adapter=name, speculate=False, **PLAIN)
        for prompt, name in zip(prompts(9), names, strict=True)
    ]
    for prompt, name, each in list(zip(prompts(9), names, expected, strict=True))[:4]:
        assert drafting.generate(prompt, adapter=name, **PLAIN).token_ids == each.token_ids
    streams = [drafting.stream(prompt, adapter=name, **PLAIN) for prompt, name in zip(prompts(9), names, strict=True)]
    done = [stream.completion for stream in streams]
    assert [each.token_ids for each in done] == [each.token_ids for each in expected]
    assert expected[0].token_ids != plain.generate(prompts(1)[0], adapter="one", speculate=False, **PLAIN).token_ids
    assert any(counts.source == "draft head" for each in done for counts in each.drafts)


def test_200_requests_of_mixed_settings_with_cancels_are_each_as_alone(drafting: Llama, plain: Llama) -> None:
    rng = np.random.default_rng(9)
    running = []
    for _ in range(200):
        prompt = [int(token) for token in rng.integers(0, 256, int(rng.integers(1, 80)))]
        settings: dict[str, Any] = {"max_tokens": int(rng.integers(1, 16)), "temperature": 0, "ignore_eos": True}
        settings |= {"speculate": bool(rng.integers(0, 4)), "presence_penalty": 0.01 * int(rng.integers(0, 2))}
        settings |= {"adapter": (None, None, *ADAPTERS)[rng.integers(0, 4)]}
        running.append((prompt, settings, drafting.stream(prompt, **settings)))
    for _, _, stream in running[::5]:
        stream.close()
    for at, (prompt, settings, stream) in enumerate(running):
        if at % 5:
            tokens = stream.completion.token_ids
            assert tokens == plain.generate(prompt, **{**settings, "speculate": False}).token_ids
    assert drafting.engine.running == drafting.engine.waiting == 0
    assert drafting.engine.call(lambda: drafting.engine.speculators.eagle._rows) == []  # type: ignore[union-attr]


def test_text_and_head_draft_in_turn_and_every_draft_is_counted(drafting: Llama) -> None:
    sources = set()
    for prompt in prompts(4):
        done = drafting.generate(prompt, **PLAIN | {"max_tokens": 90})
        sources |= {counts.source for counts in done.drafts}
        accepted = sum(sum(counts.accepted) for counts in done.drafts)
        # A pass writes a token more than it accepts; the first is the prompt's.
        assert len(done.token_ids) == 1 + done.passes + accepted
        assert all(list(counts.drafted) == sorted(counts.drafted, reverse=True) for counts in done.drafts)
        assert done.passes_off == 0
    assert sources == {"draft head", "prompt lookup"}


def test_the_drafts_of_a_batch_are_made_in_one_pass_of_the_head(drafting: Llama) -> None:
    eagle, rows = drafting.engine.speculators.eagle, []
    assert eagle is not None
    head = type(eagle.head).head

    def counted(self: EagleHead, h: mx.array) -> mx.array:
        rows.append(h.shape[0])
        return head(self, h)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EagleHead, "head", counted)
        done = drafting.generate_batch(prompts(4), **PLAIN)
    drafted = sum(sum(counts.drafted) for each in done for counts in each.drafts if counts.source == "draft head")
    assert max(rows) == 4
    assert len(rows) < drafted / 2


@pytest.mark.parametrize("kind", [CacheOptions(kv_bits=8, kv_start=32), CacheOptions(window=64)])
def test_drafts_go_with_every_kind_of_cache(kind: CacheOptions) -> None:
    model = calm(byte_model(num_hidden_layers=2, **({"head_dim": 64} if kind.kv_bits else {})), 0.01)
    head = knowing_head(model, eagle_aux_hidden_state_layer_ids=DEPTHS)
    with byte_llama(model, draft=head, cache=kind) as llama:
        cheap_drafts(llama)
        for prompt in prompts(6):
            settings = PLAIN | {"max_tokens": 80}
            expected = llama.generate(prompt, speculate=False, **settings)
            assert llama.generate(prompt, **settings).token_ids == expected.token_ids


def test_preempted_answers_go_on(plain: Llama) -> None:
    model = target()
    head = knowing_head(model, eagle_aux_hidden_state_layer_ids=DEPTHS)
    with byte_llama(model, draft=head, memory_bytes=1_600_000) as llama:
        cheap_drafts(llama)
        done = llama.generate_batch(prompts(12), **PLAIN)
        assert [each.token_ids for each in done] == [
            plain.generate(prompt, speculate=False, **PLAIN).token_ids for prompt in prompts(12)
        ]


def test_samples_have_the_models_distribution() -> None:
    """Chi-square of four tokens together, of which all but the first may be drafted."""
    model = calm(byte_model(num_hidden_layers=1), 0.01)
    head = knowing_head(model, eagle_aux_hidden_state_layer_ids=[0, 1])
    with byte_llama(model, draft=head, max_sequences=16) as llama:
        cheap_drafts(llama)
        check_distribution(llama)
