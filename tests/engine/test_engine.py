"""The engine: sequences that come and go, whoever else is in the batch; ends from outside; the prefix cache."""

import asyncio
import gc
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM as ReferenceLlama

from llama3_mlx import CacheOptions, EngineClosedError, Llama, MemoryLimitError, RequestError, device

from ..adapters.test_adapters import random_adapter
from ..support.byte_llama import END, SCOPE, byte_llama, byte_model


@pytest.fixture(scope=SCOPE)
def llama() -> Iterator[Llama]:
    with byte_llama() as loaded:
        yield loaded


def random_prompt(n: int, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, 256, n)]


def alone(llama: Llama, prompt: list[int], **settings: Any) -> tuple[int, ...]:
    """What a request generates when nothing else runs and nothing of its prompt is cached."""
    llama.release_memory()
    return llama.generate(prompt, **settings).token_ids


@pytest.mark.parametrize("kind", [CacheOptions(), CacheOptions(kv_bits=8, kv_start=32), CacheOptions(window=64)])
def test_16_requests_that_join_at_random_generate_what_each_generates_alone(kind: CacheOptions) -> None:
    rng = random.Random(0)
    lengths = [1, 2, 5, 17, 60, 64, 65, 120, 200, 255, 256, 257, 300, 410, 512, 700]
    with byte_llama(byte_model(head_dim=64), cache=kind) as llama:
        prompts = [random_prompt(n, n) for n in lengths]
        settings: list[dict[str, Any]] = [
            {"max_tokens": rng.randint(3, 40), "temperature": 0, "ignore_eos": True} for _ in lengths
        ]
        expected = [alone(llama, prompt, **each) for prompt, each in zip(prompts, settings, strict=True)]
        llama.release_memory()
        streams = []
        for at in rng.sample(range(16), 16):
            streams.append((at, llama.stream(prompts[at], **settings[at])))
            time.sleep(rng.random() * 0.02)
        for at, stream in streams:
            assert stream.completion.token_ids == expected[at], lengths[at]


def test_sequences_of_different_settings_generate_what_each_generates_alone(llama: Llama) -> None:
    settings: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 1.0, "seed": 7},
        {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "seed": 7},
        {"temperature": 1.3, "min_p": 0.02, "typical_p": 0.9, "seed": 1},
        {"temperature": 1.0, "xtc_probability": 0.5, "xtc_threshold": 0.01, "seed": 2},
        {"temperature": 0, "repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.3},
        {"temperature": 0, "logit_bias": {65: 4.0, 66: -100.0}, "logprobs": 3},
    ]
    prompts = [random_prompt(9 + at, at) for at in range(len(settings))]
    expected = [alone(llama, p, max_tokens=25, **s) for p, s in zip(prompts, settings, strict=True)]
    streams = [llama.stream(p, max_tokens=25, **s) for p, s in zip(prompts, settings, strict=True)]
    assert [stream.completion.token_ids for stream in streams] == expected


def test_samples_share_one_run_of_the_prompt_and_differ_by_seed(llama: Llama) -> None:
    prompt = random_prompt(50, 3)
    before = llama.engine.counts.prompt_tokens
    answers = llama.samples(prompt, 4, max_tokens=20, temperature=1.0, seed=10)
    assert llama.engine.counts.prompt_tokens == before + 50
    single = [alone(llama, prompt, max_tokens=20, temperature=1.0, seed=10 + at) for at in range(4)]
    assert [answer.token_ids for answer in answers] == single
    assert len(set(single)) == 4


def test_a_batch_keeps_its_order_and_reports_progress(llama: Llama) -> None:
    prompts = [random_prompt(5 + n, n) for n in range(6)]
    seen: list[tuple[int, int]] = []
    done = llama.generate_batch(prompts, max_tokens=9, temperature=0, progress=lambda *at: seen.append(at))
    assert [each.token_ids for each in done] == [alone(llama, p, max_tokens=9, temperature=0) for p in prompts]
    assert seen == [(n, 6) for n in range(1, 7)]


def test_a_prompt_that_continues_another_reuses_it_and_changes_nothing(llama: Llama) -> None:
    prompt = random_prompt(100, 1)
    expected = alone(llama, prompt, max_tokens=30, temperature=0)
    llama.release_memory()
    first = llama.generate(prompt[:70], max_tokens=5, temperature=0)
    again = llama.generate(prompt, max_tokens=30, temperature=0)
    assert (first.cached_tokens, again.cached_tokens) == (0, 70)
    assert again.token_ids == expected
    edited = [*prompt[:40], 1, 2, 3, *prompt[43:]]
    assert llama.generate(edited, max_tokens=1).cached_tokens == 40
    assert llama.generate(prompt, max_tokens=30, temperature=0).token_ids == expected


def test_an_answer_is_reused_by_the_next_turn(llama: Llama) -> None:
    llama.release_memory()
    prompt = random_prompt(40, 5)
    answer = llama.generate(prompt, max_tokens=20, temperature=0, ignore_eos=True).token_ids
    follow_up = llama.generate([*prompt, *answer, 3, 4, 5], max_tokens=1)
    assert follow_up.cached_tokens >= 59


def test_what_runs_is_shared_with_what_joins(llama: Llama) -> None:
    llama.release_memory()
    prompt = random_prompt(200, 6)
    with llama.stream(prompt, max_tokens=4000, temperature=0, ignore_eos=True) as long:
        next(long)
        joined = llama.generate([*prompt[:150], 9], max_tokens=4, temperature=0)
    assert joined.cached_tokens == 150
    assert joined.token_ids == alone(llama, [*prompt[:150], 9], max_tokens=4, temperature=0)


def test_cached_prefixes_stay_under_their_budget() -> None:
    with byte_llama(memory_bytes=30_000_000) as llama:
        budget = llama.engine.settings.prefix_bytes
        for seed in range(40):
            llama.generate(random_prompt(300, seed), max_tokens=2)
            assert llama.engine.prefix_cache.nbytes <= budget
        assert len(llama.engine.prefix_cache) > 1


def test_prefixes_of_a_batch_hold_their_own_sequence_alone() -> None:
    """What is held is what is counted: a lazy copy of one sequence would keep the arrays of the whole batch alive."""
    with byte_llama() as llama:
        llama.generate([1, 2, 3], max_tokens=2)
        llama.release_memory()
        before = mx.get_active_memory()
        llama.generate_batch([random_prompt(400, seed) for seed in range(16)], max_tokens=8)
        held = llama.engine.call(lambda: llama.engine.prefix_cache.nbytes)
        assert mx.get_active_memory() - before <= held * 1.05 + 500_000


def test_the_prefix_cache_shrinks_for_what_runs() -> None:
    with byte_llama() as llama:
        for seed in range(4):
            llama.generate(random_prompt(300, seed), max_tokens=2)
        per_token = llama.engine.settings.bytes_per_token
        llama.engine.call(lambda: llama.engine.limit(int(1000 * per_token), int(1000 * per_token)))
        assert 0 < llama.engine.prefix_cache.nbytes <= 1000 * per_token
        llama.generate(random_prompt(900, 9), max_tokens=90, ignore_eos=True)
        assert llama.engine.prefix_cache.nbytes <= 1000 * per_token
        assert len(llama.engine.prefix_cache) <= 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_of_unknown_length_run_at_once_and_the_youngest_are_preempted(temperature: float) -> None:
    """None says how long it gets; together they need three times the memory there is, and each gets its own text."""
    settings: dict[str, Any] = {"temperature": temperature, "ignore_eos": True, "repetition_penalty": 1.2}
    prompts, lengths = [random_prompt(40 + 30 * n, n) for n in range(6)], [600, 350, 500, 420, 380, 700]
    with byte_llama() as roomy:
        per_token = roomy.engine.settings.bytes_per_token
        asked = list(enumerate(zip(prompts, lengths, strict=True)))
        expected = [alone(roomy, p, max_tokens=n, seed=at, **settings) for at, (p, n) in asked]
    with byte_llama() as llama:
        llama.engine.call(lambda: llama.engine.limit(int(1100 * per_token), 0))
        streams = [llama.stream(p, max_tokens=n, seed=at, **settings) for at, (p, n) in asked]
        most = 0
        while not all(stream._end for stream in streams):
            for stream in streams:
                most = max(most, llama.engine.running)
                next(stream, None)
        assert [stream.completion.token_ids for stream in streams] == expected
        assert most >= 3
        assert llama.engine.counts.preempted > 0


def test_freed_memory_is_bounded_while_something_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int] = [7]

    def set_cache_limit(limit: int) -> int:
        limits.append(limit)
        return limits[-2]

    monkeypatch.setattr(mx, "set_cache_limit", set_cache_limit)
    with byte_llama() as llama:
        llama.generate([1, 2, 3], max_tokens=2)
    assert limits == [7, device.allocator_cache_bytes(), 7]


def test_logprobs_are_those_of_the_model(llama: Llama) -> None:
    prompt = random_prompt(30, 8)
    done = llama.generate(prompt, max_tokens=6, temperature=1.5, seed=3, logprobs=4, prompt_logprobs=2, ignore_eos=True)
    ids = [*prompt, *done.token_ids]
    logits = np.array(llama.logits(ids)).astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    assert done.logprobs is not None
    assert done.prompt_logprobs is not None
    assert [entry.token for entry in done.logprobs] == list(done.token_ids)
    for at, entry in enumerate([*done.prompt_logprobs, *done.logprobs]):
        assert entry.token == ids[at + 1]
        assert entry.logprob == pytest.approx(expected[at, ids[at + 1]], abs=1e-4)
        best = np.argsort(-expected[at])[: len(entry.alternatives)]
        assert [token for token, _ in entry.alternatives] == list(best)
        assert [value for _, value in entry.alternatives] == pytest.approx(list(expected[at, best]), abs=1e-4)
    assert len(done.prompt_logprobs[0].alternatives) == 2
    assert len(done.logprobs[0].alternatives) == 4


def test_prompt_logprobs_of_a_long_prompt_equal_transformers(smollm2_folder: Any) -> None:
    with Llama.load(smollm2_folder) as smollm2:
        ids = smollm2.tokenizer.encode("The quick brown fox jumps over the lazy dog, said the old man. " * 5)
        done = smollm2.generate(ids, max_tokens=0, prompt_logprobs=0)
    reference: Any = ReferenceLlama.from_pretrained(smollm2_folder, dtype=torch.float32)
    with torch.no_grad():
        expected = torch.log_softmax(reference(torch.tensor([ids])).logits[0, :-1], dim=-1)
    picked = expected.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].numpy()
    assert done.prompt_logprobs is not None
    assert np.abs(np.array([entry.logprob for entry in done.prompt_logprobs]) - picked).max() < 1e-3


def test_adapters_of_a_batch_generate_what_each_generates_alone() -> None:
    from llama3_mlx.adapters.adapter_set import AdapterSet
    from llama3_mlx.model.fused_projections import join_projections

    model = byte_model()
    join_projections(model)
    adapters = AdapterSet(model)
    for seed, name in enumerate(("one", "two")):
        adapters.add(name, random_adapter(byte_model(), seed))
    with byte_llama(model, adapters=adapters) as llama:
        names = [None, "one", "two", "one", None, "two"]
        prompts = [random_prompt(40 if at % 2 else 7, at // 2) for at in range(6)]
        settings: dict[str, Any] = {"max_tokens": 15, "temperature": 0, "ignore_eos": True}
        expected = [alone(llama, p, adapter=name, **settings) for p, name in zip(prompts, names, strict=True)]
        llama.release_memory()
        streams = [llama.stream(p, adapter=name, **settings) for p, name in zip(prompts, names, strict=True)]
        assert [stream.completion.token_ids for stream in streams] == expected
        assert len(set(expected)) > 3
        with pytest.raises(RequestError, match="no adapter 'three'; loaded are one, two"):
            llama.generate("x", adapter="three")


def test_a_cancelled_sequence_leaves_the_others_alone(llama: Llama) -> None:
    prompts = [random_prompt(20 + n, n) for n in range(3)]
    expected = [alone(llama, p, max_tokens=60, temperature=0, ignore_eos=True) for p in prompts]
    streams = [llama.stream(p, max_tokens=60, temperature=0, ignore_eos=True) for p in prompts]
    next(streams[1])
    streams[1].cancel()
    assert streams[1].completion.finish_reason == "cancelled"
    assert streams[1].completion.token_ids == expected[1][: len(streams[1].completion.token_ids)]
    assert [streams[at].completion.token_ids for at in (0, 2)] == [expected[0], expected[2]]


def test_a_dropped_stream_frees_its_place(llama: Llama) -> None:
    stream = llama.stream("abc", max_tokens=100000, temperature=0, ignore_eos=True)
    next(stream)
    assert llama.engine.running == 1
    del stream
    gc.collect()
    wait_until(lambda: not llama.engine.running)


def test_a_time_limit_ends_an_answer_with_what_is_there(llama: Llama) -> None:
    done = llama.generate("abc", max_tokens=100000, temperature=0, ignore_eos=True, timeout_s=0.3)
    assert done.finish_reason == "timeout"
    assert 0 < len(done.token_ids) < 100000
    assert llama.generate("abc", max_tokens=3, timeout_s=0.0).finish_reason == "timeout"


def test_requests_beyond_max_sequences_wait_and_higher_priority_goes_first() -> None:
    with byte_llama(max_sequences=1) as llama:
        # Told on the engine's thread: when an answer reaches its own is for the machine to say.
        begun: list[str] = []

        def run(name: str, priority: int) -> None:
            settings: Any = {"progress": lambda *_: begun.append(name), "priority": priority}
            llama.generate(name, max_tokens=30, temperature=0, ignore_eos=True, **settings)

        first = llama.stream("first", max_tokens=100000, ignore_eos=True)
        next(first)
        threads = []
        for waiting, (name, priority) in enumerate([("low", 0), ("high", 5), ("middle", 1)]):
            threads.append(threading.Thread(target=run, args=(name, priority)))
            threads[-1].start()
            wait_until(lambda waiting=waiting: llama.engine.waiting == waiting + 1)
        first.close()
        for thread in threads:
            thread.join()
        assert list(dict.fromkeys(begun)) == ["high", "middle", "low"]


def test_threads_and_event_loops_use_one_model_at_once(llama: Llama) -> None:
    prompts = [random_prompt(6 + n, n) for n in range(8)]
    settings: dict[str, Any] = {"max_tokens": 20, "temperature": 0}
    expected = [alone(llama, p, **settings) for p in prompts]
    found: dict[int, tuple[int, ...]] = {}

    async def ask(at: int) -> None:
        if at % 2:
            found[at] = (await llama.agenerate(prompts[at], **settings)).token_ids
            return
        stream = llama.astream(prompts[at], **settings)
        tokens = [token async for piece in stream for token in piece.token_ids]
        assert tuple(tokens) == stream.completion.token_ids
        found[at] = tuple(tokens)

    async def ask_all() -> None:
        await asyncio.gather(*(ask(at) for at in range(4)))

    def run(at: int) -> None:
        found[at] = llama.generate(prompts[at], **settings).token_ids

    threads = [threading.Thread(target=asyncio.run, args=(ask_all(),))]
    threads += [threading.Thread(target=run, args=(at,)) for at in range(4, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[at] for at in range(8)] == expected


def test_a_cancelled_task_frees_its_place(llama: Llama) -> None:
    async def run() -> None:
        task = asyncio.create_task(llama.agenerate("abc", max_tokens=100000, ignore_eos=True))
        while not llama.engine.running:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    wait_until(lambda: not llama.engine.running)


def test_1000_requests_with_random_cancels_lose_and_leak_nothing() -> None:
    rng = random.Random(1)
    with byte_llama(max_sequences=16) as llama:
        llama.generate_batch([random_prompt(60, n) for n in range(16)], max_tokens=8, ignore_eos=True)
        llama.release_memory()
        wait_until(lambda: not llama.engine.running)
        before, ends = mx.get_active_memory(), []
        for group in range(20):
            streams = []
            for at in range(50):
                prompt = random_prompt(rng.choice([1, 5, 30, 90]), rng.randrange(9))
                streams.append(llama.stream(prompt, max_tokens=rng.randint(0, 12), seed=at, ignore_eos=True))
                if rng.random() < 0.3:
                    streams[rng.randrange(len(streams))].cancel()
            for stream in rng.sample(streams, 50):
                ends.append(stream.completion.finish_reason)
            assert not llama.engine.waiting, group
        assert len(ends) == 1000
        assert {"length", "cancelled"} <= set(ends)
        wait_until(lambda: not llama.engine.running)
        llama.release_memory()
        assert mx.get_active_memory() <= before * 1.01


def test_what_memory_can_not_hold_is_refused_with_the_numbers() -> None:
    with byte_llama(memory_bytes=4_000_000) as llama:
        per_token = llama.engine.settings.bytes_per_token
        room = int(llama.engine.settings.memory_bytes / per_token)
        with pytest.raises(MemoryLimitError, match=rf"max_tokens is {room}.*[GM]B are left.*at most {room - 3} tokens"):
            llama.generate("abc", max_tokens=room)
        with pytest.raises(MemoryLimitError, match=f"has {room} tokens"):
            llama.generate([1] * room)
        # Without max_tokens the answer ends where memory does, and says so.
        done = llama.generate([1] * (room - 5), temperature=0, ignore_eos=True)
        assert (done.finish_reason, len(done.token_ids)) == ("length", 5)


def test_an_error_of_one_request_is_its_own(llama: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="logit_bias names token 100000"):
        llama.generate("abc", logit_bias={100000: 1.0}, max_tokens=3)
    assert llama.generate("abc", max_tokens=3).prompt_tokens == 3


def test_an_error_in_a_step_reaches_its_callers_and_the_engine_continues(
    llama: Llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = llama.generate("abc", max_tokens=5, temperature=0).token_ids
    with monkeypatch.context() as patch:
        patch.setattr(type(llama.model), "head", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            llama.generate("abcd", max_tokens=5)
    assert llama.generate("abc", max_tokens=5, temperature=0).token_ids == expected


def test_a_closed_model_gives_its_memory_back_and_says_so() -> None:
    gc.collect()
    before = mx.get_active_memory()
    llama = byte_llama(byte_model(hidden_size=512, intermediate_size=2048))
    stream = llama.stream("abc", max_tokens=100000, ignore_eos=True)
    next(stream)
    assert mx.get_active_memory() > before + 1_000_000
    llama.close()
    with pytest.raises(EngineClosedError, match="closed while this answer was generated"):
        _ = stream.completion
    with pytest.raises(EngineClosedError, match="load it again"):
        llama.generate("abc")
    del stream
    gc.collect()
    assert mx.get_active_memory() <= before + 1000


def test_a_context_longer_than_the_window_continues() -> None:
    with byte_llama(cache=CacheOptions(window=64)) as llama:
        done = llama.generate(random_prompt(200), max_tokens=300, temperature=0, ignore_eos=True)
        assert len(done.token_ids) == 300


def test_quantized_keys_and_values_stay_near(smollm2_folder: Any) -> None:
    """At 8 bits the distributions differ from those of the plain cache by at most 0.001 nats."""
    from llama3_mlx.checkpoint.loading import load_model
    from llama3_mlx.tokenizer.loading import load_tokenizer

    model = load_model(smollm2_folder)
    text = (
        "The tram runs every twelve minutes from the harbour to the old market, and the last one leaves at midnight. "
    )
    tokens = mx.array([load_tokenizer(smollm2_folder).encode(text * 2)])
    found = []
    for kind in (CacheOptions(), CacheOptions(kv_bits=8)):
        cache = model.make_cache(kind)
        logits = mx.concatenate(
            [model(tokens[:, at : at + 12], cache) for at in range(0, tokens.shape[1], 12)], axis=1
        )[0]
        found.append(np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True)).astype(np.float64))
    divergence = (np.exp(found[0]) * (found[0] - found[1])).sum(axis=-1).mean()
    assert 0 < divergence <= 0.001


def wait_until(condition: Any, limit_s: float = 30.0) -> None:
    """Wait for something that another thread is about to do."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "it didn't come about"
        time.sleep(0.005)


def test_a_long_prompt_tells_its_progress_in_steps(llama: Llama) -> None:
    llama.release_memory()
    seen: list[tuple[int, int]] = []
    llama.generate(random_prompt(1500, 77), max_tokens=1, progress=lambda *at: seen.append(at))
    assert seen == [(done, 1500) for done in (0, 256, 512, 768, 1024, 1280, 1500)]
    # What is in the prefix cache counts as done.
    seen.clear()
    llama.generate(random_prompt(1500, 77), max_tokens=1, progress=lambda *at: seen.append(at))
    assert seen == [(1499, 1500), (1500, 1500)]


def test_stop_token_ids_end_an_answer_and_are_named(llama: Llama) -> None:
    prompt = random_prompt(20, 5)
    plain = llama.generate(prompt, max_tokens=12, temperature=0, ignore_eos=True).token_ids
    done = llama.generate(prompt, max_tokens=12, temperature=0, ignore_eos=True, stop_token_ids=[plain[7]])
    assert done.token_ids == plain[: plain.index(plain[7])]
    assert (done.finish_reason, done.stop_token) == ("stop", plain[7])


def test_a_control_token_is_a_stop_text_and_is_shown_on_request(llama: Llama) -> None:
    """The bias makes the model write its control token; by default it has no text and ends the answer."""
    settings: dict[str, Any] = {"max_tokens": 3, "temperature": 0, "ignore_eos": True, "logit_bias": {END: 100.0}}
    hidden = llama.generate("abc", **settings)
    assert (hidden.text, hidden.token_ids) == ("", (END,) * 3)
    shown = llama.generate("abc", skip_special_tokens=False, **settings)
    assert (shown.text, shown.token_ids) == ("<end>" * 3, (END,) * 3)
    stopped = llama.generate("abc", stop=["<end>"], **settings)
    assert (stopped.text, stopped.finish_reason, stopped.stop_token) == ("", "stop", END)


def test_xtc_exempts_the_tokens_that_end_a_text_or_a_line(llama: Llama) -> None:
    """With probabilities of 0.6 and 0.4, XTC always leaves out the more likely token, unless it ends the text."""
    assert llama.engine.settings.xtc_exempt_ids == {END, ord("\n")}
    logits = np.array(llama.logits([1, 2, 3])[-1])

    def first_tokens(likely: int) -> set[int]:
        bias = {token: 60.0 - float(logits[token]) + float(np.log(p)) for token, p in ((likely, 0.6), (65, 0.4))}
        settings: dict[str, Any] = {"temperature": 1.0, "xtc_probability": 1.0, "xtc_threshold": 0.2}
        found = [llama.generate([1, 2, 3], max_tokens=1, seed=seed, logit_bias=bias, **settings) for seed in range(20)]
        return {END if done.stop_token == END else done.token_ids[0] for done in found}

    assert first_tokens(66) == {65}
    assert first_tokens(END) == {65, END}


def test_the_rate_of_two_tokens_counts_their_whole_time() -> None:
    """What the host sees of two tokens may be one moment: the device computes the second before the first is read."""
    with byte_llama() as llama:
        options: dict[str, Any] = {"temperature": 0, "ignore_eos": True, "speculate": False}
        two = llama.generate("abc abc", max_tokens=2, **options)
        prompt_s = (two.prompt_tokens - two.cached_tokens) / two.prompt_tokens_per_second
        assert 2 / two.tokens_per_second >= prompt_s
        assert llama.generate("abc abc", max_tokens=1, **options).tokens_per_second == 0
