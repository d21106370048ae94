"""One answer while it is written: its tokens and text, what its next token depends on, and its end."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import replace

import mlx.core as mx
import numpy as np

from ..errors import CheckpointError
from ..generation.completion import Completion, FinishReason, Piece, TokenLogprob
from ..generation.penalties import Penalties, make_penalties
from ..generation.sampling import Sampling
from ..generation.stop_strings import StopTexts
from ..speculation.speculators import Speculator
from ..structured.token_mask import mask_width
from ..tokenizer.detokenizer import Detokenizer
from ..tools.call import ToolCall
from ..tools.functions import tool_name
from ..tools.parser import ToolCallStream
from .request import AnswerRequest, Request


class Row:
    """An answer in the batch. What the device has chosen is ahead of what the host has seen in `tokens`."""

    def __init__(
        self,
        request: Request,
        ask: AnswerRequest,
        *,
        n_vocab: int,
        stop_ids: frozenset[int],
        detokenizer: Detokenizer,
        speculator: Speculator | None = None,
    ) -> None:
        options = ask.options
        self.request, self.ask, self.options = request, ask, options
        self.stop_ids = ask.stop_ids if options.ignore_eos else stop_ids | ask.stop_ids
        self.sampling = Sampling.from_options(options)
        self.penalties: Penalties | None = make_penalties(options, request.prompt, n_vocab)
        self.constraint = ask.constraint.start() if ask.constraint is not None else None
        self.speculator = speculator
        self.seed = secrets.randbits(64) if options.seed is None else options.seed
        self.seen = False
        """Whether `tokens` hold the latest token that the device has chosen."""
        self.chosen = 0
        """Tokens chosen so far on the device; the step of the next one."""
        self.tokens: list[int] = []
        self.passes = 0
        self.cached_tokens = 0
        self.prompt_logprobs: tuple[TokenLogprob, ...] | None = None
        self.finite: mx.array | None = None
        """Whether the logits of the first token are numbers."""
        self.first_token_s = self.prefill_began_s = 0.0
        self.ended: FinishReason | None = None
        self.stop_token: int | None = None
        self._text: list[str] = []
        self._new_text = ""
        self._logprobs: list[TokenLogprob] = []
        self._pending: list[int] = []
        self._pending_logprobs: list[TokenLogprob] = []
        self._detokenizer, self._stops = detokenizer, StopTexts(options.stop)
        self._first_s = self._last_s = 0.0
        self._calls: list[ToolCall] = []
        self._call_stream = None
        if options.calls_tools:
            self._call_stream = ToolCallStream([tool_name(tool) for tool in options.tools])

    @property
    def wants_logprobs(self) -> bool:
        """Whether each token's log-probability is to be given."""
        return self.options.logprobs is not None

    @property
    def room(self) -> int:
        """Tokens that may still be taken."""
        return self.ask.limit - len(self.tokens)

    @property
    def length(self) -> int:
        """Positions of prompt and answer so far."""
        return len(self.request.prompt) + len(self.tokens)

    def resumption(self) -> Request:
        """Return the request that brings the row back into the batch: all but its latest token are run again."""
        tokens = [*self.request.prompt, *self.tokens]
        return replace(self.request, prompt=tokens[:-1], asks=[self.ask], progress=None, resumed=self)

    def masks(self, drafted: Sequence[int]) -> np.ndarray | None:
        """Return what the row's form allows next, and after each drafted token, (1 + n, words); None without a form."""
        if self.constraint is None:
            return None
        masks = np.zeros((1 + len(drafted), mask_width(self.ask.constraint.n_vocab)), np.uint32)
        self.constraint.fill_masks(masks, drafted)
        return masks

    def check(self) -> None:
        """End the row if its receiver has gone or its time is over."""
        if self.ended is None and self.ask.reply.cancelled:
            self.ended = "cancelled"
        timeout = self.options.timeout_s
        if self.ended is None and timeout is not None and time.perf_counter() - self.request.began_s > timeout:
            self.ended = "timeout"

    def take(self, token: int, logprob: TokenLogprob | None = None) -> None:
        """Take the next token; `ended` is set where the answer ends, `give_out` hands over the new text.

        Raises CheckpointError if the first logits weren't finite.
        """
        if self.finite is not None and not self.finite.item():
            raise CheckpointError("the model's logits are not finite: its weights are damaged or overflow the dtype")
        self.finite = None
        self._last_s = time.perf_counter()
        if not self._first_s:
            self._first_s, self.first_token_s = self._last_s, self._last_s - self.request.began_s
        if token in self.stop_ids:
            self.ended, self.stop_token = "stop", token
            return
        self.tokens.append(token)
        self._pending.append(token)
        if logprob is not None:
            self._logprobs.append(logprob)
            self._pending_logprobs.append(logprob)
        self._new_text += self._stops.add(self._detokenizer.add(token))
        if self.constraint is not None:
            self.constraint.accept(token)
        if self._stops.found is not None or (self.constraint is not None and self.constraint.is_finished):
            self.ended = "stop"
        elif self.room <= 0:
            self.ended = "length"

    def give_out(self) -> None:
        """Hand over the text that has become certain with the latest tokens: one piece for all of a pass."""
        text, self._new_text = self._new_text, ""
        self._give(text)

    def end(self) -> None:
        """Give out the rest of the text and the completion; `ended` says why."""
        if self._stops.found is None:
            rest = self._stops.add(self._detokenizer.finish())
            if self._stops.found is None:
                rest += self._stops.finish()
            self._give(rest, last=True)
        elif self._call_stream is not None:
            self._give("", last=True)
        self.ask.reply.deliver(self.completion())

    def completion(self) -> Completion:
        """The answer as far as it has come."""
        written, decode_s = len(self.tokens), self._last_s - self._first_s
        prompt_s = self._first_s - self.prefill_began_s
        run = len(self.request.prompt) - self.cached_tokens
        return Completion(
            text="".join(self._text),
            token_ids=tuple(self.tokens),
            finish_reason=self.ended or "cancelled",
            prompt_tokens=len(self.request.prompt),
            cached_tokens=self.cached_tokens,
            prompt_tokens_per_second=run / prompt_s if prompt_s > 0 else 0.0,
            tokens_per_second=(written - 1) / decode_s if decode_s > 0 and written > 1 else 0.0,
            peak_memory_bytes=mx.get_peak_memory(),
            logprobs=tuple(self._logprobs) if self.wants_logprobs else None,
            prompt_logprobs=self.prompt_logprobs,
            tool_calls=tuple(self._calls),
            passes=self.passes,
            first_token_s=self.first_token_s,
            stop_token=self.stop_token,
        )

    def _give(self, text: str, *, last: bool = False) -> None:
        calls: tuple[ToolCall, ...] = ()
        if self._call_stream is not None:
            parts = [*self._call_stream.add(text), *(self._call_stream.finish() if last else ())]
            text = "".join(part for part in parts if isinstance(part, str))
            calls = tuple(part for part in parts if isinstance(part, ToolCall))
        if not text and not calls and not (last and self._pending):
            return
        self._text.append(text)
        self._calls += calls
        self.ask.reply.deliver(Piece(text, tuple(self._pending), tuple(self._pending_logprobs), calls))
        self._pending.clear()
        self._pending_logprobs.clear()


def as_logprob(token: int, logprob: float, ids: Sequence[int], values: Sequence[float]) -> TokenLogprob:
    """Put together what the device gave."""
    return TokenLogprob(token, logprob, tuple(zip(ids, values, strict=True)))
