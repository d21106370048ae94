"""The output constraint that generation options give, compiled; and the check of a finished answer against it."""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from ..errors import RequestError
from ..generation.completion import Completion
from ..generation.options import GenerationOptions
from ..json_types import JsonObject
from ..schema.drafts import as_json
from ..tokenizer.tokenizer import Tokenizer
from ..tools.call import ToolCall
from ..tools.functions import check_arguments, tool_name, tool_specs
from .grammar import Grammar, compile_grammar
from .result import json_schema, parse_result

# Compiled constraints of a model that are kept.
_KEPT = 16


class ConstraintCompiler:
    """Compiles what the answers of one model must follow; the latest are kept, since dialogs repeat them."""

    def __init__(self, tokenizer: Tokenizer, n_vocab: int) -> None:
        self._tokenizer, self._n_vocab = tokenizer, n_vocab
        self._kept: OrderedDict[str, Grammar] = OrderedDict()
        self._lock = threading.Lock()

    def compile(self, options: GenerationOptions) -> Grammar:
        """Compile the constraint of the options; raises RequestError for what can't be held to."""
        tools = tool_specs(options.tools) if options.calls_tools else None
        given: JsonObject = {
            "schema": None if options.schema is None else json_schema(options.schema),
            "regex": options.regex,
            "grammar": options.grammar,
            "choices": options.choices or None,
            "tools": tools,
            "tool_choice": options.tool_choice,
            "several_calls": options.parallel_calls,
        }
        key = as_json(given)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        grammar = compile_grammar(self._tokenizer, n_vocab=self._n_vocab, **given)
        with self._lock:
            self._kept[key] = grammar
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return grammar


def finisher(options: GenerationOptions) -> Callable[[Completion], Completion] | None:
    """Return what checks a finished answer and puts the object of its schema into it; None where nothing is to check.

    It raises StructureError, with the answer's text, for an answer that has ended and doesn't fit the schema. Calls
    that don't fit the schema of their tool say so in `problem`.
    """
    if options.schema is None and not options.calls_tools:
        return None

    def finish(completion: Completion) -> Completion:
        if completion.tool_calls:
            return _with_checked_calls(completion, options)
        if options.schema is None or completion.finish_reason != "stop":
            return completion
        return replace(completion, parsed=parse_result(options.schema, completion.text))

    return finish


def check_answer(options: GenerationOptions, completion: Completion) -> Completion:
    """Return a finished answer whose calls say in `problem` where they don't fit the schema of their tool.

    Raises StructureError where it is JSON outside its schema, for what no grammar can hold of it. An answer that a stop
    text has ended within its JSON is left as it is.
    """
    if completion.tool_calls:
        return _with_checked_calls(completion, options)
    if options.schema is None or completion.finish_reason != "stop":
        return completion
    try:
        json.loads(completion.text)
    except ValueError:
        return completion
    parse_result(options.schema, completion.text)
    return completion


def _with_checked_calls(completion: Completion, options: GenerationOptions) -> Completion:
    return replace(completion, tool_calls=tuple(_checked(call, options) for call in completion.tool_calls))


def _checked(call: ToolCall, options: GenerationOptions) -> ToolCall:
    tool = next((tool for tool in options.tools if tool_name(tool) == call.name), None)
    if tool is None:
        return call
    try:
        check_arguments(tool, call.arguments)
    except RequestError as error:
        return replace(call, problem=str(error))
    return call
