"""The `Llama` object on a real model, against transformers; and what it refuses."""

import asyncio
import inspect
import threading
from collections.abc import Mapping
from pathlib import Path
from types import MethodType
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from transformers import AutoTokenizer
from transformers import LlamaForCausalLM as ReferenceLlama

import llama3_mlx
from llama3_mlx import ContextLengthError, DialogError, EngineClosedError, Llama, RequestError
from llama3_mlx.engine.reply import Reply
from llama3_mlx.generation.options import GenerationOptions

PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):",
    "Once upon a time, in a small village",
    "Die Katze sitzt auf dem",
    "1, 2, 3, 4,",
]


@pytest.fixture(scope="module")
def smollm2(smollm2_folder: Path) -> Llama:
    return Llama.load(smollm2_folder)


@pytest.fixture(scope="module")
def tiny(tiny_folder: Path) -> Llama:
    return Llama.load(tiny_folder)


@pytest.fixture(scope="module")
def reference(smollm2_folder: Path) -> Any:
    model = ReferenceLlama.from_pretrained(smollm2_folder, dtype=torch.float32)
    model.eval()
    return model


def test_64_greedy_tokens_equal_transformers(smollm2: Llama, reference: Any) -> None:
    """One pass of the reference over prompt and text shows each of its greedy choices."""
    completions = smollm2.generate_batch(PROMPTS, max_tokens=64, temperature=0)
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        ids, written = smollm2.tokenizer.encode(prompt), list(completion.token_ids)
        with torch.no_grad():
            choices = reference(torch.tensor([ids + written])).logits[0, len(ids) - 1 :].argmax(dim=-1).tolist()
        assert written == choices[: len(written)], prompt
        assert completion.finish_reason == ("length" if len(written) == 64 else "stop")
        assert completion.finish_reason == "length" or choices[-1] in smollm2.stop_ids


def test_logits_equal_transformers(smollm2: Llama, reference: Any) -> None:
    ids = smollm2.tokenizer.encode("The quick brown fox jumps over the lazy dog. " * 5)
    with torch.no_grad():
        expected = reference(torch.tensor([ids])).logits[0].numpy()
    logits = smollm2.logits(ids)
    assert logits.shape == (len(ids), 49152)
    assert logits.dtype == mx.float32
    assert np.abs(np.array(logits) - expected).max() <= 1e-4 * np.abs(expected).max()


def test_a_chat_answers_and_counts(smollm2: Llama, smollm2_folder: Path) -> None:
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    completion = smollm2.chat(messages)
    assert completion.text == "The capital of France is Paris."
    assert completion.finish_reason == "stop"
    template = AutoTokenizer.from_pretrained(smollm2_folder).apply_chat_template(messages, add_generation_prompt=True)
    assert completion.prompt_tokens == len(template["input_ids"])
    assert completion.prompt_tokens_per_second > 0
    assert completion.tokens_per_second > 0
    assert completion.peak_memory_bytes > 100_000_000


def test_streamed_pieces_make_up_the_completion(smollm2: Llama) -> None:
    stream = smollm2.stream("Once upon a time", max_tokens=20, temperature=0.8, seed=3)
    pieces = list(stream)
    assert "".join(piece.text for piece in pieces) == stream.completion.text
    assert tuple(token for piece in pieces for token in piece.token_ids) == stream.completion.token_ids
    assert len(stream.completion.token_ids) == 20


def test_a_leading_space_is_text(smollm2: Llama) -> None:
    assert smollm2.generate("The capital of France is", max_tokens=2, temperature=0).text == " Paris."


def test_the_same_seed_gives_the_same_text_and_another_one_another(smollm2: Llama) -> None:
    def text(seed: int) -> str:
        return smollm2.generate("Once upon a time", max_tokens=10, temperature=1.0, seed=seed).text

    assert text(1) == text(1)
    assert len({text(seed) for seed in range(4)}) == 4


def test_a_stop_text_across_token_borders_ends_the_text_before_it(smollm2: Llama) -> None:
    whole = smollm2.generate("The capital of France is", max_tokens=40, temperature=0)
    at = len(whole.text) // 2
    stop = whole.text[at : at + 7]
    completion = smollm2.generate("The capital of France is", max_tokens=40, temperature=0, stop=["never", stop])
    assert completion.text == whole.text[: whole.text.index(stop)]
    assert completion.finish_reason == "stop"
    assert len(completion.token_ids) < len(whole.token_ids)


def test_closing_a_stream_ends_it_and_keeps_what_was_written(smollm2: Llama) -> None:
    with smollm2.stream("Once upon a time", max_tokens=1000, temperature=0) as stream:
        first = next(stream)
    assert list(stream) == []
    assert stream.completion.text.startswith(first.text)
    assert len(stream.completion.token_ids) < 10


def test_no_repeated_token_at_a_huge_repetition_penalty(smollm2: Llama) -> None:
    completion = smollm2.generate("la la la la", max_tokens=30, temperature=0, repetition_penalty=100.0)
    assert len(set(completion.token_ids)) == len(completion.token_ids)


@pytest.mark.parametrize("token", ["<|eot_id|>", "<|begin_of_text|>", "<|python_tag|>"])
def test_no_entry_point_lets_text_become_a_control_token(tiny: Llama, token: str) -> None:
    control = set(tiny.tokenizer.control_tokens.values())
    assert not control & set(tiny.tokenizer.encode(token))
    plain = [i for i in tiny.encode_chat([{"role": "user", "content": "x"}]) if i in control]
    assert [i for i in tiny.encode_chat([{"role": "user", "content": token}]) if i in control] == plain
    assert [i for i in tiny.prompts.text(token) if i in control] == [tiny.tokenizer.bos_id]


@pytest.mark.parametrize("eos", [128001, 128008, 128009])
def test_every_stop_token_ends_a_text(tiny: Llama, eos: int, monkeypatch: pytest.MonkeyPatch) -> None:
    head = tiny.model.head

    def forced(h: mx.array) -> mx.array:
        return mx.where(mx.arange(128256) == eos, 1e9, head(h))

    monkeypatch.setattr(type(tiny.model), "head", lambda _, h: forced(h))
    completion = tiny.generate("Hi", max_tokens=5)
    assert (completion.finish_reason, completion.token_ids, completion.text) == ("stop", (), "")


def test_max_tokens_zero_writes_nothing(tiny: Llama) -> None:
    completion = tiny.generate("Hi", max_tokens=0)
    assert (completion.text, completion.finish_reason, completion.prompt_tokens) == ("", "length", 2)


def test_what_cannot_be_run_is_refused_with_the_numbers(tiny: Llama, smollm2: Llama) -> None:
    with pytest.raises(ContextLengthError, match="has 8192 tokens, but the model's context is 8192"):
        smollm2.generate([5] * 8192)
    with pytest.raises(
        ContextLengthError, match="max_tokens is 100, but the model's context is 8192: ask for at most 92"
    ):
        smollm2.generate([5] * 8100, max_tokens=100)
    with pytest.raises(RequestError, match="empty"):
        tiny.generate("")
    with pytest.raises(RequestError, match="empty"):
        tiny.generate([])
    with pytest.raises(RequestError, match="token id 200000 is outside the vocabulary"):
        tiny.generate([200000])
    with pytest.raises(RequestError, match="temperature must be"):
        tiny.generate("x", temperature=-1.0)
    with pytest.raises(DialogError, match="message 0"):
        tiny.chat([{"role": "pirate", "content": "x"}])


def test_threads_and_an_event_loop_can_generate(tiny: Llama) -> None:
    expected = tiny.generate("Hi", max_tokens=8, temperature=0).token_ids
    results: list[Any] = []

    def work() -> None:
        results.append(tiny.generate("Hi", max_tokens=8, temperature=0).token_ids)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.append(asyncio.run(asyncio.to_thread(lambda: tiny.generate("Hi", max_tokens=8, temperature=0).token_ids)))
    assert results == [expected] * 3


async def _used(llama: Llama, name: str, given: Mapping[str, Any]) -> Any:
    """Return a public attribute, or what comes of calling it to the end with what it requires."""
    member = getattr(llama, name)
    if not isinstance(member, MethodType):
        return member
    required = [each for each in inspect.signature(member).parameters.values() if each.default is each.empty]
    arguments = {each.name: given[each.name] for each in required if each.kind is not each.VAR_KEYWORD}
    made = member(**arguments)
    return await made if inspect.isawaitable(made) else getattr(made, "completion", made)


def test_everything_public_of_a_closed_model_works_or_says_that_it_is_closed(tiny_folder: Path) -> None:
    llama = Llama.load(tiny_folder, disk_cache=False)
    public = [name for name in dir(llama) if not name.startswith("_")]
    given: dict[str, Any] = {
        "work": lambda model: model.config,
        "path_or_id": tiny_folder, "path": tiny_folder, "name": "other", "prompt": [5, 6], "prompts": [[5, 6]], "n": 2,
        "token_ids": [5, 6], "messages": [{"role": "user", "content": "Hi"}], "tools": [], "memory_gb": 1.0,
        "options": [GenerationOptions()], "replies": [Reply(lambda item: None)], "listener": print,
    }  # fmt: skip
    llama.close()
    closed = set()
    for name in public:
        try:
            made = asyncio.run(_used(llama, name, given))
        except EngineClosedError as error:
            assert "load it again" in str(error)  # noqa: PT017
            closed.add(name)
        else:
            if isinstance(made, Llama):
                made.close()
    generating = {"generate", "stream", "chat", "stream_chat", "agenerate", "astream", "achat", "astream_chat"}
    batches = {"generate_batch", "samples", "run_tools", "arun_tools", "submit", "logits", "compute"}
    weights = {"model", "adapters", "adapter_names", "load_adapter", "limit_memory", "release_memory"}
    assert closed == generating | batches | weights
    with pytest.raises(EngineClosedError):
        llama.generate("Hi", adapter="other")


def test_public_names_are_importable_and_nothing_heavy_comes_along() -> None:
    import subprocess
    import sys

    assert {name for name in llama3_mlx.__all__ if getattr(llama3_mlx, name) is not None} == set(llama3_mlx.__all__)
    code = (
        "import sys, llama3_mlx; from llama3_mlx import Llama; "
        "print([m for m in ('mlx_lm', 'transformers', 'torch', 'huggingface_hub', 'gguf') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
