"""The output constraint that generation options give, compiled; and the check of a finished answer against it."""

import json
from collections.abc import Callable
from dataclasses import replace

from ..errors import RequestError
from ..generation.completion import Completion
from ..generation.options import GenerationOptions
from ..tokenizer.tokenizer import Tokenizer
from ..tools.call import ToolCall
from ..tools.functions import check_arguments, tool_name
from .grammar import Grammar, compile_grammar
from .result import parse_result


def compile_constraint(options: GenerationOptions, tokenizer: Tokenizer, n_vocab: int) -> Grammar:
    """Compile what the answer must follow; raises RequestError for what can't be held to."""
    if options.calls_tools:
        return compile_grammar(
            tokenizer,
            n_vocab=n_vocab,
            tools=options.tools,
            tool_choice=options.tool_choice,
            several_calls=options.parallel_calls,
            schema=options.schema,
        )
    return compile_grammar(
        tokenizer,
        n_vocab=n_vocab,
        schema=options.schema,
        regex=options.regex,
        grammar=options.grammar,
        choices=options.choices or None,
    )


def finisher(options: GenerationOptions) -> Callable[[Completion], Completion] | None:
    """Return what checks a finished answer and puts the object of its schema into it; None where nothing is to check.

    It raises StructureError, with the answer's text, for an answer that has ended and doesn't fit the schema. Calls
    that don't fit the schema of their tool say so in `problem`.
    """
    if options.schema is None and not options.calls_tools:
        return None

    def finish(completion: Completion) -> Completion:
        if completion.tool_calls:
            return replace(completion, tool_calls=tuple(_checked(call, options) for call in completion.tool_calls))
        if options.schema is None or completion.finish_reason != "stop":
            return completion
        return replace(completion, parsed=parse_result(options.schema, completion.text))

    return finish


def check_answer(options: GenerationOptions, completion: Completion) -> None:
    """Raise StructureError where a finished answer is JSON outside its schema, for what no grammar can hold of it.

    An answer that a stop text has ended within its JSON is left as it is.
    """
    if options.schema is None or completion.finish_reason != "stop" or completion.tool_calls:
        return
    try:
        json.loads(completion.text)
    except ValueError:
        return
    parse_result(options.schema, completion.text)


def _checked(call: ToolCall, options: GenerationOptions) -> ToolCall:
    tool = next((tool for tool in options.tools if tool_name(tool) == call.name), None)
    if tool is None:
        return call
    try:
        check_arguments(tool, call.arguments)
    except RequestError as error:
        return replace(call, problem=str(error))
    return call
