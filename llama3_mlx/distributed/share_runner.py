"""Another rank's share of a model: does what the leader's orders and requests say."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx

from ..checkpoint.folder import ModelFolder
from ..json_types import JsonObject
from ..kv_cache import ModelCache
from ..kv_cache.step import Mask, Step
from ..model.feature_tap import FeatureTap
from ..model.transformer import Attends, LlamaForCausalLM
from .exchange import Exchange
from .mirrored_cache import repeat
from .orders import Order
from .prefix_parts import PrefixParts
from .shares import Share

if TYPE_CHECKING:
    from .split_adapters import FollowerAdapters


class ShareRunner:
    """A share, its KV caches, its adapters and its part of the prefixes on disk."""

    def __init__(
        self, model: LlamaForCausalLM, share: Share, folder: ModelFolder, exchange: Exchange, dtype: mx.Dtype
    ) -> None:
        """`dtype` is that of hidden states."""
        self._model, self._share, self._folder = model, share, folder
        self.exchange, self._dtype = exchange, dtype
        self._caches: dict[int, ModelCache] = {}
        self._prefixes = PrefixParts(folder.path, share, dtype)
        self._adapters: FollowerAdapters | None = None

    def obey(self, order: Sequence[int]) -> None:
        """Do what an order says."""
        if order[0] == Order.RUN:
            self._run(*order[1:5], depths=order[5:])
        elif order[0] == Order.HEAD:
            h = mx.zeros((order[1], self._model.config.hidden_size), self._dtype)
            mx.async_eval(self.exchange.logits(self._model["lm_head"], h))
        elif order[0] == Order.WEIGH:
            assert self._adapters is not None, "adapters are loaded before they are weighed"
            self._adapters.weigh(order[1:])
        else:
            repeat(order, self._caches, self._model.make_cache)

    def answer(self, request: JsonObject) -> JsonObject:
        """Do what a request says; return what is told of it."""
        match request["do"]:
            case "adapter":
                return self._change_adapters(request)
            case "load_prefix":
                cache = self._caches[request["cache"]]
                self._prefixes.fill(cache, request["adapter"], request["tokens"])
                return {"length": cache.lengths[0] if cache.lengths else 0}
            case "save_prefix":
                self._prefixes.write(self._caches[request["cache"]], request["adapter"], request["tokens"])
                return {}
            case "count":
                return {"messages": self.exchange.messages, "sent_bytes": self.exchange.sent_bytes}
        raise ValueError(f"the request {request['do']} isn't known")

    def _change_adapters(self, request: JsonObject) -> JsonObject:
        """Load or unload an adapter; return what is refused, if anything is."""
        from .split_adapters import FollowerAdapters

        if self._adapters is None:
            self._adapters = FollowerAdapters(self._model, self._share, self._folder)
        answer = self._adapters.obey(request)
        if not answer and request.get("folder") is not None:
            self._prefixes.adapters[request["name"]] = Path(request["folder"])
        return answer

    def _run(self, number: int, n_sequences: int, n_new: int, wanted: int, *, depths: Sequence[int]) -> None:
        model, cache = self._model, self._caches[number] if number else None
        h = mx.zeros((n_sequences, n_new, model.config.hidden_size), self._dtype)
        step: Step | Mask = "causal" if cache is None else cache.step(n_sequences, n_new)
        rope = model.rope.for_length(step.last + 1 if isinstance(step, Step) else n_new)
        caches: Sequence[Attends | None] = [None] * len(model.model.layers) if cache is None else cache.layers
        tap = FeatureTap(depths) if depths else None
        h = self.exchange.run(model.model.layers, h, rope, step, caches, tap=tap, wanted=bool(wanted))
        if cache is not None:
            cache.advance(n_new)
        mx.async_eval(h, [] if cache is None else cache.arrays)
