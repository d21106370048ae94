"""The models in memory: loaded on first use, under one memory budget, least recently used out first."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ...checkpoint.recognition import is_draft_head
from ...device import compute_dtype_name, working_memory_bytes
from ...distributed.settings import NodeOptions
from ...errors import EngineClosedError
from ...library.catalogue import Catalogue, ModelChoice, ModelEntry, UnknownModelError
from ...library.resolver import resolve_draft, resolve_model
from ...model.config import load_json_object
from ...model.memory_estimate import estimate
from ...safety.guard import check_guard
from ...units import size_text
from ..http.errors import ApiError
from ..http.logs import log
from ..http.metrics import Gauge, Metrics
from ..settings import ServerSettings
from .loaded_model import LoadedModel, ModelRuntime

# Left for the system and other applications where no budget is given.
_SHARE = 0.75
# Key/value positions that a loaded model's budget counts beside its weights.
_CONTEXT = 4096
_SWEEP_S = 1.0


@dataclass
class ModelSlot:
    """A model in memory, or on its way there."""

    loaded: LoadedModel
    needed_bytes: int
    ready: asyncio.Task[None]
    users: int = 0
    used_s: float = field(default_factory=time.monotonic)
    keep_alive_s: float = 0.0

    @property
    def expires_s(self) -> float:
        """When it may go, on the monotonic clock; infinity for never."""
        if self.users or self.keep_alive_s < 0:
            return math.inf
        return self.used_s + self.keep_alive_s


class LoadedModels:
    """Gives out loaded models by name and takes them out of memory again."""

    def __init__(self, catalogue: Catalogue, settings: ServerSettings, metrics: Metrics) -> None:
        self.catalogue, self._settings, self._metrics = catalogue, settings, metrics
        budget = settings.memory_gb * 1e9 if settings.memory_gb else working_memory_bytes() * _SHARE
        self.budget_bytes = int(budget)
        self.slots: dict[str, ModelSlot] = {}
        if settings.default_model:
            catalogue.choose(settings.default_model)
        self.guard = None if settings.guard is None else _guard_choice(settings.guard, catalogue)
        self._drafts = dict(self._draft(text) for text in settings.draft)
        self._freed, self._making_room = asyncio.Event(), asyncio.Lock()
        metrics.gauges += [
            Gauge("running", "Generations that run or wait", "model", lambda: self._count("active")),
            Gauge("queued", "Generations that wait to run", "model", lambda: self._count("waiting")),
            Gauge("memory_bytes", "Memory that MLX holds, for use or for reuse", "kind", _mlx_memory),
            Gauge("model_memory_bytes", "Memory set aside for loaded models", "model", self._memory),
        ]

    @asynccontextmanager
    async def use(self, name: str | None, keep_alive_s: float | None = None) -> AsyncIterator[LoadedModel]:
        """Give the model called `name`, loaded, and keep it in memory while it is used.

        Raises ApiError 404 if there is none of that name, 503 if there is no memory for it now, 400 if never.
        """
        async with self._use(self.choose(name), keep_alive_s) as loaded:
            yield loaded

    @asynccontextmanager
    async def use_guard(self) -> AsyncIterator[LoadedModel | None]:
        """Give the model that judges requests and answers, None where there is none; it stays in memory."""
        if self.guard is None:
            yield None
            return
        async with self._use(self.guard, -1) as loaded:
            yield loaded

    @asynccontextmanager
    async def _use(self, choice: ModelChoice, keep_alive_s: float | None) -> AsyncIterator[LoadedModel]:
        slot = await self._slot(choice)
        slot.users += 1
        slot.keep_alive_s = self._settings.keep_alive_s if keep_alive_s is None else keep_alive_s
        try:
            await asyncio.shield(slot.ready)
            if choice.adapter:
                await slot.loaded.runtime.adapt(choice.adapter, self.catalogue.adapters(choice.model)[choice.adapter])
            yield LoadedModel(slot.loaded.runtime, choice)
        finally:
            slot.users -= 1
            slot.used_s = time.monotonic()
            if not slot.users:
                self._freed.set()

    def choose(self, name: str | None) -> ModelChoice:
        """Return what `name` means; where there is a default model, it stands for names that aren't there, too."""
        default = self._settings.default_model
        if default is None:
            return self.catalogue.choose(name)
        try:
            return self.catalogue.choose(name or default)
        except UnknownModelError:
            return self.catalogue.choose(default)

    def _draft(self, text: str) -> tuple[str, Path]:
        """Read MODEL=DRAFT, or DRAFT for the first model, as the model's name and the draft's folder."""
        name, found, draft = text.partition("=")
        model = self.catalogue.choose(name if found else self._settings.default_model).model.name
        return model, resolve_draft(draft if found else text)

    async def unload(self, name: str) -> bool:
        """Take a model out of memory if nobody uses it; return whether it was there and is gone."""
        slot = self.slots.get(name)
        if slot is None or slot.users:
            return False
        del self.slots[name]
        await slot.loaded.runtime.close()
        log("model unloaded", model=name)
        await self._divide()
        return True

    async def sweep(self) -> None:
        """Take expired models out of memory, until cancelled."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = time.monotonic()
            for name in [name for name, slot in self.slots.items() if slot.expires_s <= now]:
                await self.unload(name)

    async def close(self) -> None:
        """Let go of all models."""
        for slot in list(self.slots.values()):
            slot.ready.cancel()
            await slot.loaded.runtime.close()
        self.slots.clear()

    async def _slot(self, choice: ModelChoice) -> ModelSlot:
        name = choice.model.name
        slot = self.slots.get(name)
        if slot is not None and slot.ready.done() and not slot.ready.cancelled() and slot.ready.exception():
            del self.slots[name]
            slot = None
        if slot is None:
            needed = self._needed(choice.model)
            async with self._making_room:
                await self._make_room(name, needed)
                slot = self.slots.get(name) or self._start(choice, needed)
        return slot

    def _needed(self, model: ModelEntry) -> int:
        """Return what a model counts with its draft; over nodes, which hold one at a time, all that a guard leaves."""
        nodes, draft = self._nodes(model), self._drafts.get(model.name)
        needed = memory_needed(model) // nodes + (0 if draft is None else _draft_memory(draft))
        if nodes == 1:
            return needed
        beside = 0 if self.guard is None else memory_needed(self.guard.model)
        return max(needed, self.budget_bytes - beside)

    def _nodes(self, model: ModelEntry) -> int:
        """Return over how many nodes a model lies: a guard on rank 0 alone, where it judges while the others wait."""
        is_guard = self.guard is not None and model.name == self.guard.model.name
        return 1 if is_guard else self._settings.n_nodes

    def _start(self, choice: ModelChoice, needed: int) -> ModelSlot:
        base = ModelRuntime(
            choice.model,
            self._settings.max_running,
            self._settings.max_queue,
            draft=self._drafts.get(choice.model.name),
            nodes=NodeOptions(nodes=self._nodes(choice.model), split=self._settings.split),
        )
        loaded = LoadedModel(base, ModelChoice(choice.model))
        slot = ModelSlot(loaded, needed, asyncio.ensure_future(self._load(loaded)))
        self.slots[choice.model.name] = slot
        return slot

    async def _load(self, loaded: LoadedModel) -> None:
        await self._divide()
        name = loaded.choice.name
        await loaded.runtime.load(self._share(name) / 1e9)
        # Others may have come meanwhile.
        await loaded.runtime.limit(self._share(name) / 1e9)
        self._metrics.loads.add(model=name)
        log("model loaded", model=name, seconds=round(loaded.runtime.load_s, 2))

    async def _make_room(self, name: str, needed: int) -> None:
        """Take out models that nobody uses, the least recently used first, until `needed` bytes are free."""
        guard = None if self.guard is None else self.slots.get(self.guard.model.name)
        beside = guard.needed_bytes if guard is not None and guard is not self.slots.get(name) else 0
        if needed + beside > self.budget_bytes:
            besides = f" beside the guard's {size_text(beside)}" if beside else ""
            memory = size_text(self.budget_bytes)
            raise ApiError(
                400,
                f"{name} needs {size_text(needed)}{besides}, but the memory for models is {memory}: "
                "take a smaller model, or give the server more with --memory-gb",
                code="insufficient_memory",
            )
        while name not in self.slots and self._used() + needed > self.budget_bytes:
            idle = [(slot.used_s, other) for other, slot in self.slots.items() if not slot.users]
            if not idle:
                await self._wait_for_room(name, needed)
            else:
                await self.unload(min(idle)[1])

    async def _wait_for_room(self, name: str, needed: int) -> None:
        self._freed.clear()
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                await self._freed.wait()
        except TimeoutError:
            raise ApiError(
                503,
                f"{name} needs {size_text(needed)}, but other models are in use: try again later",
                code="insufficient_memory",
                headers={"retry-after": "10"},
            ) from None

    def _share(self, name: str) -> float:
        """Return the memory of a model: what it needs, and an equal part of what no model needs."""
        return self.slots[name].needed_bytes + (self.budget_bytes - self._used()) / len(self.slots)

    async def _divide(self) -> None:
        """Tell the models that are in memory what they may take now."""
        for name, slot in list(self.slots.items()):
            is_loaded = slot.ready.done() and not slot.ready.cancelled() and not slot.ready.exception()
            if is_loaded and name in self.slots:
                with suppress(EngineClosedError):
                    await slot.loaded.runtime.limit(self._share(name) / 1e9)

    def _used(self) -> int:
        return sum(slot.needed_bytes for slot in self.slots.values())

    def _count(self, attribute: str) -> dict[str, float]:
        return {name: getattr(slot.loaded, attribute) for name, slot in self.slots.items()}

    def _memory(self) -> dict[str, float]:
        return {name: float(slot.needed_bytes) for name, slot in self.slots.items()}


def all_choices(catalogue: Catalogue) -> list[ModelChoice]:
    """Return everything that a request can name."""
    models = catalogue.models().values()
    return [ModelChoice(model, adapter) for model in models for adapter in (None, *catalogue.adapters(model))]


def _guard_choice(text: str, catalogue: Catalogue) -> ModelChoice:
    """Return the guard's model; raises what a model is refused for, RequestError for one that is no Llama Guard."""
    folder = resolve_model(text)
    check_guard(folder)
    served = (model for model in catalogue.models().values() if model.folder.resolve() == folder.resolve())
    return ModelChoice(next(served, None) or ModelEntry(f"{folder.name} (guard)", folder))


def _draft_memory(folder: Path) -> int:
    """Return the bytes that a draft model counts with, or a draft head, whose cache is next to nothing."""
    if is_draft_head(load_json_object(folder / "config.json")):
        files = list(folder.glob("*.safetensors")) or list(folder.glob("*.bin"))
        return sum(path.stat().st_size for path in files)
    return memory_needed(ModelEntry(folder.name, folder))


def memory_needed(model: ModelEntry) -> int:
    """Return the bytes that a loaded model counts with: its weights and a context of usual length."""
    config = model.config
    needs = estimate(config, compute_dtype_name(config.dtype))
    return needs.memory_for(min(_CONTEXT, config.max_position_embeddings))


def _mlx_memory() -> dict[str, float]:
    import mlx.core as mx

    return {"active": float(mx.get_active_memory()), "cache": float(mx.get_cache_memory())}
