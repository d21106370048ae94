"""Which models and adapters a request can name: those found in known folders, never a path out of a request."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from ..checkpoint.folder import ModelFolder
from ..dtypes import STORED_NAMES
from ..errors import CheckpointError, ConfigError, RequestError
from ..json_types import JsonMapping
from ..model.config import ModelConfig, load_json_object
from ..model.memory_estimate import Needs, estimate
from .adapter_fit import fits
from .home import adapters_folder, models_folder

_NAME = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?\Z", re.ASCII)
DEFAULT_TAG = "latest"


class UnknownModelError(CheckpointError):
    """There is no model or adapter of the name that was requested."""


@dataclass(frozen=True)
class ModelEntry:
    """A model folder and the name that requests call it by."""

    name: str
    folder: Path

    @cached_property
    def config(self) -> ModelConfig:
        """The model's config; raises ConfigError where it is no Llama."""
        return ModelFolder(self.folder).stated_config

    @cached_property
    def needs(self) -> Needs:
        """What the model needs in memory."""
        return estimate(self.config)

    @property
    def size_bytes(self) -> int:
        """Bytes of its files."""
        return sum(path.stat().st_size for path in self.folder.iterdir() if path.is_file())

    @property
    def modified_s(self) -> float:
        """When its config was last written, in seconds since 1970."""
        return (self.folder / "config.json").stat().st_mtime

    @property
    def digest(self) -> str:
        """A hash of the folder's file names, sizes and times; it changes when the model does."""
        files = sorted((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in self.folder.iterdir() if p.is_file())
        return sha256(repr(files).encode()).hexdigest()

    @property
    def quantization_level(self) -> str:
        """The kind of its weights in a word: Q4, or F16."""
        if self.config.quantization is not None:
            return f"Q{self.config.quantization.default.bits}"
        return STORED_NAMES[self.config.dtype or "float16"]


@dataclass(frozen=True)
class ModelChoice:
    """What a request's `model` means: a model, and an adapter over it if one is named."""

    model: ModelEntry
    adapter: str | None = None

    @property
    def name(self) -> str:
        """The full name, `model` or `model:adapter`."""
        return f"{self.model.name}:{self.adapter}" if self.adapter else self.model.name

    @property
    def digest(self) -> str:
        """A hash that tells the choice from others and changes when the model does."""
        return sha256(f"{self.model.digest} {self.adapter or ''}".encode()).hexdigest()


class Catalogue:
    """The models that can be served, looked up anew each time so that a new folder is there at once."""

    def __init__(
        self,
        served: Mapping[str, Path],
        adapters: Mapping[str, Path],
        *,
        with_home: bool = True,
        with_damaged: bool = False,
    ) -> None:
        """`with_damaged` lists the folders in the home folder that are no complete Llama, too."""
        self._served, self._adapters, self._with_home = dict(served), dict(adapters), with_home
        self._with_damaged = with_damaged

    def models(self) -> dict[str, ModelEntry]:
        """Return all models by name, those named at the start first."""
        found = dict(self._served)
        if self._with_home:
            for name, folder in _in_home(models_folder()):
                if self._with_damaged or _is_complete_llama(folder):
                    found.setdefault(name, folder)
            for name, folder in _in_hub_cache():
                found.setdefault(name, folder)
        return {name: ModelEntry(name, folder) for name, folder in found.items()}

    def adapters(self, model: ModelEntry) -> dict[str, Path]:
        """Return the folders of the adapters that fit a model, by name."""
        found = dict(self._adapters)
        if self._with_home:
            for folder in _sub_folders(adapters_folder(), "adapter_config.json"):
                found.setdefault(folder.name, folder)
        try:
            return {name: folder for name, folder in found.items() if fits(folder, model.config)}
        except ConfigError:
            return {}

    def choose(self, name: str | None) -> ModelChoice:
        """Return what `name` means, the first model if it is empty; raises UnknownModelError if there is none."""
        models = self.models()
        if not name:
            if not models:
                raise UnknownModelError("there is no model: get one with llama3-mlx pull")
            return ModelChoice(next(iter(models.values())))
        if name in models:
            return ModelChoice(models[name])
        base, found, tag = name.rpartition(":")
        if found and base in models:
            if tag == DEFAULT_TAG:
                return ModelChoice(models[base])
            fitting = self.adapters(models[base])
            if tag in fitting:
                return ModelChoice(models[base], tag)
            raise UnknownModelError(_absent(f"adapter that fits {base}", tag, fitting))
        bases = [model.name for model in models.values() if name in self.adapters(model)]
        if bases:
            raise UnknownModelError(
                f"{name[:80]!r} is an adapter, which a request names behind its model: "
                + " or ".join(f"{base}:{name}" for base in bases[:5])
            )
        if name in self._adapters:
            raise UnknownModelError(f"{name[:80]!r} is an adapter that fits no model here; {_known(models)}")
        raise UnknownModelError(_absent("model", name, models))

    def add(self, name: str, folder: Path) -> None:
        """Serve a further folder under `name`."""
        self._served[name] = folder

    def remove(self, name: str) -> None:
        """Forget a model that was served by name."""
        self._served.pop(name, None)


def check_name(name: str) -> str:
    """Return `name` if it can be the name of a new model; raises RequestError."""
    plain = name.removesuffix(f":{DEFAULT_TAG}")
    if not _NAME.match(plain) or ".." in plain or len(plain) > 200:
        raise RequestError(f"{name[:80]!r} can't be a model's name: use letters, digits, '.', '_', '-' and one '/'")
    return plain


def _absent(kind: str, name: str, there: JsonMapping) -> str:
    return f"there is no {kind} {name[:80]!r}; {_known(there)}"


def _known(there: JsonMapping) -> str:
    return f"there are: {', '.join(list(there)[:20]) or 'none'}"


def _sub_folders(folder: Path, marker: str) -> Sequence[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and (path / marker).is_file())


def _in_home(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the models of our own folder: NAME or OWNER/NAME."""
    for path in _sub_folders(folder, "config.json"):
        yield path.name, path
    if folder.is_dir():
        for owner in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
            for path in _sub_folders(owner, "config.json"):
                yield f"{owner.name}/{path.name}", path


def _in_hub_cache() -> Iterator[tuple[str, Path]]:
    """Yield the Llama models that are complete in the Hub's local cache. Source: huggingface_hub's cache layout."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    if not cache.is_dir():
        return
    for repository in sorted(cache.glob("models--*--*")):
        reference = repository / "refs" / "main"
        if not reference.is_file():
            continue
        folder = repository / "snapshots" / reference.read_text().strip()
        if _is_complete_llama(folder):
            yield repository.name.removeprefix("models--").replace("--", "/", 1), folder


def _is_complete_llama(folder: Path) -> bool:
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        return False
    try:
        return load_json_object(folder / "config.json").get("model_type") == "llama"
    except ConfigError:
        return False
