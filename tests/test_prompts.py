"""Prompts of texts, token ids and dialogs, and what becomes of control tokens in them."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, assert_type

import pytest
from openai.types.chat import ChatCompletionMessage, ParsedChatCompletionMessage
from transformers import AutoTokenizer

import llama3_mlx
from llama3_mlx import Completion, DialogError, Llama, RequestError
from llama3_mlx.engine.reply import AsyncStream, Stream

QUESTION = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def tiny(tiny_folder: Path) -> Llama:
    return Llama.load(tiny_folder)


@pytest.mark.parametrize("prompts", ["abc", [1, 2, 3], QUESTION, b"abc", 3, {"a": 1}])
def test_one_prompt_in_the_place_of_several_is_refused(tiny: Llama, prompts: Any) -> None:
    with pytest.raises(RequestError, match="prompts must be a list of"):
        tiny.generate_batch(prompts, max_tokens=1)


@pytest.mark.parametrize("prompt", [QUESTION, [1.5], ["a"], None, 3])
def test_what_is_no_raw_prompt_is_refused_in_words(tiny: Llama, prompt: Any) -> None:
    with pytest.raises(RequestError, match="answer a dialog with chat" if prompt is QUESTION else "text or token ids"):
        tiny.generate(prompt, max_tokens=1)


def test_control_tokens_of_a_raw_prompt_are_read_only_where_that_is_asked_for(tiny: Llama, tiny_folder: Path) -> None:
    """Judged by transformers, whose encoding always reads them."""
    dialog = AutoTokenizer.from_pretrained(tiny_folder).apply_chat_template(QUESTION, tokenize=False)
    reference = AutoTokenizer.from_pretrained(tiny_folder)(dialog, add_special_tokens=False)["input_ids"]
    assert tiny.prompts.text(dialog, special=True) == reference
    assert tiny.generate(dialog, special=True, max_tokens=1).prompt_tokens == len(reference)
    control = set(tiny.tokenizer.control_tokens.values())
    plain = tiny.prompts.text(dialog)
    assert control.isdisjoint(plain[1:] if plain[0] == tiny.tokenizer.bos_id else plain)
    with pytest.raises(RequestError, match="special is for raw prompts"):
        tiny.chat(QUESTION, special=True, max_tokens=1)


def test_an_answer_stops_at_tokens_by_id_and_at_control_tokens_by_their_text(tiny: Llama) -> None:
    whole = tiny.generate("Once", max_tokens=12, temperature=0, ignore_eos=True)
    third = whole.token_ids[2]
    first = whole.token_ids.index(third)
    stopped = tiny.generate("Once", max_tokens=12, temperature=0, ignore_eos=True, stop_token_ids=[third])
    assert (stopped.token_ids, stopped.finish_reason) == (whole.token_ids[:first], "stop")
    assert stopped.stop_token == third
    text, token = next(iter(tiny.tokenizer.control_tokens.items()))
    bias = {token: 100.0}
    forced: dict[str, Any] = {"max_tokens": 4, "temperature": 0, "ignore_eos": True, "logit_bias": bias}
    assert tiny.generate("Once", **forced, stop=[text]).token_ids == ()
    assert tiny.generate("Once", **forced).text == ""
    assert tiny.generate("Once", **forced, skip_special_tokens=False).text == text * 4


def test_values_for_the_chat_template_come_through(tiny: Llama) -> None:
    plain = tiny.chat(QUESTION, max_tokens=1).prompt_tokens
    assert tiny.chat(QUESTION, max_tokens=1, template_options={"date_string": "26 Jul 2024"}).prompt_tokens >= plain
    with pytest.raises(RequestError, match="template_options can't set messages"):
        tiny.chat(QUESTION, template_options={"messages": []})
    with pytest.raises(RequestError, match="template_options are for dialogs"):
        tiny.generate("Hi", template_options={"a": 1})
    with pytest.raises(RequestError, match="template_options must map"):
        tiny.chat(QUESTION, template_options=3)  # type: ignore[call-overload]


def test_openais_own_message_objects_are_taken_as_dicts(tiny: Llama) -> None:
    said = {"role": "assistant", "content": "Hello"}
    for message in (
        ChatCompletionMessage.model_validate({**said, "annotations": [], "refusal": None}),
        ParsedChatCompletionMessage.model_validate({**said, "parsed": {"a": 1}, "tool_calls": None}),
    ):
        dialog = [*QUESTION, message.model_dump(), *QUESTION]
        before = copy.deepcopy(dialog)
        assert tiny.encode_chat(dialog) == tiny.encode_chat([*QUESTION, said, *QUESTION])
        assert dialog == before
    with pytest.raises(DialogError, match="unknown key 'contnet'"):
        tiny.encode_chat([{"role": "user", "content": "a", "contnet": "b"}])


def test_progress_is_told_while_a_prompt_is_read(tiny: Llama) -> None:
    ids = list(range(50, 450))
    calls: list[tuple[int, int]] = []
    tiny.generate(ids, max_tokens=1, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (len(ids), len(ids)) or calls[-1][0] >= len(ids) - 1
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


class Order:
    """A type of an answer."""


async def _types(llama: Llama, ask: Sequence[dict[str, Any]]) -> None:
    """What type checkers see; never run."""
    assert_type(llama.chat(ask, schema=Order).parsed, Order | None)
    assert_type(llama.generate("x", schema=list[int]), Completion[list[int] | None])
    assert_type(llama.stream_chat(ask, schema=Order), Stream[Order | None])
    assert_type(llama.astream("x", schema=Order), AsyncStream[Order | None])
    assert_type((await llama.achat(ask, schema=Order)).parsed, Order | None)
    assert_type(llama.samples("x", 2, schema=Order)[0].parsed, Order | None)
    assert_type(llama.chat(ask, schema={"type": "object"}).parsed, Any)
    assert_type(llama.chat(ask).parsed, Any)
    llama.chat(ask, tempreature=1.0)  # type: ignore[call-overload]
    llama.run_tools(ask, [], max_tokens="x")  # type: ignore[arg-type]
    llama3_mlx.Lama.load("x")  # type: ignore[attr-defined]


def test_the_type_of_the_schema_is_the_type_of_the_answer() -> None:
    """`_types` is checked by mypy; here it only has to exist."""
    check: Callable[..., Any] = _types
    assert callable(check)
