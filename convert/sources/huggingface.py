"""Hugging Face safetensors, plain or already quantized by MLX, as a source."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ...checkpoint.folder import ModelFolder
from ...checkpoint.model_files import copy_files
from ...files import printable
from ...library.hub import repository_of
from ...model.channel_scales import SCALES_NAME, ChannelScales, load_scales, lost_scales
from ...model.config import ModelConfig
from ...model.parameters import expected_tensors
from ...tokenizer.vocab_merges import dumped, has_vocab_and_merges, tokenizer_json
from .source import Fingerprint, TensorRef, file_facts, main_dtype


class HFSource:
    """A folder of safetensors with config.json. Quantized modules are dequantized as they are read."""

    def __init__(self, model: Path | ModelFolder) -> None:
        self._opened = ModelFolder.of(model)
        self.folder = folder = self._opened.path
        self.config: ModelConfig = self._opened.config
        self.location = folder
        self.base_model = repository_of(folder)
        self.description = self.base_model or f"Hugging Face folder {printable(folder.resolve().name)}"
        self.lost_scales: str | None = lost_scales(folder, self.config)
        self._scales = None if self.lost_scales else load_scales(folder, self.config)
        if self.lost_scales:
            self._opened.note(
                f"{SCALES_NAME}, which config.json names, is missing: the equalized channels stay as they are, and "
                "adapters of the original don't fit; with the file from where the folder comes from they would"
            )
        self._reader = self._opened.reader()
        self.dtype: str | None = main_dtype((tensor.dtype, tensor.shape) for tensor in self._opened.tensors.values())
        self.is_mlx_quantized = bool(self._opened.schemes)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided where the folder's files contradict one another."""
        return self._opened.notes

    def tensors(self) -> Iterator[TensorRef]:
        """Yield the tensors in the model's order."""
        for name, shape in expected_tensors(self.config).items():
            scheme = self._opened.schemes.get(name.removesuffix(".weight"))
            if scheme is not None and name.endswith(".weight"):
                parts = self._reader.parts(name.removesuffix(".weight"))
                nbytes = sum(self._opened.tensors[part].nbytes for part in parts)
                read = partial(self._reader.dequantized, name)
                yield TensorRef(
                    name, shape, "F32", f"{scheme.mode} {scheme.bits} bits", nbytes, read, scheme.group_size
                )
            else:
                tensor = self._opened.tensors[name]
                yield TensorRef(name, shape, tensor.dtype, tensor.dtype, tensor.nbytes, partial(self._reader.raw, name))

    def channel_scales(self) -> ChannelScales | None:
        """Return the scales in the folder's channel_scales.json."""
        return self._scales

    def fingerprint(self) -> Fingerprint:
        """Return names, sizes and times of the weight files and the config."""
        return {"files": [file_facts(path) for path in [self.folder / "config.json", *self._opened.weight_files]]}

    def save_side_files(self, folder: Path) -> None:
        """Copy tokenizer, template, generation config and license."""
        copy_files(self.folder, folder)
        if has_vocab_and_merges(self._opened):
            (folder / "tokenizer.json").write_text(dumped(tokenizer_json(self._opened)), encoding="utf-8")

    def close(self) -> None:
        """Do nothing: no file stays open."""
