"""The leader's end of a model on several processes, used like any other model."""

from collections import deque
from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from ..errors import RequestError
from ..kv_cache import CacheOptions, ModelCache
from ..kv_cache.step import Mask, Step
from ..model.config import ModelConfig
from ..model.feature_tap import FeatureTap
from ..model.transformer import Attends, LlamaForCausalLM, Rope
from .exchange import Exchange
from .mirrored_cache import Mirror, MirroredCache
from .orders import Order


class LeaderLlama(LlamaForCausalLM):
    """Rank 0's share, which stands for the whole model: its passes run on all processes.

    Every pass is started at once, so that all processes send and receive in the order of the leader's passes. In a
    pipeline the end of one that was begun is received later, in that order, too.
    """

    def __init__(
        self,
        share: LlamaForCausalLM,
        whole: ModelConfig,
        exchange: Exchange,
        mirror: Mirror,
        *,
        splits_head: bool = False,
        n_stages: int = 1,
    ) -> None:
        """Take over the loaded share; `whole` is the config of the whole model, `n_stages` how many passes may be
        under way at a time in a pipeline.
        """
        nn.Module.__init__(self)
        self.config, self.rope = whole, share.rope
        self.model = share.model
        if "lm_head" in share:
            self.lm_head = share.lm_head
        self.folder, self.channel_scales = share.folder, share.channel_scales
        self._share, self._share_cache = share, share.make_cache
        self.exchange, self._mirror, self._announced = exchange, mirror, False
        self._wanted, self._splits_head = True, splits_head
        self._n_stages, self._defers = n_stages, False
        # What comes back from the last process, in the order in which it is sent.
        self._under_way: deque[mx.array] = deque()

    @property
    def share(self) -> LlamaForCausalLM:
        """Rank 0's share as a model of its own, of its config."""
        return self._share

    @property
    def mirror(self) -> Mirror:
        """What sends orders to the others."""
        return self._mirror

    def make_cache(self, options: CacheOptions | None = None) -> MirroredCache:
        """Return an empty cache of this process's share, which stands for the caches of all."""
        return self._mirror.new(self._share_cache(options))

    @property
    def n_stages(self) -> int:
        """How many passes may be under way at a time, each at another process."""
        return self._n_stages

    def begin(self, tokens: mx.array, cache: ModelCache, tap: FeatureTap | None = None) -> mx.array:
        """Begin a pass: this process's layers run, and what they give is sent on; `complete` receives its end."""
        # A tapped pass is received at once: a draft head evaluates what it watches when it likes.
        self._defers = self.n_stages > 1 and tap is None
        try:
            h = self.hidden(tokens, cache, tap=tap)
            if self._defers:
                self._under_way.append(h)
            return h
        finally:
            self._defers = False

    def complete(self, h: mx.array | None = None) -> None:
        """Receive the end of a pass, and of all that were begun before; without one, of all."""
        if h is not None and not any(each is h for each in self._under_way):
            return
        while self._under_way:
            first = self._under_way.popleft()
            mx.async_eval(first)
            if first is h:
                return

    def fill(self, tokens: mx.array, cache: ModelCache) -> None:
        """Run token ids (B, L) into a cache, whose arrays are to be evaluated."""
        self._wanted = False
        try:
            super().fill(tokens, cache)
        finally:
            self._wanted = True

    def hidden(
        self,
        tokens: mx.array,
        cache: ModelCache | None = None,
        mask: Mask = "causal",
        *,
        tap: FeatureTap | None = None,
    ) -> mx.array:
        """Return the normed hidden states (B, L, D) of token ids (B, L), computed by all processes."""
        if cache is None and not (isinstance(mask, str) and mask == "causal"):
            raise RequestError("a model on several nodes attends causally: give no mask of your own")
        if not self._defers:
            # Its messages come after those of what is under way.
            self.complete()
        max_step = None if cache is None else cache.max_step()
        if max_step is None or tokens.shape[1] <= max_step:
            number = cache.number if isinstance(cache, MirroredCache) else 0
            depths = [] if tap is None else self.exchange.travelling(tap.depths)
            self._mirror.order(Order.RUN, number, *tokens.shape, int(self._wanted), *depths)
            self._announced = True
        h = super().hidden(tokens, cache, mask, tap=tap)
        mx.async_eval([] if self._defers else h, [] if cache is None else cache.arrays)
        return h

    def run(
        self,
        tokens: mx.array,
        rope: Rope,
        step: Step | Mask,
        caches: Sequence[Attends | None],
        tap: FeatureTap | None = None,
    ) -> mx.array:
        """Return the normed hidden states (B, L, D) of a pass that `hidden` has announced."""
        if not self._announced:
            raise RequestError("a model on several nodes runs with its own KV caches alone")
        self._announced = False
        embedded = self.model.embed_tokens(tokens)
        h = self.exchange.run(self.model.layers, embedded, rope, step, caches, tap=tap, wanted=self._wanted)
        return self.model.norm(h)

    def head(self, h: mx.array) -> mx.array:
        """Return logits (..., V) of hidden states (..., D)."""
        if not self._splits_head:
            return self._share.head(h)
        rows = h.reshape(-1, h.shape[-1])
        self._mirror.order(Order.HEAD, rows.shape[0])
        logits = self.exchange.logits(self._share["lm_head"], rows)
        mx.async_eval(logits)
        return logits.reshape(*h.shape[:-1], -1)

    def token_logits(self, h: mx.array, tokens: Sequence[int]) -> mx.array:
        """Return the logits (..., n) of some tokens by hidden states (..., D)."""
        if not self._splits_head:
            return super().token_logits(h, tokens)
        return self.head(h)[..., mx.array(list(tokens))]
