"""Output constraints compiled for constrained decoding: JSON schema, regular expression, grammar, choices, tool calls.

llguidance compiles them over the bytes of the model's tokens; a state says which tokens may come next.
Source: https://github.com/guidance-ai/llguidance (docs/syntax.md, docs/json_schema.md).
"""

import json
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from ..json_types import JsonObject, JsonValue
from ..tokenizer.tokenizer import Tokenizer
from ..tools.functions import Tool
from ..tools.parser import PYTHON_TAG
from .explain import explained
from .gbnf import prepared
from .json_grammar import check_compiles, constrainable, with_options
from .result import json_schema, parse_result
from .token_mask import apply_mask, mask_width
from .tool_grammar import ToolChoice, tool_grammar
from .vocabulary import grammar_tokens

__all__ = ["Grammar", "GrammarState", "apply_mask", "compile_grammar", "parse_result"]

MaskWords = NDArray[np.uint32] | NDArray[np.int32]

_log = logging.getLogger(__name__)


def compile_grammar(
    tokenizer: Tokenizer,
    *,
    n_vocab: int | None = None,
    schema: JsonValue = None,
    regex: str | None = None,
    grammar: str | None = None,
    choices: Sequence[str] | None = None,
    tools: Sequence[Tool] | None = None,
    tool_choice: ToolChoice = "auto",
    several_calls: bool = False,
) -> "Grammar":
    r"""Compile an output constraint: one of schema, regex, grammar, choices and tools, or tools and a schema.

    Args:
        tokenizer: The model's tokenizer.
        n_vocab: The width of the model's logits where it isn't the tokenizer's.
        schema: Of the whole answer: a dict, JSON text, dataclass, pydantic model or type hint. With `tools` it is that
            of an answer which calls none.
        regex: Of the whole answer, in Rust's syntax, where `\d` is 0 to 9.
        grammar: In Lark or GBNF syntax, with the rule `start` or `root`.
        choices: Texts of which the answer is one.
        tools: Functions or specifications that the answer may call.
        tool_choice: "auto", "required" or a tool's name.
        several_calls: Whether an answer may hold several calls.

    Keywords of JSON Schema that no grammar can hold are left to the check of the finished answer, and logged.
    Raises RequestError, with the reason, for what can't be compiled.
    """
    given = {"schema": schema, "regex": regex, "grammar": grammar, "choices": choices, "tools": tools}
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1 and named != ["schema", "tools"]:
        raise RequestError(f"give exactly one of {', '.join(given)}, not {' and '.join(named) or 'none'}")
    if tools is not None:
        answer, notes = (None, []) if schema is None else _answer_schema(schema)
        tagged = PYTHON_TAG in tokenizer.control_tokens
        text, of_tools = tool_grammar(tools, tool_choice, several=several_calls, tagged=tagged, answer=answer)
        return Grammar(tokenizer, n_vocab or tokenizer.vocab_size, text, "the tools", [*notes, *of_tools])
    text, notes = _of_schema(schema) if schema is not None else (_SOURCES[named[0]](given[named[0]]), [])
    return Grammar(tokenizer, n_vocab or tokenizer.vocab_size, text, f"the {named[0]}", notes)


class Grammar:
    """A compiled output constraint; `start` begins an answer. Can be shared by requests and threads."""

    def __init__(
        self, tokenizer: Tokenizer, n_vocab: int, text: str, what: str, left_to_check: Sequence[str] = ()
    ) -> None:
        """`text` is in llguidance's syntax, `what` names it in errors."""
        from llguidance import LLMatcher, LLParserLimits

        self.n_vocab, self.left_to_check = n_vocab, tuple(left_to_check)
        self.stop_ids = frozenset(tokenizer.stop_ids)
        tokens = grammar_tokens(tokenizer, n_vocab)
        limits = LLParserLimits(verbose_errors=False)
        failed, messages = LLMatcher.validate_grammar_with_warnings(text, tokens, limits=limits)
        if failed:
            # Anything but a grammar is a part of a text that was made here.
            reason = explained(messages[0], placed=what == "the grammar")
            raise RequestError(f"{what} can't be compiled: {reason}")
        self._matcher = LLMatcher(tokens, text, log_level=0, limits=limits)
        if self._matcher.is_error():
            raise RequestError(f"{what} can't be compiled: {explained(self._matcher.get_error())}")
        if self.left_to_check:
            _log.info("not held while generating, checked afterwards: %s", "; ".join(self.left_to_check))

    def start(self) -> "GrammarState":
        """Return the state before an answer's first token."""
        return GrammarState(self._matcher.deep_copy(), self.stop_ids, mask_width(self.n_vocab))


class GrammarState:
    """Where one answer stands in its grammar. Belongs to one thread at a time."""

    def __init__(self, matcher: Any, stop_ids: frozenset[int], n_words: int, ends: int = 0) -> None:
        self._matcher, self._stop_ids = matcher, stop_ids
        self.n_words = n_words
        # Stop tokens accepted after the end, which the matcher doesn't count.
        self._ends = ends

    def fill_mask(self, row: MaskWords) -> None:
        """Set the bit of every token that may come next in `row` (ceil(V/32),), contiguous 32-bit words.

        A stop token may come exactly where the answer may end. Other threads run meanwhile.
        """
        if row.shape != (self.n_words,) or row.itemsize != 4 or not row.flags.c_contiguous:
            raise RequestError(
                f"a mask row must be {self.n_words} contiguous 32-bit words, not {row.shape} {row.dtype}"
            )
        self._matcher.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
        self._check()

    def fill_masks(self, rows: MaskWords, drafted: Sequence[int]) -> int:
        """Fill the rows for the next token and for those after each drafted one; return how many drafted are allowed.

        `rows` is (at least len(drafted) + 1, ceil(V/32)); those after the first that isn't allowed stay as they are.
        The state stays where it was.
        """
        self.fill_mask(rows[0])
        allowed = self.validate_tokens(drafted)
        for place, token in enumerate(drafted[:allowed]):
            self.accept(token)
            self.fill_mask(rows[place + 1])
        self.rollback(allowed)
        return allowed

    def accept(self, token: int) -> None:
        """Advance by a token; raises RequestError if the grammar doesn't allow it."""
        if token in self._stop_ids and self._matcher.is_stopped():
            self._ends += 1
        elif not self._matcher.try_consume_tokens([token]):
            self._check()
            raise RequestError(f"token {token} isn't allowed by the grammar here")

    def validate_tokens(self, tokens: Sequence[int]) -> int:
        """Return how many of the tokens, from the first on, may come next."""
        listed = list(tokens)
        if self._matcher.is_stopped():
            return next((place for place, token in enumerate(listed) if token not in self._stop_ids), len(listed))
        return int(self._matcher.validate_tokens(listed))

    def rollback(self, n: int) -> None:
        """Take back the last `n` tokens."""
        ends = min(n, self._ends)
        self._ends -= ends
        if n > ends and not self._matcher.rollback(n - ends):
            self._check()

    def copy(self) -> "GrammarState":
        """Return an independent state at the same place."""
        return GrammarState(self._matcher.deep_copy(), self._stop_ids, self.n_words, self._ends)

    @property
    def is_finished(self) -> bool:
        """Whether nothing but a stop token can come next."""
        return bool(self._matcher.is_stopped())

    @property
    def may_end(self) -> bool:
        """Whether the answer may end here."""
        return bool(self._matcher.is_accepting())

    def forced_tokens(self) -> list[int]:
        """Return the tokens that must come next, as the tokenizer would write their text; often none."""
        return list(self._matcher.compute_ff_tokens())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise RequestError(f"the grammar can't go on: {explained(self._matcher.get_error())}")


def _answer_schema(schema: JsonValue) -> tuple[JsonObject, list[str]]:
    """Return the schema of an answer as llguidance takes it, and what is left out of it."""
    collected = constrainable()
    written = collected.add("d", json_schema(schema))
    check_compiles("the schema", written, collected.definitions)
    return with_options(written, collected.definitions), collected.left_out["d"]


def _of_schema(schema: JsonValue) -> tuple[str, list[str]]:
    from llguidance import LLMatcher

    written, left_out = _answer_schema(schema)
    return LLMatcher.grammar_from_json_schema(json.dumps(written)), left_out


def _of_regex(regex: str) -> str:
    from llguidance import LLMatcher, regex_to_lark

    _expect_text("regex", regex)
    return LLMatcher.grammar_from_lark(f"start: /{regex_to_lark(regex, 'd')}/")


def _of_grammar(grammar: str) -> str:
    from llguidance import grammar_from

    _expect_text("grammar", grammar)
    try:
        return grammar_from("grammar", prepared(grammar))
    except ValueError as error:
        raise RequestError(f"the grammar can't be compiled: {explained(str(error))}") from None


def _of_choices(choices: Sequence[str]) -> str:
    from llguidance import LLMatcher

    listed = [choices] if isinstance(choices, str) else list(choices)
    if not listed or not all(isinstance(choice, str) for choice in listed) or isinstance(choices, str):
        raise RequestError(f"choices must be a list of texts, at least one, not {choices!r:.80}")
    quoted = (json.dumps(choice, ensure_ascii=False) for choice in dict.fromkeys(listed))
    return LLMatcher.grammar_from_lark("start: " + " | ".join(quoted))


def _expect_text(name: str, value: JsonValue) -> None:
    if not isinstance(value, str) or not value.strip():
        raise RequestError(f"{name} must be a text, not {value!r:.80}")


_SOURCES = {"regex": _of_regex, "grammar": _of_grammar, "choices": _of_choices}
