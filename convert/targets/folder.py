"""What a conversion writes: the protocol of all targets, and the folder of safetensors (for MLX or transformers)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import mlx.core as mx
import numpy as np

from ...checkpoint.weight_files import INDEX_NAME
from ...dtypes import CONFIG_NAMES, MLX_FLOATS
from ...errors import ConversionError
from ...model.channel_scales import SCALES_NAME
from ...model.quantization import Scheme
from ...version import __version__
from ..plan import Plan
from ..quantization.quantizer import Quantizer
from ..quantization.repacking import Repacking
from ..sources.side_files import write_json
from ..sources.source import FLOAT_DTYPES, Source, TensorRef
from .layout import FileLayout, safetensors_index, safetensors_layout
from .model_card import CARD_NAME, make_card
from .record import RECORD_NAME
from .shard_files import as_numpy
from .verification import Verification, verify_files

Parts = list[tuple[str, np.ndarray]]


class ValueRangeError(ConversionError):
    """A value of the source is beyond what the chosen type holds."""


class Target(Protocol):
    """Lays out files, turns rows of the source into rows of their tensors, writes the side files.

    `single_file`: the result is the one file, not the folder. `state`, as JSON has it, decides the written bytes
    together with source and settings. `reference` is what a quantized result is measured against: the source in the
    result's channels; None where nothing is quantized.
    """

    layouts: Mapping[str, FileLayout]
    single_file: bool
    quantizer: str | None
    parameters: int
    state: Mapping[str, object]
    reference: Source | None

    def refs(self) -> list[TensorRef]:
        """Return the tensors to read, in the order of writing."""

    def convert(self, ref: TensorRef, start: int, rows: mx.array) -> Parts:
        """Return name and rows of each tensor that a block of source rows becomes; raises ConversionError."""

    def write_side_files(self, folder: Path) -> None:
        """Write the source's side files."""

    def write_metadata(self, folder: Path, record: Mapping[str, object]) -> None:
        """Write what describes the written weights."""

    def verify(self, folder: Path) -> Verification:
        """Re-read what was written; raises CheckpointError naming what is wrong."""

    def notes(self) -> Iterator[str]:
        """Yield what the user should know about the result."""


def total_bytes(target: Target) -> int:
    """Return the bytes of all tensors."""
    return sum(place.nbytes for layout in target.layouts.values() for place in layout.places.values())


class FolderTarget:
    """A folder of safetensors by a plan. `form` is mlx, or pt for what transformers is to load."""

    single_file = False

    def __init__(
        self,
        source: Source,
        plan: Plan,
        quantizer: Quantizer,
        form: str = "mlx",
        *,
        reference: Source | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.source, self.plan, self.form, self.reference, self._notes = source, plan, form, reference, notes
        self._quantize = quantizer
        self._lacks_tokenizer = False
        self.quantizer = quantizer.name if plan.schemes else None
        self.parameters = plan.parameters
        self.layouts: Mapping[str, FileLayout] = {
            name: safetensors_layout(tensors, form) for name, tensors in plan.shards.items()
        }
        config = replace(
            plan.config, quantization=plan.quantization, dtype=CONFIG_NAMES[plan.dtype], channel_scales=None
        )
        self._config = config.to_dict()
        self.state: Mapping[str, object] = {"version": __version__, "form": form, "config": self._config}

    def refs(self) -> list[TensorRef]:
        """Return the source's tensors."""
        return list(self.source.tensors())

    def convert(self, ref: TensorRef, start: int, rows: mx.array) -> Parts:
        """Return weight, scales and biases of a quantized module, of any other the rows in the plan's dtype."""
        rows = in_range(ref, rows, self.plan.dtype)
        path = ref.name.removesuffix(".weight")
        scheme = self.plan.schemes.get(path) if path != ref.name else None
        if scheme is None:
            return [(ref.name, as_numpy(rows))]
        parts = self._packed(path, start, rows, scheme)
        return [
            (f"{path}.{part}", as_numpy(array))
            for part, array in zip(("weight", "scales", "biases"), parts, strict=False)
        ]

    def _packed(self, path: str, start: int, rows: mx.array, scheme: Scheme) -> Sequence[mx.array]:
        parts = self._quantize(path, start, rows, scheme)
        mx.eval(parts)
        return parts

    def write_side_files(self, folder: Path) -> None:
        """Write tokenizer, generation config and license files."""
        self.source.save_side_files(folder)

    def write_metadata(self, folder: Path, record: Mapping[str, object]) -> None:
        """Write index, channel scales, record, model card and, last, config.json."""
        self._lacks_tokenizer = not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer.model"))
        plan = self.plan
        write_json(folder / INDEX_NAME, safetensors_index(plan.shards, plan.parameters))
        write_json(folder / RECORD_NAME, record)
        (folder / CARD_NAME).write_text(make_card(self.source, plan, record, self.form), encoding="utf-8")
        scales = self.source.channel_scales()
        if scales is not None:
            (folder / SCALES_NAME).write_bytes(scales.content)
        digest = scales.digest if scales else self.source.lost_scales
        write_json(folder / "config.json", {**self._config, **({"channel_scales": digest} if digest else {})})

    def verify(self, folder: Path) -> Verification:
        """Check checksums, and each module against the source."""
        return verify_files(folder, self.source.tensors())

    def notes(self) -> Iterator[str]:
        """Yield what was lost before, and what was not quantized."""
        yield from self.source.notes
        yield from self._notes
        kept = self._quantize.kept if isinstance(self._quantize, Repacking) else 0.0
        yield from lossy_source_notes(self.refs(), quantizes=bool(self.plan.schemes), kept=kept)
        if self._lacks_tokenizer:
            yield "the source has no tokenizer: put one into the folder of the result before chatting with it"
        names = self.plan.indivisible
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            yield f"not quantized, as the group size doesn't divide their rows: {', '.join(names[:3])}{more}"


def in_range(ref: TensorRef, rows: mx.array, dtype: str, remedy: str = "dtype bfloat16 or float32") -> mx.array:
    """Return the rows in the dtype; raises ValueRangeError with the remedy if a value doesn't fit it."""
    rows = rows.astype(MLX_FLOATS[dtype])
    if ref.dtype != dtype and not mx.isfinite(rows).all().item():
        raise ValueRangeError(f"{ref.name} doesn't fit the range of {dtype}: choose {remedy}")
    return rows


def lossy_kinds(refs: Iterable[TensorRef]) -> list[str]:
    """Return the names of the quantized types among a source's tensors."""
    return sorted({ref.stored for ref in refs if ref.stored not in FLOAT_DTYPES})


def lossy_source_notes(refs: Sequence[TensorRef], *, quantizes: bool, kept: float = 0.0) -> Iterator[str]:
    """Yield a note if the source is quantized already; `kept` is the share of the weights whose levels stay."""
    lossy = lossy_kinds(refs)
    if lossy and quantizes and kept:
        where = "as they are" if kept == 1 else f"in {min(kept, 0.999):.1%} of the groups, the others lose more"
        yield (
            f"the source is quantized already ({', '.join(lossy)}): its levels are kept {where}; what it lost before "
            "doesn't come back: the original weights make a better model"
        )
    elif lossy and quantizes:
        yield (
            f"the source is quantized already ({', '.join(lossy)}), and quantizing it again adds to its error: "
            "the original weights make a better model"
        )
    elif lossy:
        yield (
            f"the source is quantized ({', '.join(lossy)}): what that lost doesn't come back; "
            "the original weights make a better model"
        )
