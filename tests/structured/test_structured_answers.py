"""Structure in whole generations: alone, in batches, with speculation, with penalties and samples."""

import json
import re
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from llama3_mlx import Llama, RequestError, StructureError
from llama3_mlx.generation.options import GenerationOptions


@dataclass
class Person:
    name: Literal["Ada", "Charles", "Grace Brewster Murray Hopper"]
    born: int
    children: list[Literal["Byron", "Annabella"]]


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"},
        "tags": {"type": "array", "items": {"enum": ["red", "green"]}, "minItems": 1, "maxItems": 3},
        "size": {"type": "integer", "minimum": 1, "maximum": 999},
    },
    "required": ["id", "tags", "size"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def llama(tiny_folder: Path) -> Iterator[Llama]:
    with Llama.load(tiny_folder) as loaded:
        yield loaded


def test_an_answer_becomes_the_object_of_its_schema(llama: Llama) -> None:
    for seed in range(4):
        done = llama.generate("Someone", schema=Person, max_tokens=400, temperature=1.0, seed=seed)
        if done.finish_reason == "stop":
            assert isinstance(done.parsed, Person)
            assert json.loads(done.text)["name"] == done.parsed.name
            return
    pytest.fail("no answer came to its end")


def test_each_form_holds(llama: Llama) -> None:
    settings: dict[str, Any] = {"max_tokens": 200, "temperature": 1.0, "seed": 3}
    assert llama.generate("x", choices=["left", "right, then left"], **settings).text in ("left", "right, then left")
    assert re.fullmatch(r"[ab]{2,9}-\d", llama.generate("x", regex=r"[ab]{2,9}-\d", **settings).text)
    assert re.fullmatch(r"\((1|2)\)", llama.generate("x", grammar='start: "(" ("1" | "2") ")"', **settings).text)
    assert set(llama.generate("x", schema=SCHEMA, **settings).parsed) == {"id", "tags", "size"}


def test_batched_and_sampled_answers_are_those_of_single_runs(llama: Llama) -> None:
    prompts = ["a", "Some longer prompt that fills more tokens", "b c d"]
    settings: dict[str, Any] = {"max_tokens": 120, "temperature": 1.0, "seed": 5, "schema": SCHEMA}
    alone = [llama.generate(prompt, **settings).token_ids for prompt in prompts]
    assert [done.token_ids for done in llama.generate_batch(prompts, **settings)] == alone
    samples = llama.samples(prompts[0], 3, **settings)
    assert samples[0].token_ids == alone[0]
    assert len({done.text for done in samples}) > 1
    for done in samples:
        assert done.parsed["size"] in range(1, 1000)


def test_free_and_held_answers_share_a_batch(llama: Llama) -> None:
    free: dict[str, Any] = {"max_tokens": 30, "temperature": 0.0, "ignore_eos": True}
    expected = llama.generate("a free one", **free).token_ids
    held = llama.stream("held", schema=SCHEMA, max_tokens=200, temperature=1.0, seed=1)
    next(held)
    assert llama.generate("a free one", **free).token_ids == expected
    assert held.completion.parsed["tags"]


def test_speculation_changes_nothing(llama: Llama) -> None:
    prompt = "red green red green " + json.dumps({"id": "ABC-1234", "tags": ["red"], "size": 12}) * 4
    for temperature in (0.0, 1.0):
        settings: dict[str, Any] = {"schema": SCHEMA, "max_tokens": 200, "temperature": temperature, "seed": 2}
        plain = llama.generate(prompt, speculate=False, **settings)
        drafted = llama.generate(prompt, speculate=True, **settings)
        assert drafted.finish_reason == plain.finish_reason == "stop"
        if temperature == 0.0:
            assert drafted.token_ids == plain.token_ids
        assert set(drafted.parsed) == set(SCHEMA["properties"])


def test_what_cannot_be_compiled_is_refused_before_anything_runs(llama: Llama) -> None:
    with pytest.raises(RequestError, match="the schema isn't valid: type is"):
        llama.stream("x", schema={"type": "strin"})
    with pytest.raises(RequestError, match="one output constraint at a time"):
        GenerationOptions(schema=SCHEMA, regex="a")
    assert not llama.engine.running


def test_an_answer_that_was_cut_off_has_no_object(llama: Llama) -> None:
    done = llama.generate("x", schema=SCHEMA, max_tokens=3)
    assert (done.finish_reason, done.parsed) == ("length", None)


def test_the_guide_runs(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = Path(__file__).parents[2] / "docs" / "structured-output.md"
    code = "\n".join(re.findall(r"```python\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL))
    (tmp_path / "llama-3.2-3b-4bit").symlink_to(tiny_folder)
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("guide")
    monkeypatch.setitem(sys.modules, "guide", module)
    exec(compile(code, "guide", "exec"), module.__dict__)
    with module.llama:
        assert isinstance(module.run.text, str)


def weather(city: str) -> str:
    """Tell the weather."""
    return f"sunny in {city}"


@pytest.mark.parametrize("seed", range(6))
def test_with_tools_and_a_schema_the_answer_is_a_call_or_of_the_schema(llama: Llama, seed: int) -> None:
    """The random model finds either way; what it says is judged by the two schemas."""
    options: dict[str, Any] = {"schema": {"enum": [1, 2]}, "tools": [weather], "temperature": 3.0, "max_tokens": 200}
    done = llama.generate("x", seed=seed, **options)
    if done.tool_calls:
        assert [call.name for call in done.tool_calls] == ["weather"] * len(done.tool_calls)
        assert done.parsed is None
    elif done.finish_reason == "stop":
        assert done.parsed in (1, 2)
    with pytest.raises(RequestError, match="regex and tools can't be combined"):
        llama.generate("x", regex="a", tools=[weather])


def test_calls_that_do_not_fit_what_no_grammar_holds_say_so(llama: Llama) -> None:
    one = {"type": "array", "items": {"const": 1}, "minItems": 2, "maxItems": 2, "uniqueItems": True}
    parameters = {"type": "object", "properties": {"a": one}, "required": ["a"]}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    done = llama.generate("x", tools=[tool], tool_choice="required", parallel_calls=False, max_tokens=400)
    assert [call.problem for call in done.tool_calls] == ["f.a has an item twice"]


def test_an_answer_outside_of_what_no_grammar_holds_is_an_error_with_its_text(llama: Llama) -> None:
    with pytest.raises(StructureError, match="the answer is 3, which is excluded") as caught:
        llama.generate("x", schema={"const": 3, "not": {"minimum": 2}})
    assert caught.value.text.strip() == "3"


def test_a_repeated_constraint_is_compiled_once(llama: Llama) -> None:
    options = GenerationOptions(tools=[weather])
    assert llama._submitter.compile(options) is llama._submitter.compile(GenerationOptions(tools=[weather]))
    assert llama._submitter.compile(options) is not llama._submitter.compile(GenerationOptions(regex="a"))
