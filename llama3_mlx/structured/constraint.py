"""The output constraint that generation options give, compiled; and the check of a finished answer against it."""

from collections.abc import Callable
from dataclasses import replace

from ..generation.completion import Completion
from ..generation.options import GenerationOptions
from ..tokenizer.tokenizer import Tokenizer
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
    """Return what puts the object of the schema into a completion, None where no schema is given.

    It raises StructureError, with the answer's text, for an answer that has ended and doesn't fit.
    """
    if options.schema is None:
        return None

    def finish(completion: Completion) -> Completion:
        if completion.finish_reason != "stop" or completion.tool_calls:
            return completion
        return replace(completion, parsed=parse_result(options.schema, completion.text))

    return finish
