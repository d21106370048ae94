"""The text of one answer while it is generated: detokenized, cut at stop strings, tool calls parsed, delivered."""

import time

from ..generation.completion import Piece, TokenLogprob
from ..generation.options import GenerationOptions
from ..generation.stop_strings import StopTexts
from ..tokenizer.detokenizer import Detokenizer
from ..tools.call import ToolCall
from ..tools.functions import tool_name
from ..tools.parser import ToolCallStream
from ..tools.unfinished import UnfinishedCall, cut_call
from .reply import Reply


class TextStream:
    """Turns tokens into pieces for a reply; one piece for all tokens of a forward pass."""

    def __init__(self, options: GenerationOptions, detokenizer: Detokenizer, reply: Reply) -> None:
        self.logprobs: list[TokenLogprob] = []
        self.tool_calls: list[ToolCall] = []
        self.first_s = self.last_s = 0.0
        """When the first and the latest token came, by `time.perf_counter`; 0 before the first."""
        self._reply, self._detokenizer, self._stops = reply, detokenizer, StopTexts(options.stop)
        self._parser: ToolCallStream | None = None
        self._names = [tool_name(tool) for tool in options.tools]
        if options.calls_tools:
            self._parser = ToolCallStream(self._names)
        self._may_answer = options.schema is not None
        self._pending = ""
        self._parts: list[str] = []
        self._new_text = ""
        self._new_tokens: list[int] = []
        self._new_logprobs: list[TokenLogprob] = []

    @property
    def text(self) -> str:
        """The text delivered so far."""
        return "".join(self._parts)

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come."""
        return self._stops.found is not None

    def take_cut_call(self) -> UnfinishedCall | None:
        """Take the call that a limit cut off out of the text, and return it; None where the text ends otherwise."""
        must_call = bool(self.tool_calls) or not self._may_answer
        call = cut_call(self._pending, self._names, must_call=must_call)
        if call is not None and self._parts:
            self._parts[-1] = self._parts[-1].removesuffix(self._pending)
        return call

    def tick(self) -> None:
        """Note the time of a token."""
        self.last_s = time.perf_counter()
        self.first_s = self.first_s or self.last_s

    def add(self, token: int, logprob: TokenLogprob | None) -> None:
        """Take the next token; `flush` delivers it."""
        self._new_tokens.append(token)
        if logprob is not None:
            self.logprobs.append(logprob)
            self._new_logprobs.append(logprob)
        self._new_text += self._stops.add(self._detokenizer.add(token))

    def flush(self) -> None:
        """Deliver the text that has become certain."""
        text, self._new_text = self._new_text, ""
        self._deliver(text)

    def finish(self) -> None:
        """Deliver the rest of the text, up to a stop string if one has come."""
        rest = ""
        if not self.stopped:
            rest = self._stops.add(self._detokenizer.finish())
            if not self.stopped:
                rest += self._stops.finish()
        elif self._parser is None:
            return
        self._deliver(rest, last=True)

    def _deliver(self, text: str, *, last: bool = False) -> None:
        calls: tuple[ToolCall, ...] = ()
        if self._parser is not None:
            parts = self._parser.add(text)
            if last:
                self._pending = self._parser.pending
                parts += self._parser.finish()
            text = "".join(part for part in parts if isinstance(part, str))
            calls = tuple(part for part in parts if isinstance(part, ToolCall))
        if not text and not calls and not (last and self._new_tokens):
            return
        self._parts.append(text)
        self.tool_calls += calls
        self._reply.deliver(Piece(text, tuple(self._new_tokens), tuple(self._new_logprobs), calls))
        self._new_tokens.clear()
        self._new_logprobs.clear()
