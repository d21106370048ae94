"""The caller's own logits processors and samplers, against mlx-lm's generation with the same functions."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.utils
import pytest
from mlx_lm.generate import generate_step
from mlx_lm.sample_utils import make_logits_processors

from llama3_mlx import Llama, RequestError

PROMPT = list(range(100, 130))
N = 24


@pytest.fixture(scope="module")
def llama(tiny_folder: Path) -> Iterator[Llama]:
    with Llama.load(tiny_folder, dtype="float32") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def reference(tiny_folder: Path) -> Any:
    model, _ = mlx_lm.utils.load_model(tiny_folder)
    model.set_dtype(mx.float32)
    mx.eval(model.parameters())
    return model


def expected(reference: Any, **functions: Any) -> tuple[int, ...]:
    """The tokens of mlx-lm's own loop."""
    return tuple(token for token, _ in generate_step(mx.array(PROMPT), reference, max_tokens=N, **functions))


def second_most_likely(logprobs: mx.array) -> mx.array:
    return mx.argsort(-logprobs, axis=-1)[:, 1]


def test_processors_of_mlx_lm_do_here_what_they_do_there(llama: Llama, reference: Any) -> None:
    processors = make_logits_processors(repetition_penalty=1.5, repetition_context_size=12)
    settings: dict[str, Any] = {"max_tokens": N, "temperature": 0, "ignore_eos": True}
    done = llama.generate(PROMPT, logits_processors=processors, **settings)
    assert done.token_ids == expected(reference, logits_processors=processors)
    assert done.token_ids != llama.generate(PROMPT, **settings).token_ids


def test_a_sampler_chooses_what_it_chooses_in_mlx_lm(llama: Llama, reference: Any) -> None:
    done = llama.generate(PROMPT, max_tokens=N, sampler=second_most_likely, ignore_eos=True)
    assert done.token_ids == expected(reference, sampler=second_most_likely)


def test_a_processor_sees_all_tokens_and_each_logits_once(llama: Llama) -> None:
    seen: list[list[int]] = []

    def watch(tokens: mx.array, logits: mx.array) -> mx.array:
        assert logits.shape == (1, llama.config.vocab_size)
        seen.append(tokens.tolist())  # type: ignore[arg-type]
        return logits

    done = llama.generate(PROMPT, max_tokens=5, temperature=0, ignore_eos=True, logits_processors=[watch])
    assert seen == [[*PROMPT, *done.token_ids[:n]] for n in range(5)]


def test_own_functions_leave_the_others_of_a_batch_alone(llama: Llama) -> None:
    processors = make_logits_processors(repetition_penalty=1.5)
    kinds: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 0, "logits_processors": processors},
        {"temperature": 1.0, "seed": 3},
        {"sampler": second_most_likely, "repetition_penalty": 1.2},
        {"temperature": 0, "logits_processors": processors, "choices": ["yes", "no"]},
        {"temperature": 1.0, "seed": 3, "top_k": 9, "logprobs": 1},
    ]
    prompts = [PROMPT[at:] for at in range(len(kinds))]
    settings: dict[str, Any] = {"max_tokens": N, "ignore_eos": True}
    alone = [llama.generate(p, **settings, **kind).token_ids for p, kind in zip(prompts, kinds, strict=True)]
    streams = [llama.stream(p, **settings, **kind) for p, kind in zip(prompts, kinds, strict=True)]
    assert [stream.completion.token_ids for stream in streams] == alone


@pytest.mark.parametrize(
    ("functions", "words"),
    [
        (
            {"logits_processors": [lambda tokens, logits: logits[:, :5]]},
            r"must return an array of shape \(1, .*\(1, 5\)",
        ),
        ({"logits_processors": [lambda tokens, logits: None]}, "not None"),
        ({"sampler": lambda logprobs: logprobs}, "must return one token id"),
        ({"sampler": 7}, "sampler must be a function logprobs -> token, not 7"),
        ({"logits_processors": len}, "logits_processors must be a list of functions"),
    ],
)
def test_functions_that_return_something_else_are_refused(llama: Llama, functions: Any, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        llama.generate(PROMPT, max_tokens=3, **functions)


def test_what_a_function_raises_reaches_its_caller_and_nobody_else(llama: Llama) -> None:
    def fail(tokens: mx.array, logits: mx.array) -> mx.array:
        if tokens.size > len(PROMPT) + 2:
            raise KeyError("mine")
        return logits

    settings: dict[str, Any] = {"max_tokens": N, "temperature": 0, "ignore_eos": True}
    plain = llama.generate(PROMPT, **settings).token_ids
    streams = [llama.stream(PROMPT, **settings), llama.stream(PROMPT, logits_processors=[fail], **settings)]
    with pytest.raises(KeyError, match="mine"):
        _ = streams[1].completion
    assert streams[0].completion.token_ids == plain
