"""A prompt on its way into a KV cache, some tokens at a time."""

import time
from typing import cast

import mlx.core as mx

from ..generation.completion import TokenLogprob
from ..kv_cache import ModelCache
from ..model.feature_tap import FeatureTap
from ..model.transformer import LlamaForCausalLM
from ..speculation.eagle_speculator import EagleSpeculator
from .request import Request
from .token_choice import LogprobArrays

# Positions whose logits over the whole vocabulary are in memory at once.
_HEAD_CHUNK = 64


class Prefill:
    """The prompt of one request, whose first tokens may be in a cache already."""

    def __init__(
        self,
        model: LlamaForCausalLM,
        request: Request,
        cache: ModelCache,
        *,
        tap: FeatureTap | None = None,
        watcher: EagleSpeculator | None = None,
    ) -> None:
        """`watcher` is given the hidden states that `tap` gathers, for the speculators of the answers."""
        self.model, self.request, self.cache = model, request, cache
        self._tap, self.watcher = tap if watcher is not None else None, watcher
        self.cached_tokens = self.done = cache.lengths[0] if cache.lengths else 0
        self.began_s = time.perf_counter()
        self._n_logprobs: int | None = None
        if request.wants_prompt_logprobs:
            self._n_logprobs = max(answer.options.prompt_logprobs or 0 for answer in request.answers)
        self._scores: list[LogprobArrays] = []
        self._last: mx.array | None = None
        self._report(self.done)

    @property
    def remaining(self) -> int:
        """Tokens that haven't been run yet."""
        return len(self.request.prompt) - self.done

    def advance(self, n: int, *, wait: bool) -> None:
        """Run up to `n` more tokens; with `wait`, until they are computed."""
        stop = min(self.done + n, len(self.request.prompt))
        tokens = mx.array([self.request.prompt[self.done : stop]], mx.int32)
        if stop == len(self.request.prompt) or self._tap is not None or self._n_logprobs is not None:
            self._look(self.model.hidden(tokens, self.cache, tap=self._tap), stop)
        else:
            self.model.fill(tokens, self.cache)
        if stop < len(self.request.prompt):
            (mx.eval if wait else mx.async_eval)(self.cache.arrays)
            self._report(stop)
        self.done = stop

    def _look(self, h: mx.array, stop: int) -> None:
        """Keep what is wanted of the hidden states (1, L, D) of the tokens up to `stop`."""
        if self._tap is not None and self.watcher is not None:
            self.watcher.watch(self._tap.take())
        if self._n_logprobs is not None:
            self._score(h[0], self.done, self._n_logprobs)
        if stop == len(self.request.prompt):
            self._last = h[:, -1]

    def logits(self) -> mx.array:
        """Return the logits (1, V) after the prompt; the head runs for that one position alone."""
        assert self._last is not None, "the whole prompt has been run"
        logits = self.model.head(self._last)
        if self.request.progress is not None:
            mx.eval(logits)
            self._report(self.done)
        return logits

    def prompt_logprobs(self) -> tuple[TokenLogprob, ...] | None:
        """Return the log-probabilities of the prompt's tokens from the second on, if they were requested."""
        if self._n_logprobs is None:
            return None
        found: list[TokenLogprob] = []
        for chosen, ids, values in self._scores:
            rows = zip(
                cast(list[float], chosen.tolist()),
                cast(list[list[int]], ids.tolist()),
                cast(list[list[float]], values.tolist()),
                strict=True,
            )
            for logprob, others, theirs in rows:
                token = self.request.prompt[len(found) + 1]
                found.append(TokenLogprob(token, logprob, tuple(zip(others, theirs, strict=True))))
        return tuple(found)

    def _report(self, done: int) -> None:
        if self.request.progress is not None:
            self.request.progress(done, len(self.request.prompt))

    def _score(self, h: mx.array, start: int, n: int) -> None:
        """Keep the log-probabilities of the tokens that follow the hidden states (L, D) from position `start` on."""
        following = self.request.prompt[start + 1 : start + 1 + h.shape[0]]
        for at in range(0, len(following), _HEAD_CHUNK):
            tokens = mx.array(following[at : at + _HEAD_CHUNK], mx.int32)[:, None]
            logits = self.model.head(h[at : at + tokens.shape[0]]).astype(mx.float32)
            logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
            ids = mx.zeros((tokens.shape[0], 0), mx.int32)
            if n:
                ids = mx.argpartition(-logprobs, kth=n - 1, axis=-1)[:, :n]
            ids = mx.take_along_axis(ids, mx.argsort(-mx.take_along_axis(logprobs, ids, axis=-1), axis=-1), axis=-1)
            chosen = mx.take_along_axis(logprobs, tokens, axis=-1)[:, 0]
            scores = (chosen, ids, mx.take_along_axis(logprobs, ids, axis=-1))
            mx.eval(scores)
            self._scores.append(scores)
