"""The loop of calls and results, with turns from a script and from a model held to a grammar."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import pytest

from llama3_mlx import Llama, RequestError, ToolCall, ToolRun, parse_tool_calls
from llama3_mlx.chat.messages import normalize
from llama3_mlx.generation.completion import Completion
from llama3_mlx.tools.functions import tool_name, tool_specs

from ..chat.test_dialog import make_dialog, trl_template

ASKED = [{"role": "user", "content": "Weather in Bern and Rom?"}]


def weather(city: Literal["Bern", "Rom"]) -> dict[str, Any]:
    """Tell the weather."""
    return {"city": city, "degrees": len(city)}


async def later(n: int) -> int:
    """Add one."""
    await asyncio.sleep(0)
    return n + 1


def call(name: str, **arguments: Any) -> str:
    return json.dumps({"name": name, "parameters": arguments})


class Script:
    """In the place of a model: says what stands in the script, and keeps what it was asked."""

    def __init__(self, *texts: str) -> None:
        self.texts, self.seen, self.settings = list(texts), list[Any](), list[Any]()

    def chat(self, messages: Sequence[Any], **settings: Any) -> Completion:
        self.seen.append(list(messages))
        self.settings.append(settings)
        names = [tool_name(tool) for tool in settings["tools"]] if settings["tool_choice"] != "none" else []
        found = parse_tool_calls(self.texts.pop(0), names)
        return Completion(found.content, (), "stop", 0, 0, 0.0, 0.0, 0, tool_calls=found.calls)

    async def achat(self, messages: Sequence[Any], **settings: Any) -> Completion:
        return self.chat(messages, **settings)


def run(script: Script, tools: Sequence[Any], **settings: Any) -> ToolRun:
    return Llama.run_tools(cast(Llama, script), ASKED, tools, **settings)


def test_calls_are_run_and_their_results_go_back_until_the_answer() -> None:
    script = Script(f"{call('weather', city='Bern')}; {call('weather', city='Rom')}", call("later", n=1), "Fine.")
    done = run(script, [weather, later])
    assert (done.text, done.rounds) == ("Fine.", 2)
    assert done.calls == [
        ToolCall("weather", {"city": "Bern"}),
        ToolCall("weather", {"city": "Rom"}),
        ToolCall("later", {"n": 1}),
    ]
    roles = [message["role"] for message in done.messages]
    assert roles == ["user", "assistant", "tool", "tool", "assistant", "tool", "assistant"]
    results = [message for message in done.messages if message["role"] == "tool"]
    assert [json.loads(message["content"]) for message in results] == [weather("Bern"), weather("Rom"), 2]
    ids = [made["id"] for message in done.messages for made in message.get("tool_calls", ())]
    assert ids == [message["tool_call_id"] for message in results]
    assert [len(seen) for seen in script.seen] == [1, 4, 6]
    normalize(done.messages)
    assert len(ASKED) == 1


def test_the_async_loop_does_the_same() -> None:
    texts = [call("weather", city="Rom"), call("later", n=4), "Done."]
    done = asyncio.run(Llama.arun_tools(cast(Llama, Script(*texts)), ASKED, [weather, later]))
    assert done.messages == run(Script(*texts), [weather, later]).messages


def test_arguments_that_do_not_fit_go_back_to_the_model() -> None:
    done = run(Script(call("weather", city="Oslo"), call("weather", city="Rom"), "7"), [weather])
    assert json.loads(done.messages[2]["content"]) == {"error": "weather.city is 'Oslo'; accepted are 'Bern', 'Rom'"}
    assert done.text == "7"


def test_what_a_function_raises_goes_to_the_caller() -> None:
    def broken() -> None:
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        run(Script(call("broken")), [broken])


def test_after_the_last_round_the_model_answers_without_tools() -> None:
    script = Script(*[call("weather", city="Rom")] * 3, "It is warm.")
    done = run(script, [weather], max_rounds=3, tool_choice="required", seed=4)
    assert done.text == "It is warm."
    assert [asked["tool_choice"] for asked in script.settings] == ["required", "auto", "auto", "none"]
    assert {asked["seed"] for asked in script.settings} == {4}


def test_calls_of_unknown_tools_are_text_and_specifications_are_refused() -> None:
    text = call("unknown", a=1)
    assert run(Script(text), [weather]).text == text
    with pytest.raises(RequestError, match="weather can't be run: give functions"):
        run(Script(), tool_specs([weather]))


def test_the_dialog_of_a_run_renders(llama3_folder: Path) -> None:
    done = run(Script(f"{call('weather', city='Bern')}; {call('weather', city='Rom')}", "Ok."), [weather])
    dialog = make_dialog(llama3_folder, trl_template("llama3_1"))
    text = dialog.tokenizer.decode(dialog.encode(done.messages, tools=tool_specs([weather])))
    for place in ('{"name": "weather", "parameters": {"city": "Rom"}}<|eot_id|>', "ipython", "Ok.<|eot_id|>"):
        assert place in text


@pytest.fixture(scope="module")
def llama(tiny_folder: Path) -> Iterator[Llama]:
    with Llama.load(tiny_folder) as loaded:
        yield loaded


def test_a_model_that_must_call_calls_with_arguments_of_the_schema(llama: Llama) -> None:
    for choice in ("required", "weather"):
        for seed in range(3):
            settings: dict[str, Any] = {"temperature": 1.0, "seed": seed, "max_tokens": 200, "parallel_calls": False}
            done = llama.chat(ASKED, tools=[weather], tool_choice=choice, **settings)
            (made,) = done.tool_calls
            assert (done.text, done.finish_reason, made.name) == ("", "stop", "weather")
            assert made.arguments["city"] in ("Bern", "Rom")
    several = llama.chat(ASKED, tools=[weather], tool_choice="required", temperature=1.0, seed=0, max_tokens=200)
    assert {made.arguments["city"] for made in several.tool_calls} <= {"Bern", "Rom"}
    stream = llama.stream_chat(ASKED, tools=[weather], tool_choice="required", temperature=1.0, seed=0, max_tokens=200)
    pieces = list(stream)
    assert [call for piece in pieces for call in piece.tool_calls] == list(stream.completion.tool_calls)


def test_a_model_runs_tools_to_its_answer(llama: Llama) -> None:
    done = llama.run_tools(
        ASKED, [weather], max_rounds=1, tool_choice="required", temperature=1.0, seed=1, max_tokens=60
    )
    assert [message["role"] for message in done.messages] == ["user", "assistant", "tool", "assistant"]
    assert json.loads(done.messages[2]["content"]) == weather(done.calls[0].arguments["city"])
