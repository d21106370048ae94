"""The loop of calls and results, with answers from a script and from a model held to a grammar."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from llama3_mlx.errors import RequestError
from llama3_mlx.messages import normalise
from llama3_mlx.tool_call import ToolCall
from llama3_mlx.tool_loop import Message, ToolRun, arun_tools, run_tools
from llama3_mlx.tools import tool_specs

from .test_dialog import make_dialog, trl_template

ASKED = [{"role": "user", "content": "Weather in Bern and Rom?"}]


def weather(city: Literal["Bern", "Rom"]) -> dict[str, Any]:
    """Tell the weather."""
    return {"city": city, "degrees": len(city)}


async def later(n: int) -> int:
    """Add one."""
    await asyncio.sleep(0)
    return n + 1


class Script:
    """A model that says what stands in the script, and keeps what it was asked."""

    def __init__(self, *texts: str) -> None:
        self.texts, self.seen = list(texts), list[list[Message]]()

    def __call__(self, messages: Sequence[Message]) -> str:
        self.seen.append(list(messages))
        return self.texts.pop(0)


def call(name: str, **arguments: Any) -> str:
    return json.dumps({"name": name, "parameters": arguments})


def test_calls_are_run_and_their_results_go_back_until_the_answer() -> None:
    script = Script(f"{call('weather', city='Bern')}; {call('weather', city='Rom')}", call("later", n=1), "Fine.")
    run = run_tools(script, ASKED, [weather, later])
    assert run.text == "Fine."
    assert run.calls == (
        (ToolCall("weather", {"city": "Bern"}), '{"city": "Bern", "degrees": 4}'),
        (ToolCall("weather", {"city": "Rom"}), '{"city": "Rom", "degrees": 3}'),
        (ToolCall("later", {"n": 1}), "2"),
    )
    roles = [message["role"] for message in run.messages]
    assert roles == ["user", "assistant", "tool", "tool", "assistant", "tool", "assistant"]
    ids = [made["id"] for message in run.messages for made in message.get("tool_calls", ())]
    assert ids == [message["tool_call_id"] for message in run.messages if message["role"] == "tool"]
    assert [len(seen) for seen in script.seen] == [1, 4, 6]
    normalise(run.messages)


def test_the_async_loop_does_the_same() -> None:
    texts = [call("weather", city="Rom"), call("later", n=4), "Done."]
    script = Script(*texts)

    async def answer(messages: Sequence[Message]) -> str:
        return script(messages)

    run: ToolRun = asyncio.run(arun_tools(answer, ASKED, [weather, later]))
    assert run == run_tools(Script(*texts), ASKED, [weather, later])


def test_arguments_that_do_not_fit_go_back_to_the_model() -> None:
    run = run_tools(Script(call("weather", city="Oslo"), call("weather", city="Rom"), "7"), ASKED, [weather])
    assert run.calls[0][1] == "error: weather.city is 'Oslo'; accepted are 'Bern', 'Rom'"
    assert run.calls[1][1].startswith("{")


def test_what_a_function_raises_goes_to_the_caller() -> None:
    def broken() -> None:
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        run_tools(Script(call("broken")), ASKED, [broken])


def test_the_loop_ends() -> None:
    script = Script(*[call("weather", city="Rom")] * 4)
    with pytest.raises(RequestError, match="still calls tools after 3 rounds"):
        run_tools(script, ASKED, [weather], max_rounds=3)


def test_calls_of_unknown_tools_are_text_and_specifications_are_refused() -> None:
    text = call("unknown", a=1)
    assert run_tools(Script(text), ASKED, [weather]).text == text
    with pytest.raises(RequestError, match="weather can't be run: give functions"):
        run_tools(Script(), ASKED, tool_specs([weather]))  # type: ignore[arg-type]


def test_the_dialog_of_a_run_renders(llama3_folder: Path) -> None:
    run = run_tools(Script(f"{call('weather', city='Bern')}; {call('weather', city='Rom')}", "Ok."), ASKED, [weather])
    dialog = make_dialog(llama3_folder, trl_template("llama3_1"))
    text = dialog.tokenizer.decode(dialog.encode(run.messages, tools=tool_specs([weather])))
    for place in ('{"name": "weather", "parameters": {"city": "Rom"}}<|eot_id|>', "ipython", "Ok.<|eot_id|>"):
        assert place in text
