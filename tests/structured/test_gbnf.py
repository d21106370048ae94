"""GBNF grammars: those that allow one text allow what llama.cpp writes under them, and errors are in our own words."""

import re
from pathlib import Path

import pytest

from llama3_mlx.convert import convert
from llama3_mlx.errors import RequestError
from llama3_mlx.structured.grammar import compile_grammar

from ..convert.test_export import save_source
from ..support.byte_llama import byte_tokenizer
from ..support.llama_cpp import grammar_texts

TOKENIZER = byte_tokenizer()
# Each allows one text: escapes, a rule named start, names that differ in case, comments, counts, classes.
GRAMMARS = {
    r'root ::= "\u00e9" "\x41" "\U0001F999" "\u0022" "\u005C"': 'éA🦙"\\',
    'root ::= start "x"\nstart ::= "s"': "sx",
    'root ::= Item item\nItem ::= "A"\nitem ::= "b"': "Ab",
    'root ::= "b" word # this "or that\nword ::= "root"': "broot",
    'root ::= "a"{3} x-1\nx-1 ::= [-] [\\u0041]': "aaa-A",
}


def texts_of(grammar: str) -> list[str]:
    """All that a grammar of few texts allows, byte by byte."""
    compiled = compile_grammar(TOKENIZER, grammar=grammar)
    found, open_ = [], [b""]
    while open_:
        begun = open_.pop()
        state = compiled.start()
        for byte in begun:
            state.accept(byte)
        if state.may_end:
            found.append(begun.decode())
        open_ += [begun + bytes([byte]) for byte in range(256) if state.validate_tokens([byte])]
    return found


def test_a_grammar_of_one_text_allows_what_llama_cpp_writes(tmp_path: Path) -> None:
    convert(save_source(tmp_path / "source"), tmp_path / "model.gguf", gguf_type="f32")
    written = grammar_texts(tmp_path / "model.gguf", list(GRAMMARS))
    assert written == list(GRAMMARS.values())
    assert [texts_of(grammar) for grammar in GRAMMARS] == [[text] for text in written]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"regex": r"\p{Foo}"},
            r"the regex can't be compiled: the regular expression '\p{Foo}': Unicode property not found",
        ),
        ({"regex": "(?=a)b"}, "the regex can't be compiled: the regular expression '(?=a)b': look-around, "),
        (
            {"grammar": "start: a\na: /(/"},
            "the grammar can't be compiled: line 2, character 4: the regular expression '('",
        ),
        ({"grammar": "root ::= foo"}, "the grammar can't be compiled: Rule 'foo' not found"),
        ({"grammar": 'root ::= "a'}, "the grammar can't be compiled: Unexpected end of input at line 1"),
        ({"schema": {"type": "integer", "minimum": 5, "maximum": 2}}, "nothing fits it: minimum (5) is greater than"),
    ],
)
def test_what_can_not_be_compiled_is_told_in_the_words_of_what_was_given(given: dict[str, str], message: str) -> None:
    """A place is one in the user's own text, and no name of what was made of it is shown."""
    with pytest.raises(RequestError, match=re.escape(message)) as caught:
        compile_grammar(TOKENIZER, **given)  # type: ignore[arg-type]
    assert not re.search("llguidance|lark|lexer|panic|<state>|derivre", str(caught.value), re.IGNORECASE)
