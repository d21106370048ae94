"""Frameworks for agents as they are installed, unmodified, with a model that says what the test wants.

They may live in an environment of their own, since they hold each other's dependencies down: `LLAMA3_MLX_CLIENTS` names
its Python. `pip install '.[clients]'` installs them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llama3_mlx.generation.options import GenerationOptions

from ..support.scripted_llama import scripted_server

PYTHON = os.environ.get("LLAMA3_MLX_CLIENTS", sys.executable)
CALL = '{"name": "weather", "parameters": {"city": "Rome"}}'
REPORT = {"city": "Rome", "degrees": 42}


def script(prompt: str, options: GenerationOptions) -> str:
    """Ask the tool first, if there is one, then answer: by the schema, or through the tool that stands for it."""
    tools = {tool["function"]["name"]: tool["function"] for tool in options.tools}
    if "weather" in tools and "42 degrees in Rome" not in prompt:
        return CALL
    if options.schema is not None and options.tool_choice == "auto":
        return json.dumps(REPORT)
    name = next((name for name in tools if name != "weather"), None)
    return "It is hot." if name is None else json.dumps({"name": name, "parameters": REPORT})


def run(package: str, code: str, server: str) -> Any:
    """Run a script that prints JSON on its last line; skips the test where the package isn't installed."""
    environment = {**os.environ, "OPENAI_API_KEY": "none", "OPENAI_AGENTS_DISABLE_TRACING": "1"}
    environment |= {"OPENAI_BASE_URL": f"{server}/v1", "ANTHROPIC_API_KEY": "none", "ANTHROPIC_BASE_URL": server}
    environment.pop("LD_PRELOAD", None)
    environment.pop("PYTHONPATH", None)
    found = subprocess.run([PYTHON, "-c", f"import {package}"], env=environment, capture_output=True, text=True)
    if found.returncode and "ModuleNotFoundError" in found.stderr:
        pytest.skip(f"{package} isn't installed: pip install '.[clients]'")
    done = subprocess.run([PYTHON, "-c", COMMON + code], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


COMMON = """
import asyncio, json, warnings
from pydantic import BaseModel
warnings.simplefilter("ignore")
class Report(BaseModel):
    city: str
    degrees: int
QUESTION = "What is the weather in Rome?"
"""
# Each prints the text after a tool's call, an object of a class with no tool, and one after a tool's call.
OPENAI_AGENTS = """
from agents import Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, function_tool
from openai import AsyncOpenAI
@function_tool
def weather(city: str) -> str:
    return f"42 degrees in {city}"
async def main():
    found = []
    for kind in (OpenAIResponsesModel, OpenAIChatCompletionsModel):
        model = kind("tiny", AsyncOpenAI())
        text = await Runner.run(Agent(name="a", model=model, tools=[weather]), QUESTION)
        alone = await Runner.run(Agent(name="a", model=model, output_type=Report), QUESTION)
        both = await Runner.run(Agent(name="a", model=model, tools=[weather], output_type=Report), QUESTION)
        found.append([text.final_output, alone.final_output.model_dump(), both.final_output.model_dump()])
    streamed = Runner.run_streamed(Agent(name="a", model=model, tools=[weather]), QUESTION)
    async for _ in streamed.stream_events():
        pass
    print(json.dumps([*found, streamed.final_output]))
asyncio.run(main())
"""
PYDANTIC_AI = """
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
def weather(city: str) -> str:
    return f"42 degrees in {city}"
found = []
for model in (OpenAIChatModel("tiny"), OpenAIResponsesModel("tiny")):
    text = Agent(model, tools=[weather]).run_sync(QUESTION).output
    by_tool = Agent(model, output_type=Report).run_sync(QUESTION).output
    both = Agent(model, tools=[weather], output_type=NativeOutput(Report)).run_sync(QUESTION).output
    found.append([text, by_tool.model_dump(), both.model_dump()])
print(json.dumps(found))
"""
INSTRUCTOR = """
import instructor
from openai import OpenAI
modes = (instructor.Mode.TOOLS, instructor.Mode.JSON, instructor.Mode.JSON_SCHEMA, instructor.Mode.RESPONSES_TOOLS)
found = []
for mode in modes:
    client = instructor.from_openai(OpenAI(), mode=mode)
    question = [{"role": "user", "content": QUESTION}]
    found.append(client.create(model="tiny", messages=question, response_model=Report, max_retries=0).model_dump())
print(json.dumps(found))
"""
LANGCHAIN = """
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
@tool
def weather(city: str) -> str:
    "Tell the weather."
    return f"42 degrees in {city}"
found = []
for responses in (False, True):
    model = ChatOpenAI(model="tiny", use_responses_api=responses)
    calling = model.bind_tools([weather])
    said = calling.invoke(QUESTION)
    result = weather.invoke(said.tool_calls[0])
    text = calling.invoke([("user", QUESTION), said, result]).text
    alone = model.with_structured_output(Report, method="json_schema").invoke(QUESTION)
    strict = model.bind_tools([weather], response_format=Report, strict=True)
    both = strict.invoke([("user", QUESTION), said, result]).additional_kwargs["parsed"]
    found.append([text() if callable(text) else text, alone.model_dump(), both.model_dump()])
print(json.dumps(found))
"""
CASES = {
    "agents": (OPENAI_AGENTS, [["It is hot.", REPORT, REPORT]] * 2 + ["It is hot."]),
    "pydantic_ai": (PYDANTIC_AI, [["It is hot.", REPORT, REPORT]] * 2),
    "instructor": (INSTRUCTOR, [REPORT] * 4),
    "langchain_openai": (LANGCHAIN, [["It is hot.", REPORT, REPORT]] * 2),
}


@pytest.mark.parametrize("package", CASES)
def test_a_framework_gets_answers_calls_and_objects(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    code, expected = CASES[package]
    with scripted_server(monkeypatch, {"tiny": tiny_folder}, script) as (server, _):
        assert run(package, code, server.url) == expected
