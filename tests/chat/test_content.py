"""Templates get content in the form that they read, and none drops a message unseen; transformers is the reference."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from llama3_mlx.chat.llama3_templates import LLAMA_3, LLAMA_3_1
from llama3_mlx.errors import DialogError

from .test_dialog import make_dialog, reference_ids, trl_template

# In the manner of Llama Guard 3 1B's: it loops over the parts of every content.
PARTS = """{% for message in messages %}{{ message['role'] + ': ' }}
{%- for content in message['content'] | selectattr('type', 'equalto', 'text') -%}
{{ content['text'] | trim }}{% endfor %};{% endfor %}"""
# In the manner of Llama Guard 3 8B's: it calls a method of text.
TEXT = "{% for message in messages %}{{ message['role'] + ': ' + message['content'].strip() }};{% endfor %}"
# In the manner of Llama 3.2 Vision's: a system text, parts or text elsewhere.
MIXED = """{% if messages[0].role == 'system' %}{{ messages[0].content | trim }};
{%- set messages = messages[1:] %}{% endif %}
{%- for message in messages %}{% if message.content is string %}{{ message.content }}{% else %}
{%- for content in message.content %}{{ content.text }}{% endfor %}{% endif %};{% endfor %}"""
# A system text that must be text, parts everywhere else.
SPLIT = """{% for message in messages %}{% if message.role == 'system' %}{{ message.content.strip() }}{% else %}
{%- for part in message.content if part.type == 'text' %}{{ part.text }}{% endfor %}{% endif %};{% endfor %}"""
DIALOG = [
    {"role": "system", "content": "Be short and kind."},
    {"role": "user", "content": " Where is the <|eot_id|> of it? "},
    {"role": "assistant", "content": "Over there, behind the hill."},
    {"role": "user", "content": "ok"},
]


def in_parts(messages: list[dict[str, str]], *roles: str) -> list[dict[str, Any]]:
    return [
        {**each, "content": [{"type": "text", "text": each["content"]}]} if each["role"] in roles else each
        for each in messages
    ]


@pytest.mark.parametrize(
    ("template", "roles"),
    [
        (PARTS, ("system", "user", "assistant")),
        (TEXT, ()),
        (MIXED, ()),
        (SPLIT, ("user", "assistant")),
        (LLAMA_3, ()),
    ],
    ids=["parts", "text", "mixed", "split", "llama3"],
)
def test_each_role_s_content_comes_in_the_form_that_the_template_reads(
    llama3_folder: Path, template: str, roles: tuple[str, ...]
) -> None:
    dialog = make_dialog(llama3_folder, template)
    messages = [{**each, "content": each["content"].replace("<|eot_id|>", "end")} for each in DIALOG]
    expected = reference_ids(llama3_folder, template, in_parts(messages, *roles), add_generation_prompt=True)
    # Whichever form a caller has.
    assert dialog.encode(messages) == expected
    assert dialog.encode(in_parts(messages, "system", "user", "assistant")) == expected


@pytest.mark.parametrize("template", [PARTS, SPLIT])
def test_control_tokens_in_parts_stay_text(llama3_folder: Path, template: str) -> None:
    dialog = make_dialog(llama3_folder, template)
    ids = dialog.encode(DIALOG)
    assert 128009 not in ids
    assert "Where is the <|eot_id|> of it?" in dialog.tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for message in messages %}{{ message.role }}{% endfor %}", "message 0, which is by the role 'system'"),
        ("{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}", "message 0.*'Be short and kind.'"),
        ("{{ messages[-1].content }}", "message 0"),
        ("{% for m in messages[:-1] %}{{ m.content }}{% endfor %} it's ok", "message 3.*: 'ok'"),
        ("{% for m in messages %}{{ m.parts }}{% endfor %}", "message 0"),
    ],
)
def test_a_message_that_a_template_drops_is_an_error(llama3_folder: Path, template: str, words: str) -> None:
    with pytest.raises(DialogError, match=f"the chat template writes nothing of {words}"):
        make_dialog(llama3_folder, template).encode(DIALOG)


def test_what_a_template_of_a_reasoning_model_leaves_out_on_purpose_is_no_error(llama3_folder: Path) -> None:
    template = trl_template("deepseek_r1_distill")
    thought = {"role": "assistant", "content": "<think>\nIt is two.\n</think>\n\nTwo."}
    messages = [{"role": "user", "content": "1 + 1?"}, thought, {"role": "user", "content": "And 2 + 2, please?"}]
    expected = reference_ids(llama3_folder, template, messages)
    assert make_dialog(llama3_folder, template).encode(messages) == expected


def test_tool_results_that_a_template_writes_as_json_are_no_error(llama3_folder: Path) -> None:
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "Weather in Zürich?"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
        {"role": "tool", "content": 'She said "it is\nwarm".'},
    ]
    theirs: list[dict[str, Any]] = [dict(each) for each in messages]
    theirs[1]["tool_calls"] = [{"type": "function", "function": {"name": "f", "arguments": {}}}]
    expected = reference_ids(llama3_folder, trl_template("llama3_1"), theirs)
    assert make_dialog(llama3_folder, LLAMA_3_1).encode(messages) == expected


def test_the_text_before_a_call_that_a_template_drops_becomes_a_message(llama3_folder: Path) -> None:
    call = [{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]
    user, text = {"role": "user", "content": "Weather?"}, "Let me look that up."
    both: dict[str, Any] = {"role": "assistant", "content": text, "tool_calls": call}
    apart = [{"role": "assistant", "content": text}, {"role": "assistant", "content": "", "tool_calls": call}]
    expected = reference_ids(llama3_folder, trl_template("llama3_1"), [user, *apart])
    assert make_dialog(llama3_folder, trl_template("llama3_1")).encode([user, both]) == expected


def test_a_bound_day_is_the_template_s_today(llama3_folder: Path) -> None:
    template = trl_template("llama3_2")
    dialog = make_dialog(llama3_folder, template)
    assert dialog.writes_date
    assert not make_dialog(llama3_folder, LLAMA_3_1).writes_date
    expected = reference_ids(llama3_folder, template, DIALOG[2:], date_string="02 Nov 2026")
    for day in ("2026-11-02", date(2026, 11, 2)):
        assert dialog.bound(today=day).encode(DIALOG[2:]) == expected
    assert dialog.bound(date_string="02 Nov 2026").encode(DIALOG[2:]) == expected
    # What is given with a dialog goes before what is bound.
    bound = dialog.bound(today="2020-01-01", date_string="03 Nov 2026")
    assert bound.encode(DIALOG[2:], date_string="02 Nov 2026") == expected
    with pytest.raises(DialogError, match="must be like 2026-11-26, not 'tomorrow'"):
        dialog.bound(today="tomorrow")
