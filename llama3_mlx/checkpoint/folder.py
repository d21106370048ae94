"""A model's folder: each of its JSON files read once, and what holds where its files contradict one another.

The tensors decide over config.json, what lies there over an index, the embedding over the tokenizer. What was decided
stands in `notes`; what can't be decided is an error.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..errors import CheckpointError, ConfigError
from ..json_types import JsonObject
from ..model.config import ModelConfig, load_json_object
from ..model.parameters import check_tensors, stored_tensors
from ..model.quantization import Scheme
from .decisions import check_dtypes, module_schemes, with_dtype, with_head, with_quantization
from .reader import CheckpointReader, StoredTensor
from .recognition import DRAFT_HEAD, foreign_quantization, is_draft_head, other_folder, other_tensors
from .safetensors_files import TensorInfo
from .tensor_names import EMBEDDING, HEAD, model_names
from .weight_files import INDEX_NAME, SINGLE_NAME, checked_weight_map, find_headers, safetensors_names


@dataclass(frozen=True)
class _Decided:
    config: ModelConfig
    schemes: Mapping[str, Scheme]
    tensors: Mapping[str, StoredTensor]


class ModelFolder:
    """The files of one model, opened once and handed on to whatever loads a part of it."""

    def __init__(self, path: Path, wanted: Callable[[str], bool] | None = None) -> None:
        """`wanted` says of a tensor's name whether it matters; files that an index has no such tensor in may lack."""
        self.path, self._wanted = path, wanted
        self._notes: dict[str, None] = {}
        self._json: dict[str, JsonObject | None] = {}

    @classmethod
    def of(cls, folder: "Path | ModelFolder") -> "ModelFolder":
        """Return the folder at a path; one that is opened already comes back as it is."""
        return folder if isinstance(folder, ModelFolder) else cls(folder)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided so far where the files contradict one another, a line each."""
        return tuple(self._notes)

    def note(self, text: str) -> None:
        """Keep a line about a decision; the same line again changes nothing."""
        self._notes[text] = None

    def json(self, name: str) -> JsonObject | None:
        """Return the object in a JSON file, None if there is no such file; raises ConfigError if it can't be read."""
        if name not in self._json:
            path = self.path / name
            self._json[name] = load_json_object(path) if path.exists() else None
        return self._json[name]

    @cached_property
    def stated_config(self) -> ModelConfig:
        """What config.json says by itself; another program's quantization only if it packed the tensors."""
        values = self.json("config.json")
        if values is None:
            raise ConfigError(
                other_folder(self.path) or f"{self.path} has no config.json: is it the folder of a model?"
            )
        if is_draft_head(values):
            raise ConfigError(f"{self.path} is {DRAFT_HEAD}")
        entry = values.get("quantization_config")
        if self.has_weights and isinstance(entry, Mapping) and entry.get("quant_method"):
            kind = foreign_quantization({name: tensor.info for name, tensor in self.found.items()})
            if kind is None:
                self.note(
                    f"config.json has a quantization_config of {entry['quant_method']!r}, but the tensors aren't "
                    "packed: they are read as they are"
                )
                values = {name: value for name, value in values.items() if name != "quantization_config"}
        return ModelConfig.from_dict(values, self.note)

    @property
    def config(self) -> ModelConfig:
        """What holds: config.json, and where there are weights what their tensors decide."""
        return self._decided.config if self.has_weights else self.stated_config

    @property
    def schemes(self) -> Mapping[str, Scheme]:
        """The scheme of each quantized module by its path."""
        return self._decided.schemes

    @cached_property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """Every tensor that the model needs by its name there, in the model's order.

        Raises CheckpointError with everything that is missing, unexpected or misshapen.
        """
        found = self._decided.tensors
        expected = stored_tensors(self.config, self.schemes)
        if self._wanted is not None:
            expected = {name: shape for name, shape in expected.items() if self._wanted(name)}
            found = {name: tensor for name, tensor in found.items() if name in expected}
        check_tensors(expected, {name: tensor.shape for name, tensor in found.items()}, self.path)
        needed = {name: found[name] for name in expected}
        check_dtypes(needed, self.schemes, self.path)
        return needed

    @cached_property
    def has_weights(self) -> bool:
        """Whether files with weights lie there; a folder may hold a config alone."""
        return bool(safetensors_names(self.path)) or (self.path / INDEX_NAME).exists()

    @property
    def weight_files(self) -> list[Path]:
        """The files that tensors are read from."""
        return list(dict.fromkeys(tensor.path for tensor in self.tensors.values()))

    def reader(self) -> CheckpointReader:
        """Return a new reader of the tensors."""
        return CheckpointReader(self.tensors, self.schemes)

    @cached_property
    def found(self) -> Mapping[str, StoredTensor]:
        """The tensors of all files under the model's names, those that aren't the model's included."""
        headers = find_headers(self.path, self._weight_map(), self.note)
        stored: dict[str, tuple[Path, TensorInfo]] = {
            name: (path, info) for path, header in headers.items() for name, info in header.items()
        }
        names = model_names(stored, self.note)
        other = other_tensors(names.values())
        if other is not None:
            raise CheckpointError(f"{self.path}: {other}")
        return {names[name]: StoredTensor(path, name, info) for name, (path, info) in stored.items()}

    @cached_property
    def _decided(self) -> "_Decided":
        config, tensors = self.stated_config, self.found
        kind = foreign_quantization({name: tensor.info for name, tensor in tensors.items()})
        if kind is not None:
            way = "" if kind.startswith("bitsandbytes") else "convert them with llama3-mlx convert, or "
            raise CheckpointError(
                f"{self.path}: weights quantized by {kind} can't be run: {way}take the original or an MLX folder"
            )
        config = with_head(config, tensors, self.note)
        if config.tie_word_embeddings and f"{EMBEDDING}.weight" not in tensors:
            tensors = _head_as_embedding(tensors)
        schemes = module_schemes(config, tensors, self.note)
        if self._wanted is None:
            # A part of the tensors doesn't tell what the others are.
            config = with_quantization(config, schemes, self.note)
        config = with_dtype(config, tensors, self.note)
        return _Decided(config, schemes, tensors)

    def _weight_map(self) -> dict[str, str] | None:
        path = self.path / INDEX_NAME
        try:
            content = self.json(INDEX_NAME)
            names = None if content is None else checked_weight_map(path, content)
        except (ConfigError, CheckpointError) as error:
            if (self.path / SINGLE_NAME).is_file():
                self.note(f"{SINGLE_NAME} is read; {INDEX_NAME} beside it is damaged and left out")
                return None
            raise CheckpointError(str(error)) from None
        if names is None or self._wanted is None:
            return names
        return {name: file for name, file in names.items() if self._wanted(name)}


def load_config(folder: "Path | ModelFolder") -> ModelConfig:
    """Return the config that holds for a folder: config.json, and what the tensors decide where there are some.

    Raises ConfigError if config.json is missing, unreadable or of another family, CheckpointError for damaged weights.
    """
    return ModelFolder.of(folder).config


def _head_as_embedding(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Return the tensors with the head in the embedding's place: tied, either is the other."""
    return {
        f"{EMBEDDING}{name.removeprefix(HEAD)}" if name.startswith(f"{HEAD}.") else name: tensor
        for name, tensor in tensors.items()
    }
