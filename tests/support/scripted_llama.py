"""A `Llama` that says what a test wants, for clients whose dialogs depend on what a model says.

Everything around the network is real: the prompt that it sees, the output constraint, which must allow what it says,
and the parser of tool calls.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from llama3_mlx import Llama
from llama3_mlx.engine.reply import Reply
from llama3_mlx.generation.completion import Completion, Piece
from llama3_mlx.generation.options import GenerationOptions
from llama3_mlx.structured.constraint import ConstraintCompiler
from llama3_mlx.tools.call import ToolCall
from llama3_mlx.tools.functions import tool_name
from llama3_mlx.tools.parser import ToolCallStream
from llama3_mlx.tools.unfinished import cut_call

from .server_fixtures import Running, running_server

# The rendered dialog and the options of a request, to what the model says.
Script = Callable[[str, GenerationOptions], str]


class ScriptedLlama(Llama):
    """Says what `script` returns, token by token, up to the limit."""

    script: ClassVar[Script]
    seen: ClassVar[list[str]]
    """The prompts, as text with control tokens."""

    def submit(
        self,
        prompt: Sequence[int],
        options: Sequence[GenerationOptions],
        replies: Sequence[Reply],
        **limits: Any,
    ) -> None:
        rendered = self.tokenizer.decode(list(prompt))
        self.seen.append(rendered)
        for each, reply in zip(options, replies, strict=True):
            tokens = self.tokenizer.encode(type(self).script(rendered, each))
            if each.is_constrained:
                state = ConstraintCompiler(self.tokenizer, self.config.vocab_size).compile(each).start()
                for token in tokens:
                    state.accept(token)
                assert state.may_end, "what the script says is only the beginning of what may be said"
            limit = limits.get("at_most")
            for item in pieces_of(
                self, tokens[:limit], each, len(prompt), cut=limit is not None and limit < len(tokens)
            ):
                reply.deliver(item)


def pieces_of(
    llama: Llama, tokens: Sequence[int], options: GenerationOptions, prompt_tokens: int, *, cut: bool
) -> Iterator[Piece | Completion]:
    """Yield the pieces of an answer and its completion, as the engine gives them."""
    calls, detokenizer = None, llama.tokenizer.make_detokenizer()
    if options.calls_tools:
        calls = ToolCallStream([tool_name(tool) for tool in options.tools])
    said: list[str] = []
    pending = ""
    called: list[ToolCall] = []
    for position, token in enumerate(tokens):
        last = position == len(tokens) - 1
        text = detokenizer.add(token) + (detokenizer.finish() if last else "")
        parts: list[str | ToolCall] = [text]
        if calls is not None:
            parts = calls.add(text)
            if last:
                pending = calls.pending
                parts += calls.finish()
        said += [part for part in parts if isinstance(part, str)]
        whole = tuple(part for part in parts if isinstance(part, ToolCall))
        called += whole
        yield Piece("".join(part for part in parts if isinstance(part, str)), (token,), (), whole)
    names = [tool_name(tool) for tool in options.tools]
    unfinished = cut_call(pending, names, must_call=bool(called) or options.schema is None)
    yield Completion(
        text="".join(said),
        token_ids=tuple(tokens),
        finish_reason="length" if cut else "stop",
        prompt_tokens=prompt_tokens,
        cached_tokens=0,
        prompt_tokens_per_second=1.0,
        tokens_per_second=1.0 if len(tokens) > 1 else 0.0,
        peak_memory_bytes=0,
        tool_calls=tuple(called),
        unfinished_call=unfinished if cut else None,
    )


@contextmanager
def scripted_server(
    monkeypatch: pytest.MonkeyPatch, models: Mapping[str, Path], script: Script, **settings: Any
) -> Iterator[tuple[Running, list[str]]]:
    """Run a server whose models say what `script` returns; gives it with the list of prompts that they saw."""
    seen: list[str] = []
    kind = type("Scripted", (ScriptedLlama,), {"script": staticmethod(script), "seen": seen})
    monkeypatch.setattr("llama3_mlx.server.core.loaded_model.Llama", kind)
    with running_server(models, **settings) as running:
        yield running, seen
