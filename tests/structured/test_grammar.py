"""Structured answers: random walks through grammars, over real vocabularies, judged by other packages."""

import datetime
import gc
import json
import random
import re
import subprocess
import sys
import weakref
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import jsonschema
import mlx.core as mx
import numpy as np
import pytest
from pydantic import BaseModel

from llama3_mlx.errors import RequestError, StructureError
from llama3_mlx.structured.grammar import Grammar, GrammarState, compile_grammar
from llama3_mlx.structured.result import parse_result
from llama3_mlx.structured.token_mask import apply_mask, mask_width
from llama3_mlx.structured.vocabulary import exact_ids, grammar_tokens
from llama3_mlx.tokenizer.loading import load_tokenizer
from llama3_mlx.tokenizer.tokenizer import Tokenizer
from llama3_mlx.tools.functions import check_arguments
from llama3_mlx.tools.parser import parse_tool_calls

from ..chat.test_dialog import our_tokenizer
from ..support.random_schemas import random_schema
from ..support.tokenizer_fixtures import save_sentencepiece_bpe

CHECKER = jsonschema.Draft202012Validator.FORMAT_CHECKER
CLOSING = [b'"', b"}", b"]", b'"}', b'"]', b"}}", b"}]", b'",', b'":', b":", b",", b"1", b"0", b"-", b"{", b"[", b"Z"]


class Walker:
    """Takes random ways through grammars over one vocabulary."""

    def __init__(self, tokenizer: Tokenizer, n_vocab: int) -> None:
        self.tokenizer, self.n_vocab = tokenizer, n_vocab
        by_bytes = {tokenizer.token_bytes(token): token for token in reversed(range(n_vocab))}
        self.closing = np.array([by_bytes[data] for data in CLOSING if data in by_bytes])
        self.single = np.array(sorted(token for data, token in by_bytes.items() if len(data) == 1))
        self.stops = np.array(tokenizer.stop_ids)
        self.row = np.zeros(mask_width(n_vocab), np.uint32)

    def allowed(self, state: GrammarState) -> np.ndarray:
        """One boolean a token."""
        self.row[:] = 0
        state.fill_mask(self.row)
        bits = np.unpackbits(self.row.view(np.uint8), bitorder="little").view(bool)
        assert not bits[self.n_vocab :].any()
        return bits[: self.n_vocab]

    def walk(self, grammar: Grammar, chance: random.Random, *, steps: int = 300) -> list[int] | None:
        """Tokens of one way to the end, without the stop token; None if it didn't end within the steps."""
        state = grammar.start()
        tokens: list[int] = []
        for step in range(steps):
            allowed = self.allowed(state)
            may_end = bool(allowed[self.stops].all())
            assert allowed.any(), "nothing may come next"
            assert allowed[self.stops].any() == may_end == state.may_end
            allowed[self.stops] = False
            if may_end and (chance.random() < 0.5 or not allowed.any()):
                return tokens
            token = self._choose(allowed, chance, step)
            state.accept(token)
            tokens.append(token)
        return None

    def _choose(self, allowed: np.ndarray, chance: random.Random, step: int) -> int:
        closing = self.closing[allowed[self.closing]]
        if len(closing) and chance.random() < (0.25 if step < 40 else 0.9):
            return int(closing[0] if step >= 60 else chance.choice(closing))
        short = self.single[allowed[self.single]]
        if len(short) and chance.random() < 0.3:
            return int(chance.choice(short))
        for _ in range(40):
            token = chance.randrange(self.n_vocab)
            if allowed[token]:
                return token
        return int(chance.choice(np.flatnonzero(allowed)))

    def text(self, tokens: list[int]) -> str:
        return b"".join(self.tokenizer.token_bytes(token) for token in tokens).decode()


@pytest.fixture(scope="module")
def llama3(llama3_folder: Path) -> Walker:
    return Walker(our_tokenizer(llama3_folder), 128256)


@pytest.fixture(scope="module")
def smollm2(smollm2_folder: Path) -> Walker:
    # More rows than the tokenizer has tokens, and no whole number of words.
    return Walker(our_tokenizer(smollm2_folder), 49152 + 77)


def compiled(walker: Walker, **what: Any) -> Grammar:
    return compile_grammar(walker.tokenizer, n_vocab=walker.n_vocab, **what)


def texts(walker: Walker, n: int, **what: Any) -> set[str]:
    chance, grammar = random.Random(3), compiled(walker, **what)
    walks = [walker.walk(grammar, chance) for _ in range(n)]
    return {walker.text(tokens) for tokens in walks if tokens is not None}


def test_no_way_leads_outside_of_500_random_schemas(llama3: Walker, smollm2: Walker) -> None:
    chance = random.Random(11)
    compiled_schemas = finished = 0
    while compiled_schemas < 500:
        schema = random_schema(chance)
        try:
            grammars = [(walker, compiled(walker, schema=schema)) for walker in (llama3, smollm2)]
        except RequestError:
            continue
        compiled_schemas += 1
        validator = jsonschema.Draft202012Validator(schema, format_checker=CHECKER)
        for walker, grammar in grammars:
            tokens = walker.walk(grammar, chance)
            if tokens is not None:
                finished += 1
                text = walker.text(tokens)
                validator.validate(json.loads(text))
                parse_result(schema, text)
    assert finished > 900


def test_a_regular_expression_holds(llama3: Walker) -> None:
    for regex in (r"[A-Z][a-z]{2,5}-\d{3}(\.5)?", r"^a/\d+\\\d\n[^\d]$", r"(?i:no|n\/o)"):
        found = texts(llama3, 60, regex=regex)
        assert len(found) > 3
        assert all(re.fullmatch(regex, text, re.ASCII) for text in found)


def test_dates_are_dates_that_there_are(llama3: Walker) -> None:
    readers: dict[str, Any] = {"date": datetime.date, "time": datetime.time, "date-time": datetime.datetime}
    for form, kind in readers.items():
        state = compiled(llama3, schema={"type": "string", "format": form}).start()
        found = texts(llama3, 80, schema={"type": "string", "format": form})
        assert len(found) > 50
        for text in found:
            kind.fromisoformat(json.loads(text))
        assert state.validate_tokens(llama3.tokenizer.encode('"2026-02-30"')) < 8
    days = compiled(llama3, schema=datetime.date)
    for text, valid in {"2024-02-29": True, "2000-02-29": True, "1900-02-29": False, "2023-02-29": False}.items():
        assert takes(llama3, days, f'"{text}"')[0] == valid


@pytest.mark.parametrize(
    "grammar",
    [
        'start: "a" ("b" | number)+\nnumber: /[0-9]/ | "(" number ")"',
        'root ::= "a" ("b" | number)+\nnumber ::= [0-9] | "(" number ")"',
    ],
)
def test_lark_and_ebnf_grammars_hold(smollm2: Walker, grammar: str) -> None:
    found = texts(smollm2, 40, grammar=grammar)
    assert len(found) > 10
    for text in found:
        flat = text
        while re.search(r"\((\d)\)", flat):
            flat = re.sub(r"\((\d)\)", r"\1", flat)
        assert re.fullmatch(r"a[b\d]+", flat)


def test_choices_hold(llama3: Walker) -> None:
    choices = ["yes", "yes, but", "Zürich 🦙", 'a "quote" \\', "two\nlines", "<|eot_id|>"]
    assert texts(llama3, 80, choices=choices) == set(choices)


TOOLS: list[dict[str, Any]] = [
    {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"$ref": "#/$defs/City"}, "days": {"type": "integer", "minimum": 1, "maximum": 5}},
            "required": ["city"],
            "$defs": {"City": {"enum": ["Bern", "Rom"]}},
        },
    },
    {"name": "time", "parameters": {"type": "object", "properties": {"$ref": {"type": "boolean"}}}},
    {"name": "stop"},
]


@pytest.mark.parametrize("several", [False, True])
def test_required_calls_are_calls_with_fitting_arguments(llama3: Walker, several: bool) -> None:
    found = texts(llama3, 40, tools=TOOLS, tool_choice="required", several_calls=several)
    counts, called = set(), set()
    for text in found:
        parsed = parse_tool_calls(text, [tool["name"] for tool in TOOLS])
        assert parsed.content.strip() == ""
        counts.add(len(parsed.calls))
        for call in parsed.calls:
            called.add(call.name)
            check_arguments({tool["name"]: tool for tool in TOOLS}[call.name], call.arguments)
            assert call.name != "weather" or call.arguments["city"] in ("Bern", "Rom")
            assert call.name != "stop" or call.arguments == {}
    assert called == {"weather", "time", "stop"}
    assert (max(counts) > 1) == several


def test_a_named_tool_is_the_one_called(smollm2: Walker) -> None:
    for choice in ("time", {"type": "function", "function": {"name": "time"}}):
        for text in texts(smollm2, 10, tools=TOOLS, tool_choice=choice):
            assert json.loads(text)["name"] == "time"


def takes(walker: Walker, grammar: Grammar, *parts: str | int) -> tuple[bool, bool]:
    """Whether the grammar takes the parts, texts or tokens, and whether the answer may end after them."""
    state = grammar.start()
    for part in parts:
        tokens = [part] if isinstance(part, int) else walker.tokenizer.encode(part)
        if state.validate_tokens(tokens) < len(tokens):
            return False, False
        for token in tokens:
            state.accept(token)
    return True, state.may_end


def test_with_auto_text_is_free_and_calls_are_held_to_their_schema(llama3: Walker, smollm2: Walker) -> None:
    tag = llama3.tokenizer.control_tokens["<|python_tag|>"]
    call, wrong = (
        '{"name": "weather", "parameters": {"city": "Bern"}}',
        '{"name": "weather", "parameters": {"city": "Y"',
    )
    for walker in (llama3, smollm2):
        grammar = compiled(walker, tools=TOOLS)
        for text in ("Hello", 'As JSON: {"a": [1', "\n  Zürich 🦙\n", "[1, 2]"):
            assert takes(walker, grammar, text) == (True, True)
        assert takes(walker, grammar, call) == (True, True)
        assert takes(walker, grammar, call[:-1]) == (True, False)
        for text in (wrong, '{"a": 1}', ' {"a": 1}', call + " so"):
            assert takes(walker, grammar, text)[0] is False
    grammar = compiled(llama3, tools=TOOLS)
    assert takes(llama3, grammar, tag, call) == (True, True)
    assert takes(llama3, grammar, "Let me see.", tag, call) == (True, True)
    assert takes(llama3, grammar, tag, "print(1)")[0] is False
    assert takes(llama3, grammar, 128006)[0] is False


def test_a_state_goes_back_and_copies_stand_on_their_own(llama3: Walker) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "array", "items": {"type": "integer"}}},
        "required": ["a"],
        "additionalProperties": True,
    }
    grammar, chance = compiled(llama3, schema=schema), random.Random(5)
    tokens = [*llama3.tokenizer.encode('{"a": [1, 22, -3], "b": {"c": null}}'), 128009]
    state = grammar.start()
    masks = []
    for token in tokens:
        masks.append(llama3.allowed(state))
        state.accept(token)
    assert state.is_finished
    place = len(tokens)
    for _ in range(200):
        target = chance.randint(0, len(tokens))
        if target <= place:
            copy = state.copy()
            state.rollback(place - target)
            assert not (copy.is_finished and place < len(tokens) - 1)
        else:
            for token in tokens[place:target]:
                state.accept(token)
        place = target
        if place < len(tokens):
            assert np.array_equal(llama3.allowed(state), masks[place])
            assert np.array_equal(llama3.allowed(state.copy()), masks[place])
            assert state.validate_tokens(tokens[place:]) == len(tokens) - place
            broken = [*tokens[place : place + 2], 128006]
            assert state.validate_tokens(broken) == len(broken) - 1


def test_masks_of_drafted_tokens_are_those_of_single_steps(smollm2: Walker) -> None:
    grammar = compiled(smollm2, schema={"type": "array", "items": {"type": "boolean"}})
    state = grammar.start()
    drafted = [*smollm2.tokenizer.encode("[true, false]"), 2, 5]
    rows = np.zeros((len(drafted) + 1, mask_width(smollm2.n_vocab)), np.uint32)
    assert state.fill_masks(rows, drafted) == len(drafted) - 1
    for place, token in enumerate(drafted[:-1]):
        smollm2.allowed(state)
        assert np.array_equal(rows[place], smollm2.row)
        state.accept(token)
    assert not rows[-1].any()


def test_forced_tokens_are_those_of_the_tokenizer(llama3: Walker, smollm2: Walker) -> None:
    for walker in (llama3, smollm2):
        state = compiled(walker, choices=["The answer is Zürich 🦙."]).start()
        expected = walker.tokenizer.encode("The answer is Zürich 🦙.")
        forced = state.forced_tokens()
        assert forced == expected[: len(forced)]
        assert len(forced) >= len(expected) - 1
        assert state.validate_tokens(forced) == len(forced)


def test_a_token_that_is_not_allowed_is_refused_and_changes_nothing(llama3: Walker) -> None:
    state = compiled(llama3, choices=["yes", "no"]).start()
    before = llama3.allowed(state)
    for token in (128009, 128006, llama3.tokenizer.encode("maybe")[0], 5):
        with pytest.raises(RequestError, match=f"token {token} isn't allowed by the grammar here"):
            state.accept(token)
    assert np.array_equal(llama3.allowed(state), before)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({}, "give exactly one of schema, regex, grammar, choices, tools, not none"),
        ({"regex": "a", "choices": ["a"]}, "not regex and choices"),
        ({"schema": {"type": "strin"}}, 'type is "strin", which isn.t a type'),
        ({"schema": {"$ref": "#/$defs/a"}}, "refers to '#/\\$defs/a', which it doesn't have"),
        ({"schema": False}, "the schema can't be compiled"),
        ({"schema": "{"}, "the schema isn't valid JSON"),
        ({"schema": "3"}, "the schema must be a JSON object, not 3"),
        ({"schema": {"const": {1, 2}}}, "the schema isn't valid JSON: .*not JSON serializable"),
        ({"schema": complex}, "the schema has the type complex, which has no JSON schema"),
        ({"regex": "(a"}, "the regex can't be compiled: .*unclosed group"),
        ({"regex": "(?=a)"}, "look-around"),
        ({"regex": 3}, "regex must be a text, not 3"),
        ({"grammar": "start: nothing"}, 'the grammar can\'t be compiled: .*unknown name: "nothing"'),
        ({"grammar": "start: <|nope|>"}, "unknown special token"),
        ({"choices": []}, "choices must be a list of texts"),
        ({"choices": "abc"}, "choices must be a list of texts"),
        ({"choices": ["a", 1]}, "choices must be a list of texts"),
        ({"tools": []}, "tools is empty"),
        ({"tools": TOOLS, "tool_choice": "walk"}, "tool_choice is 'walk'; the tools are weather, time, stop"),
        ({"tools": TOOLS, "tool_choice": 3}, "tool_choice must be"),
        ({"tools": TOOLS, "tool_choice": {}}, "tool_choice names no tool"),
        (
            {"tools": [{"name": "f", "parameters": {"properties": {"a": {"type": "x"}}}}]},
            "the parameters of the tool f can't be used: .*properties.a.type is",
        ),
    ],
)
def test_what_cannot_be_compiled_is_refused_in_one_line(smollm2: Walker, what: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        compiled(smollm2, **what)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


class Color(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Part:
    color: Color
    size: tuple[int, Literal["cm", "m"]]
    note: str | None = None


@dataclass
class Thing:
    parts: list[Part]
    owner: "Thing | None" = None
    counts: dict[str, int] = field(default_factory=dict)


class Model(BaseModel):
    thing_id: int
    tags: list[Literal["a", "b"]] = []
    other: "Model | None" = None


def test_answers_become_dataclasses_and_models(llama3: Walker) -> None:
    chance = random.Random(2)
    for kind in (Thing, Model, list[Part], Color):
        grammar = compiled(llama3, schema=kind)
        results = [parse_result(kind, llama3.text(way)) for _ in range(20) if (way := llama3.walk(grammar, chance))]
        assert len(results) > 8
        expected = list if kind == list[Part] else kind
        assert all(isinstance(result, expected) for result in results)
    text = '{"parts": [{"color": "red", "size": [3, "cm"]}], "owner": {"parts": []}}'
    assert parse_result(Thing, text) == Thing([Part(Color.RED, (3, "cm"))], Thing([]))


def test_answers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(StructureError, match=r"the answer isn't valid JSON .* if max_tokens cut it off, raise it"):
        parse_result({}, '{"a": ')
    with pytest.raises(StructureError, match=r"the answer\.a must be of type integer"):
        parse_result({"properties": {"a": {"type": "integer"}}}, '{"a": "1"}')
    with pytest.raises(StructureError, match=r"the answer.parts\[0\].size must be an array of 2"):
        parse_result(Thing, '{"parts": [{"color": "red", "size": [3]}]}')
    with pytest.raises(StructureError, match=r"the answer\.tags\[0\]"):
        parse_result(Model, '{"thing_id": 1, "tags": ["c"]}')
    assert parse_result('{"type": "string"}', '"\\ud800x"') == "\ufffdx"


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_masked_logits_are_those_of_numpy(dtype: mx.Dtype) -> None:
    rng = np.random.default_rng(0)
    for rows, n_vocab in ((1, 320), (3, 1001), (2, 128256), (3, 1001), (1, 31)):
        logits = mx.array(rng.normal(size=(rows, n_vocab)), dtype)
        masks = rng.integers(0, 2**32, (rows, mask_width(n_vocab)), dtype=np.uint32)
        bits = np.unpackbits(masks.view(np.uint8), axis=1, bitorder="little")[:, :n_vocab].astype(bool)
        found = apply_mask(logits, mx.array(masks))
        assert found.dtype == dtype
        expected = np.where(bits, np.array(logits.astype(mx.float32)), -np.inf)
        assert np.array_equal(np.array(found.astype(mx.float32)), expected)


def test_a_row_of_the_wrong_shape_is_refused(smollm2: Walker) -> None:
    state = compiled(smollm2, choices=["a"]).start()
    for row in (np.zeros(3, np.uint32), np.zeros(mask_width(smollm2.n_vocab), np.uint64)):
        with pytest.raises(RequestError, match="a mask row must be 1539 contiguous 32-bit words"):
            state.fill_mask(row)  # type: ignore[arg-type]


def test_tokens_are_prepared_once_and_freed_with_their_tokenizer(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_sentencepiece_bpe(tmp_path))
    tokens = grammar_tokens(tokenizer, 300)
    assert grammar_tokens(tokenizer, 300) is tokens
    assert grammar_tokens(tokenizer, 301) is not tokens
    freed = weakref.ref(tokenizer)
    del tokenizer, tokens
    gc.collect()
    assert freed() is None


def test_vocabularies_that_put_a_space_before_text_work_too(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_sentencepiece_bpe(tmp_path))
    walker = Walker(tokenizer, tokenizer.vocab_size)
    assert texts(walker, 30, choices=["ab a", "Öl"]) == {"ab a", "Öl"}
    state = compiled(walker, choices=["ab ab"]).start()
    forced = state.forced_tokens()
    assert forced
    assert "ab ab".startswith(walker.text(forced))
    ids = {b"a": 1, b"b": 2, b"ab": 3}
    assert exact_ids("abba", lambda text: [0, 3], [b" ", b"a", b"b", b"ab"], ids) == [3, 2, 1]


def test_structure_without_models_imports_none_of_the_heavy_packages(llama3_folder: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from llama3_mlx import compile_grammar, parse_result
from llama3_mlx.tokenizer.loading import load_tokenizer
from llama3_mlx import tool_spec
def f(x: int) -> None: "Do."
compile_grammar(load_tokenizer(Path({str(llama3_folder)!r})), tools=[f]).start()
parse_result({{"type": "integer"}}, "1")
print([name for name in ("pydantic", "transformers", "torch", "mlx_lm") if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
