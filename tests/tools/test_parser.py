"""Tool calls in what a model writes: every syntax, several at once, streamed in any pieces; content stays content."""

import json
import random
from typing import Any

import pytest

from llama3_mlx.tools.call import ToolCall
from llama3_mlx.tools.parser import ToolCallStream, call_message, parse_tool_calls

NAMES = ["weather", "get.time", "f", "g", "brave_search"]
NESTED: dict[str, Any] = {"a": {"b": [1, 2.5, None, True, {"c": "}]<|eot_id|>"}]}, "ä": 'x"\\\n'}

CALLS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    '{"name": "weather", "parameters": {"city": "Zürich"}}': [("weather", {"city": "Zürich"})],
    '  \n{"name": "weather", "arguments": {"city": "Rom"}}\n': [("weather", {"city": "Rom"})],
    '{"type": "function", "name": "f", "parameters": {}}': [("f", {})],
    '{"type":"function","function":{"name":"f","arguments":{"a":1}}}': [("f", {"a": 1})],
    '{"function": "f", "parameters": {"a": 1}}': [("f", {"a": 1})],
    '{"parameters": {"a": 1}, "name": "f"}': [("f", {"a": 1})],
    '{"name": "f", "arguments": "{\\"a\\": 1}"}': [("f", {"a": 1})],
    '{"name": "f"}': [("f", {})],
    '{"name": "f", "parameters": null}': [("f", {})],
    "{" + f'"name": "f", "parameters": {json.dumps(NESTED)}' + "}": [("f", NESTED)],
    '<|python_tag|>{"name": "f", "parameters": {"a": 1}}': [("f", {"a": 1})],
    '{"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {}}': [("f", {"a": 1}), ("g", {})],
    '{"name": "f", "parameters": {}}\n{"name": "g", "parameters": {}}': [("f", {}), ("g", {})],
    '[{"name": "f", "parameters": {}}, {"name": "g", "arguments": {"b": 2}}]': [("f", {}), ("g", {"b": 2})],
    '<function=f>{"a": {"b": 1}}</function>': [("f", {"a": {"b": 1}})],
    '<function=f>{"a": "</function>"}</function>': [("f", {"a": "</function>"})],
    "<function=f>{}</function><function=g></function>": [("f", {}), ("g", {})],
    '<function=f>{"a": 1}': [("f", {"a": 1})],
    '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>': [("f", {"a": 1})],
    '<tool_call>{"name": "f", "arguments": {}}</tool_call>\n<tool_call>{"name": "g", "arguments": {}}</tool_call>': [
        ("f", {}),
        ("g", {}),
    ],
    '<tool_call>{"name": "f", "arguments": {"a": "</tool_call>"}}': [("f", {"a": "</tool_call>"})],
    "[f(a=1, b=\"x\"), g(), get.time(zone='UTC')]": [
        ("f", {"a": 1, "b": "x"}),
        ("g", {}),
        ("get.time", {"zone": "UTC"}),
    ],
    "[f(a=[1, -2.5e3, {'k': None}], b=(True, false,), c='it\\'s \\u00e9\\n')]": [
        ("f", {"a": [1, -2500.0, {"k": None}], "b": [True, False], "c": "it's é\n"})
    ],
    '[f(code="""two\nlines""", s="a" \'b\')]': [("f", {"code": "two\nlines", "s": "ab"})],
    'brave_search.call(query="a \\"b\\" (c)")': [("brave_search", {"query": 'a "b" (c)'})],
    '<|python_tag|>brave_search.call(query="llamas")': [("brave_search", {"query": "llamas"})],
}

CONTENT = [
    "",
    "Hello there.",
    "  leading and trailing  \n",
    "{",
    "{}",
    "[",
    "[1, 2, 3]",
    "[f",
    "[link](https://example.org)",
    "[f] and more",
    "[f(1)]",
    "[f(a=b)]",
    "[f(a=1, a=2)]",
    "[f(a=__import__('os'))]",
    "[f(a=1) + g()]",
    "[f(a=1e999)]",
    "[f(a='\\UFFFFFFFF')]",
    "[f(a=1)",
    "weather",
    "weather is fine",
    "brave_search.call(query=x)",
    '{"name": "Bob", "parameters": {"a": 1}}',
    '{"name": "f", "age": 3}',
    '{"name": "f", "parameters": [1]}',
    '{"name": "f", "parameters": {}, "arguments": {}}',
    '{"name": "f", "parameters": {"a": 1}',
    '{"name": "f", "parameters": {"a": NaN}}',
    '{"name": "f", "parameters": {"a": 1,}}',
    '{"type": "object", "properties": {}}',
    '{"temperature": 3}',
    '[{"name": "f", "parameters": {}}, {"name": "unknown", "parameters": {}}]',
    '<function=unknown>{"a": 1}</function>',
    "<function=f>not json</function>",
    "<function=f>{'a': 1}</function>",
    '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>',
    "<tool_call>no call</tool_call>",
    "<tool_call>",
    "a < b and <function is a word <func",
    "Use <|python and <| alone",
    'Say {"name": "f", "parameters": {}}',
    "[" * 5000,
    '{"name": "f", "parameters": ' + "[" * 5000,
    "[f(a=" + "[" * 5000 + "]",
]


def pieces(text: str, chance: random.Random) -> list[str]:
    result, at = [], 0
    while at < len(text):
        size = chance.choice([1, 1, 2, 3, 5, 8, 40])
        result.append(text[at : at + size])
        at += size
    return result


def streamed(parts: list[str], **options: Any) -> tuple[str, list[ToolCall]]:
    stream = ToolCallStream(**{"names": NAMES, **options})
    found = [item for part in parts for item in stream.add(part)] + stream.finish()
    assert all(found)
    return "".join(item for item in found if isinstance(item, str)), [c for c in found if isinstance(c, ToolCall)]


@pytest.mark.parametrize("text", CALLS)
def test_every_syntax_is_read(text: str) -> None:
    found = parse_tool_calls(text, NAMES)
    assert [(call.name, dict(call.arguments)) for call in found.calls] == CALLS[text]
    assert found.content.strip() == ""


@pytest.mark.parametrize("text", CONTENT)
def test_what_is_no_call_comes_back_unchanged(text: str) -> None:
    found = parse_tool_calls(text, NAMES)
    assert found.content == text
    assert found.calls == ()


def test_how_the_text_is_cut_makes_no_difference() -> None:
    chance = random.Random(0)
    samples = [*CALLS, *(text for text in CONTENT if len(text) < 1000)]
    samples += [f"Let me see. {text} Done." for text in samples]
    samples += [f"{call}\n{text}" for call, text in zip(CALLS, CONTENT, strict=False)]
    for text in samples:
        whole = parse_tool_calls(text, NAMES)
        for _ in range(8):
            content, calls = streamed(pieces(text, chance))
            assert (content, tuple(calls)) == (whole.content, whole.calls), text


def test_text_around_a_function_tag_is_content() -> None:
    found = parse_tool_calls('I look it up: <function=f>{"a": 1}</function> Wait.', NAMES)
    assert found.content == "I look it up:  Wait."
    assert found.calls == (ToolCall("f", {"a": 1}),)


def test_text_before_the_python_tag_is_content_and_the_tag_is_not() -> None:
    found = parse_tool_calls('Hm. <|python_tag|>{"name": "f", "parameters": {}}', NAMES)
    assert (found.content, found.calls) == ("Hm. ", (ToolCall("f", {}),))
    assert parse_tool_calls("<|python_tag|>print(1)", NAMES).content == "print(1)"


def test_what_follows_a_call_is_content() -> None:
    found = parse_tool_calls('{"name": "f", "parameters": {}}\nI called f.', NAMES)
    assert (found.content.strip(), found.calls) == ("I called f.", (ToolCall("f", {}),))


def test_code_goes_to_the_code_tool_only_behind_the_tag() -> None:
    code = "x = {'a': 1}\nprint(x)\n"
    found = parse_tool_calls(f"<|python_tag|>{code}", NAMES, code_tool="ipython")
    assert (found.content, found.calls) == ("", (ToolCall("ipython", {"code": code}),))
    assert parse_tool_calls(code, NAMES, code_tool="ipython").content == code
    searched = parse_tool_calls('<|python_tag|>brave_search.call(query="x")', NAMES, code_tool="ipython")
    assert searched.calls == (ToolCall("brave_search", {"query": "x"}),)


def test_without_names_any_tool_can_be_called() -> None:
    assert parse_tool_calls('{"name": "x", "parameters": {"a": 1}}').calls == (ToolCall("x", {"a": 1}),)
    assert parse_tool_calls("[anything(a=1)]").calls == (ToolCall("anything", {"a": 1}),)
    assert parse_tool_calls('{"name": "Bob"}').calls == ()


def test_content_streams_at_once() -> None:
    for text in ("Hello", "The", "{ x", "[1", "w x", '{"answer', '{"name": "B', '{"type": "o', "[wx", "brave_search, "):
        assert ToolCallStream(NAMES).add(text) == [text], text
    stream = ToolCallStream(NAMES)
    assert stream.add("a <") == ["a "]
    assert stream.add("fun") == []
    assert stream.add(" x") == ["<fun x"]


def test_a_call_comes_out_when_it_is_whole() -> None:
    stream = ToolCallStream(NAMES)
    assert stream.add('{"name": "f", "parameters": {"a": {"b": 1}') == []
    assert stream.add("}}") == [ToolCall("f", {"a": {"b": 1}})]
    assert stream.add('; {"name": "g", "parameters": {}}') == [ToolCall("g", {})]
    assert stream.finish() == []


def test_lone_surrogates_in_arguments_become_the_replacement_character() -> None:
    for text in ('{"name": "f", "parameters": {"a": "\\ud83e\\udd99 \\ud800"}}', "[f(a='\\ud83e\\udd99 \\ud800')]"):
        (call,) = parse_tool_calls(text, NAMES).calls
        assert call.arguments == {"a": "🦙 \ufffd"}


@pytest.mark.timeout(120)
def test_long_and_hostile_texts_come_to_an_end() -> None:
    texts = [
        '{"name": "f", "parameters": {"a": "' + "x}" * 20_000 + '"}}',
        "[f(a=[" + "[1, 'x'], " * 3_000 + "])]",
        "<function=f" * 20_000,
        "<|python_ta" * 20_000,
        "[f(a='" + "\\" * 40_000,
        "[f(a=" + "1," * 20_000,
    ]
    for text in texts:
        content, calls = streamed([text[at : at + 64] for at in range(0, len(text), 64)])
        assert calls or content, text[:40]


def test_a_message_with_calls_has_openais_shape() -> None:
    assert call_message([ToolCall("f", {"a": 1})], ids=["c1"]) == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}],
    }


@pytest.mark.parametrize(
    ("text", "pending"),
    [
        ('{"name": "f", "par', '{"name": "f", "par'),
        ("if (x) {", ""),
        ('Well: {"name": "f"', ""),
        ('{"name": "f", "parameters": {}}; {"na', '; {"na'),
    ],
)
def test_what_may_become_a_call_is_told_from_other_text(text: str, pending: str) -> None:
    stream = ToolCallStream(["f"])
    for character in text:
        stream.add(character)
    assert stream.pending == pending
