"""The two ends of a model on several processes: the leader's, used like any other, and the followers'."""

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
from .mirrored_cache import Mirror, MirroredCache, repeat
from .orders import Order


class LeaderLlama(LlamaForCausalLM):
    """Rank 0's share, which stands for the whole model: its passes run on all processes.

    Every pass is started at once, so that all processes send and receive in the order of the leader's passes.
    """

    def __init__(self, share: LlamaForCausalLM, whole: ModelConfig, exchange: Exchange, mirror: Mirror) -> None:
        """Take over the loaded share; `whole` is the config of the whole model."""
        nn.Module.__init__(self)
        self.config, self.rope = whole, share.rope
        self.model = share.model
        if "lm_head" in share:
            self.lm_head = share.lm_head
        self.folder, self.channel_scales = share.folder, share.channel_scales
        self._share_cache = share.make_cache
        self.exchange, self._mirror, self._announced = exchange, mirror, False

    def make_cache(self, options: CacheOptions | None = None) -> MirroredCache:
        """Return an empty cache of this process's share, which stands for the caches of all."""
        return self._mirror.new(self._share_cache(options))

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
        max_step = None if cache is None else cache.max_step()
        if max_step is None or tokens.shape[1] <= max_step:
            number = cache.number if isinstance(cache, MirroredCache) else 0
            self._mirror.order(Order.RUN, number, *tokens.shape)
            self._announced = True
        h = super().hidden(tokens, cache, mask, tap=tap)
        mx.async_eval(h, [] if cache is None else cache.arrays)
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
        assert tap is None, "hidden states between the layers lie on several processes"
        if not self._announced:
            raise RequestError("a model on several nodes runs with its own KV caches alone")
        self._announced = False
        h = self.exchange.run(self.model.layers, self.model.embed_tokens(tokens), rope, step, caches)
        return self.model.norm(h)


class Follower:
    """Another rank's share: repeats the leader's orders."""

    def __init__(self, share: LlamaForCausalLM, exchange: Exchange, dtype: mx.Dtype) -> None:
        """`dtype` is that of hidden states."""
        self._model, self.exchange, self._dtype = share, exchange, dtype
        self._caches: dict[int, ModelCache] = {}

    def obey(self, order: Sequence[int]) -> None:
        """Do what an order says."""
        if order[0] == Order.RUN:
            self._run(*order[1:])
        else:
            repeat(order, self._caches, self._model.make_cache)

    def _run(self, number: int, n_sequences: int, n_new: int) -> None:
        model, cache = self._model, self._caches[number] if number else None
        h = mx.zeros((n_sequences, n_new, model.config.hidden_size), self._dtype)
        step: Step | Mask = "causal" if cache is None else cache.step(n_sequences, n_new)
        rope = model.rope.for_length(step.last + 1 if isinstance(step, Step) else n_new)
        caches: Sequence[Attends | None] = [None] * len(model.model.layers) if cache is None else cache.layers
        h = self.exchange.run(model.model.layers, h, rope, step, caches)
        if cache is not None:
            cache.advance(n_new)
        mx.async_eval(h, [] if cache is None else cache.arrays)
