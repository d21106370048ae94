"""Answers that follow a form, and answers that call tools, through the engine."""

import json
from dataclasses import dataclass
from typing import Any, Literal

import jsonschema
import pytest

from llama3_mlx import Llama, RequestError

from ..support.byte_llama import SCOPE, byte_llama


@dataclass
class Point:
    """A place."""

    x: Literal[1, 2, 3]
    label: Literal["here", "there"]


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "ok": {"type": "boolean"}},
    "required": ["name", "ok"],
    "additionalProperties": False,
}


@pytest.fixture(scope=SCOPE)
def llama() -> Any:
    with byte_llama() as loaded:
        yield loaded


@pytest.fixture(scope="module")
def tiny(tiny_folder: Any) -> Any:
    with Llama.load(tiny_folder) as loaded:
        yield loaded


def test_every_answer_of_a_mixed_batch_has_its_own_constraint(llama: Llama) -> None:
    forms: list[dict[str, Any]] = [
        {"schema": SCHEMA},
        {"choices": ["north", "south", "no"]},
        {"regex": "[a-f]{3}-[0-9]{2}"},
        {"grammar": 'start: "<" /[xyz]+/ ">"'},
        {},
    ]
    settings: list[dict[str, Any]] = [
        {"max_tokens": 200, "temperature": 1.0, "seed": at, **form} for at, form in enumerate(forms * 4)
    ]
    alone = [llama.generate(f"prompt {at}", **each) for at, each in enumerate(settings)]
    streams = [llama.stream(f"prompt {at}", **each) for at, each in enumerate(settings)]
    for each, expected, stream in zip(settings, alone, streams, strict=True):
        done = stream.completion
        assert done.token_ids == expected.token_ids
        if "schema" in each:
            jsonschema.validate(json.loads(done.text), SCHEMA)
            assert done.parsed == json.loads(done.text)
        if "choices" in each:
            assert done.text in each["choices"]
        if "regex" in each:
            assert len(done.text) == 6
            assert done.text[3] == "-"
        if "grammar" in each:
            assert (done.text[0], set(done.text[1:-1]) <= set("xyz")) == ("<", True)


def test_a_form_goes_with_drafts(llama: Llama) -> None:
    prompt = json.dumps({"name": "aaaaaaa", "ok": True}) * 3
    for seed in range(6):
        settings: dict[str, Any] = {"schema": SCHEMA, "temperature": 0.5, "seed": seed, "max_tokens": 100}
        plain = llama.generate(prompt, speculate=False, **settings)
        assert llama.generate(prompt, speculate=True, **settings).token_ids == plain.token_ids


def test_a_schema_gives_its_object(tiny: Llama) -> None:
    done = tiny.generate("A place:", schema=Point, temperature=1.0, seed=1, max_tokens=400)
    assert done.finish_reason == "stop"
    assert isinstance(done.parsed, Point)
    assert Point(**json.loads(done.text)) == done.parsed


def test_an_answer_that_was_cut_off_has_no_object(tiny: Llama) -> None:
    done = tiny.generate("A place:", schema=Point, max_tokens=2)
    assert (done.finish_reason, done.parsed) == ("length", None)


@pytest.mark.parametrize(
    "form", [{"schema": {"type": "nonsense"}}, {"regex": "("}, {"grammar": "start: missing"}, {"schema": "{"}]
)
def test_a_constraint_that_can_not_be_compiled_is_refused_at_once(llama: Llama, form: dict[str, Any]) -> None:
    before = llama.engine.counts.requests
    with pytest.raises(RequestError, match=r"can't be compiled|isn't|JSON"):
        llama.generate("x", **form)
    with pytest.raises(RequestError, match="one output constraint at a time"):
        llama.generate("x", regex="a", choices=["b"])
    assert llama.engine.counts.requests == before


def weather(city: Literal["Rome", "Oslo"], days: Literal[1, 2, 3] = 1) -> dict[str, Any]:
    """Tell the weather of a city.

    Args:
        city: the city's name
        days: how many days ahead
    """
    return {"city": city, "days": days, "sky": "clear"}


def test_a_tool_that_must_be_called_is_called_with_arguments_of_its_schema(tiny: Llama) -> None:
    messages = [{"role": "user", "content": "How is the weather in Rome?"}]
    stream = tiny.stream_chat(messages, tools=[weather], tool_choice="required", parallel_calls=False, max_tokens=300)
    calls = [call for piece in stream for call in piece.tool_calls]
    assert [call.name for call in calls] == ["weather"]
    assert calls[0].arguments["city"] in ("Rome", "Oslo")
    assert set(calls[0].arguments) <= {"city", "days"}
    assert stream.completion.tool_calls == tuple(calls)
    assert stream.completion.text == ""


def test_tools_run_until_the_answer(tiny: Llama) -> None:
    messages = [{"role": "user", "content": "How is the weather in Rome?"}]
    seen: list[dict[str, Any]] = []

    def recorded(city: Literal["Rome", "Oslo"]) -> str:
        """Look it up."""
        seen.append({"city": city})
        return "clear"

    run = tiny.run_tools(
        messages, [recorded], max_rounds=1, tool_choice="required", parallel_calls=False, max_tokens=300, seed=1
    )
    assert [dict(call.arguments) for call in run.calls] == seen
    assert len(seen) == 1
    roles = [message["role"] for message in run.messages]
    assert roles == ["user", "assistant", "tool", "assistant"]
    assert run.messages[2]["content"] == "clear"
    assert run.messages[-1]["content"] == run.text


def test_what_a_model_says_wrongly_is_told_to_it_and_what_a_tool_raises_comes_through(tiny: Llama) -> None:
    messages = [{"role": "user", "content": "x"}]

    def broken(city: Literal["Rome", "Oslo"]) -> str:
        """Look it up."""
        raise KeyError(city)

    with pytest.raises(KeyError):
        tiny.run_tools(messages, [broken], tool_choice="required", parallel_calls=False, max_tokens=300)


@pytest.mark.parametrize("regex", ["a{99999999}", "(a{1000}){1000}"])
def test_what_is_too_large_to_be_followed_says_so(llama: Llama, regex: str) -> None:
    """In words of ours: the library's are "too many expressions constructed"."""
    with pytest.raises(RequestError, match="too large to be followed: smaller counts of repetitions"):
        llama.generate("x", regex=regex, max_tokens=3)


def test_a_call_that_a_limit_cuts_off_is_no_text(llama: Llama) -> None:
    """The reference is what the tokens say: the whole calls, then the beginning of one."""
    settings: dict[str, Any] = {"tools": [weather], "tool_choice": "required", "temperature": 1.0, "seed": 3}
    whole = llama.generate("Weather?", max_tokens=400, **settings)
    calls = [json.dumps({"name": call.name, "parameters": dict(call.arguments)}) for call in whole.tool_calls]
    assert calls
    for limit in range(1, len(whole.token_ids), 31):
        done = llama.generate("Weather?", max_tokens=limit, **settings)
        written = llama.tokenizer.decode(list(done.token_ids))
        assert done.finish_reason == "length"
        assert done.text == ""
        if len(done.tool_calls) < len(calls):
            assert done.unfinished_call is not None or written.rstrip("\r\n\t ;,").endswith("}")
        if done.unfinished_call is not None:
            assert written.endswith(done.unfinished_call.arguments_json)
            assert done.unfinished_call.name in ("", "weather")
