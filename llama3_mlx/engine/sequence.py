"""One answer while it is decoded: what its next token depends on, its generated tokens, and why it ended."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import replace

import mlx.core as mx
import numpy as np

from ..errors import CheckpointError
from ..generation.completion import Completion, FinishReason, TokenLogprob
from ..generation.custom_sampling import CustomSampling, make_custom_sampling
from ..generation.options import GenerationOptions
from ..generation.penalties import Penalties, make_penalties
from ..generation.sampling import Sampling
from ..speculation.draft import Draft, DraftTally
from ..speculation.speculators import Speculator
from ..structured.token_mask import mask_width
from ..tokenizer.detokenizer import Detokenizer
from .request import AnswerRequest, Request
from .settings import EngineSettings
from .text_stream import TextStream
from .token_choice import SamplingPosition


class DecodingSequence:
    """An answer in the batch. The device is up to one token ahead of `tokens`, which the host has read."""

    def __init__(
        self,
        request: Request,
        answer: AnswerRequest,
        settings: EngineSettings,
        *,
        n_vocab: int,
        detokenizer: Detokenizer,
        speculator: Speculator | None = None,
    ) -> None:
        options = answer.options
        self.request, self.answer, self.options = request, answer, options
        self.stop_ids = answer.stop_ids if options.ignore_eos else settings.stop_ids | answer.stop_ids
        self.sampling = Sampling.from_options(options, settings.xtc_exempt_ids)
        self.penalties: Penalties | None = make_penalties(options, request.prompt, n_vocab)
        self.custom: CustomSampling | None = make_custom_sampling(options, request.prompt)
        self.constraint = answer.constraint.start() if answer.constraint is not None else None
        self._mask_width = mask_width(n_vocab)
        self.speculator = speculator
        self.text = TextStream(options, detokenizer, answer.reply)
        self.seed = secrets.randbits(64) if options.seed is None else options.seed
        self.is_read = False
        """Whether `tokens` hold the latest token that was sampled on the device."""
        self.n_sampled = 0
        """Tokens sampled so far on the device; the step of the next one."""
        self.tokens: list[int] = []
        self.forward_passes = 0
        self.passes_off = 0
        self._drafts: dict[str, DraftTally] = {}
        self.cached_tokens = 0
        self.prompt_logprobs: tuple[TokenLogprob, ...] | None = None
        self.finite: mx.array | None = None
        """Whether the logits of the first token are numbers."""
        self.prefill_began_s = 0.0
        self.finish_reason: FinishReason | None = None
        self.stop_token: int | None = None
        self.error: Exception | None = None
        """What the caller's own sampling functions raised."""

    @property
    def remaining(self) -> int:
        """Tokens that may still be generated."""
        return self.answer.max_tokens - len(self.tokens)

    @property
    def length(self) -> int:
        """Positions of the prompt and the generated tokens."""
        return len(self.request.prompt) + len(self.tokens)

    def resumption(self) -> Request:
        """Return the request that recomputes the preempted sequence: the prompt and all but its latest token."""
        tokens = [*self.request.prompt, *self.tokens]
        return replace(self.request, prompt=tokens[:-1], answers=[self.answer], progress=None, resumed=self)

    def position(self) -> SamplingPosition:
        """Return what the next token depends on."""
        masks, n_logprobs = self._masks(()), self.options.logprobs
        mask = None if masks is None else masks[0]
        return SamplingPosition(self.sampling, self.seed, self.n_sampled, self.penalties, mask, n_logprobs, self.custom)

    def positions(self, drafted: Sequence[int]) -> list[SamplingPosition]:
        """Return what each token depends on: the next one, the one after the first drafted token, and so on."""
        found, penalties, masks = [], self.penalties, self._masks(drafted)
        n_logprobs = self.options.logprobs
        for index in range(1 + len(drafted)):
            mask, step = None if masks is None else masks[index], self.n_sampled + index
            found.append(SamplingPosition(self.sampling, self.seed, step, penalties, mask, n_logprobs, self.custom))
            if penalties is not None and index < len(drafted):
                penalties = penalties.add(mx.array([drafted[index]]))
        return found

    def _masks(self, drafted: Sequence[int]) -> np.ndarray | None:
        """Return which tokens the constraint allows at each position (1 + n, words); None without a constraint."""
        if self.constraint is None:
            return None
        masks = np.zeros((1 + len(drafted), self._mask_width), np.uint32)
        self.constraint.fill_masks(masks, drafted)
        return masks

    def check(self) -> None:
        """End the sequence if its receiver has gone or its time is over."""
        if self.finish_reason is not None:
            return
        timeout_s = self.options.timeout_s
        if self.answer.reply.cancelled:
            self.finish_reason = "cancelled"
        elif timeout_s is not None and time.perf_counter() - self.request.began_s > timeout_s:
            self.finish_reason = "timeout"

    def take(self, token: int, logprob: TokenLogprob | None = None) -> None:
        """Take the next token; sets `finish_reason` where the answer ends.

        Raises CheckpointError if the first logits weren't finite.
        """
        if self.finite is not None and not self.finite.item():
            raise CheckpointError("the model's logits are not finite: its weights are damaged or overflow the dtype")
        self.finite = None
        self.text.tick()
        if token in self.stop_ids:
            self.finish_reason, self.stop_token = "stop", token
            return
        self.tokens.append(token)
        self.text.add(token, logprob)
        if self.constraint is not None:
            self.constraint.accept(token)
        if self.text.stopped or (self.constraint is not None and self.constraint.is_finished):
            self.finish_reason = "stop"
        elif self.remaining <= 0:
            self.finish_reason = "length"

    def count_pass(self, draft: Draft | None = None, accepted: int = 0) -> None:
        """Count a forward pass, and what came of the draft that it verified."""
        self.forward_passes += 1
        self.passes_off += self.speculator is not None and self.speculator.is_off
        if draft is not None and draft.tokens:
            self._drafts.setdefault(draft.source, DraftTally()).add(len(draft.tokens), accepted)

    def fail(self, error: Exception) -> None:
        """End the sequence with an error of the caller's own sampling functions."""
        self.error = self.error or error
        self.finish_reason = self.finish_reason or "cancelled"

    def finish(self) -> None:
        """Deliver the rest of the text and the completion, or the error that ended the sequence."""
        self.text.finish()
        self.answer.reply.deliver(self.error or self.completion())

    def completion(self) -> Completion:
        """Return the answer so far."""
        text, n_generated = self.text, len(self.tokens)
        cut = text.take_cut_call() if self.finish_reason not in (None, "stop") else None
        prompt_s = text.first_s - self.prefill_began_s
        n_run = len(self.request.prompt) - self.cached_tokens
        return Completion(
            text=text.text,
            token_ids=tuple(self.tokens),
            finish_reason=self.finish_reason or "cancelled",
            prompt_tokens=len(self.request.prompt),
            cached_tokens=self.cached_tokens,
            prompt_tokens_per_second=n_run / prompt_s if prompt_s > 0 else 0.0,
            tokens_per_second=self._rate(n_generated),
            peak_memory_bytes=mx.get_peak_memory(),
            logprobs=tuple(text.logprobs) if self.options.logprobs is not None else None,
            prompt_logprobs=self.prompt_logprobs,
            tool_calls=tuple(text.tool_calls),
            passes=self.forward_passes,
            drafts=tuple(tally.counts(source) for source, tally in sorted(self._drafts.items())),
            passes_off=self.passes_off,
            first_token_s=text.first_s - self.request.began_s if text.first_s else 0.0,
            stop_token=self.stop_token,
            unfinished_call=cut,
        )

    def _rate(self, n_generated: int) -> float:
        """Return the tokens a second after the first one; of too few forward passes to tell, all of the time counts.

        The host may see the first token only with the second, which the device computes meanwhile.
        """
        if n_generated < 2:
            return 0.0
        text = self.text
        if self.forward_passes < 2:
            return n_generated / (text.last_s - self.prefill_began_s)
        return (n_generated - 1) / (text.last_s - text.first_s) if text.last_s > text.first_s else 0.0


def may_speculate(options: GenerationOptions) -> bool:
    """Return whether tokens may be drafted.

    The caller's own functions may keep a state, which trying and rejecting drafts would confuse.
    """
    return options.speculate and not options.logits_processors and options.sampler is None
