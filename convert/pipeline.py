"""The conversion: source, quantiser, writer, one pass, one block of rows at a time."""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from ..errors import ConversionError
from ..files import fsync_path
from ..quantization import Scheme
from ..safetensors_files import INDEX_NAME, as_mlx
from ..version import __version__
from .plan import Plan, quantization_entry
from .quantise import Quantiser
from .side_files import write_json
from .tensors import Source, TensorRef, check_finite
from .writer import JOURNAL, ShardWriter

# Values a block of rows holds at most: about 64 MB in 16 bits.
BLOCK_VALUES = 32_000_000
MLX_DTYPES = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}
DTYPE_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


class Progress(Protocol):
    """Told how far a conversion is; the library itself prints nothing."""

    def start(self, total_tensors: int, total_bytes: int) -> None:
        """A conversion of that many tensors and source bytes begins."""

    def advance(self, tensor: str, n_bytes: int, *, finished: bool) -> None:
        """Bytes of a tensor have been read and written; `finished` with its last rows."""


@dataclass(frozen=True)
class ConversionReport:
    """What was written."""

    folder: Path
    source: str
    parameters: int
    total_bytes: int
    bits_per_weight: float
    quantiser: str | None
    resumed_modules: int


def run(
    source: Source,
    plan: Plan,
    quantiser: Quantiser,
    default: Scheme | None,
    dest: Path,
    *,
    options: Mapping[str, Any],
    force: bool = False,
    progress: Progress | None = None,
) -> ConversionReport:
    """Write the converted folder at `dest`; it appears when all is done.

    Raises ConversionError where `dest` is taken or the disk is full, CheckpointError where the source is damaged.
    """
    if dest.exists() and not force:
        raise ConversionError(f"{dest} exists already: choose another destination or replace it with --force")
    partial = dest.with_name(f".{dest.name}.partial")
    state = {"version": __version__, "source": source.fingerprint(), "quantiser": quantiser.name, "options": options}
    writer = ShardWriter(partial, plan, json.loads(json.dumps(state, default=str)))
    resumed = len(writer.done)
    try:
        _convert_tensors(source.tensors(), plan, quantiser, writer, progress)
        writer.flush()
    finally:
        writer.close()
    _finish(source, plan, default, partial)
    _replace(partial, dest)
    return ConversionReport(
        folder=dest,
        source=source.description,
        parameters=plan.parameters,
        total_bytes=plan.total_bytes,
        bits_per_weight=plan.bits_per_weight,
        quantiser=quantiser.name if plan.schemes else None,
        resumed_modules=resumed,
    )


def _convert_tensors(
    tensors: Iterable[TensorRef], plan: Plan, quantiser: Quantiser, writer: ShardWriter, progress: Progress | None
) -> None:
    refs = list(tensors)
    if progress:
        progress.start(len(refs), sum(ref.nbytes for ref in refs))
    waiting = [ref for ref in refs if ref.name not in writer.done]
    for ref in refs:
        if progress and ref.name in writer.done:
            progress.advance(ref.name, ref.nbytes, finished=True)
    for ref, start, raw in _blocks_ahead(waiting):
        stop = start + raw.shape[0]
        for name, rows in _converted(ref, start, as_mlx(raw, ref.dtype), plan, quantiser):
            writer.write_rows(name, start, rows)
        finished = stop == ref.rows
        if finished:
            writer.finish_module(ref.name)
        if progress:
            progress.advance(ref.name, ref.nbytes * (stop - start) // ref.rows, finished=finished)


def _blocks_ahead(refs: Iterable[TensorRef]) -> Iterator[tuple[TensorRef, int, np.ndarray]]:
    """Yield blocks of rows; the next one is read and checked in a thread while this one is quantised."""
    pending: Any = None
    with ThreadPoolExecutor(1, "convert-read") as reader:
        for ref, start, stop in _blocks(refs):
            ahead = (ref, start, reader.submit(_read_checked, ref, start, stop))
            if pending:
                yield pending[0], pending[1], pending[2].result()
            pending = ahead
        if pending:
            yield pending[0], pending[1], pending[2].result()


def _blocks(refs: Iterable[TensorRef]) -> Iterator[tuple[TensorRef, int, int]]:
    for ref in refs:
        columns = ref.shape[1] if len(ref.shape) > 1 else 1
        step = max(1, BLOCK_VALUES // columns)
        for start in range(0, ref.rows, step):
            yield ref, start, min(start + step, ref.rows)


def _read_checked(ref: TensorRef, start: int, stop: int) -> np.ndarray:
    raw = ref.read(start, stop)
    check_finite(ref.name, raw, ref.dtype)
    return raw


def _converted(
    ref: TensorRef, start: int, rows: mx.array, plan: Plan, quantiser: Quantiser
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield name and rows of each tensor that a block of source rows becomes."""
    rows = rows.astype(MLX_DTYPES[plan.dtype])
    if ref.dtype != plan.dtype and not mx.isfinite(rows).all().item():
        raise ConversionError(f"{ref.name} doesn't fit the range of {plan.dtype}: choose another --dtype")
    path = ref.name.removesuffix(".weight")
    scheme = plan.schemes.get(path) if path != ref.name else None
    if scheme is None:
        yield ref.name, _as_numpy(rows)
        return
    parts = quantiser(path, start, rows, scheme)
    mx.eval(parts)
    for part, array in zip(("weight", "scales", "biases"), parts, strict=False):
        yield f"{path}.{part}", _as_numpy(array)


def _as_numpy(array: mx.array) -> np.ndarray:
    return np.array(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array)


def _finish(source: Source, plan: Plan, default: Scheme | None, folder: Path) -> None:
    """Write what stands beside the weights, config.json last."""
    source.save_side_files(folder)
    index = {"metadata": {"total_size": plan.total_bytes, "total_parameters": plan.parameters}}
    write_json(folder / INDEX_NAME, {**index, "weight_map": plan.weight_map})
    quantization = quantization_entry(plan.config, default, plan.schemes) if default else None
    names = {short: name for name, short in DTYPE_NAMES.items()}
    config = replace(plan.config, quantization=quantization, dtype=names[plan.dtype])
    write_json(folder / "config.json", {**source.extra_config, **config.to_dict()})
    (folder / JOURNAL).unlink(missing_ok=True)
    for path in folder.iterdir():
        fsync_path(path)
    fsync_path(folder)


def _replace(partial: Path, dest: Path) -> None:
    """Rename the finished folder to its place, an old one out of the way first."""
    old = dest.with_name(f".{dest.name}.old")
    if dest.exists():
        shutil.rmtree(old, ignore_errors=True)
        dest.rename(old)
    partial.rename(dest)
    fsync_path(dest.parent)
    if old.exists():
        shutil.rmtree(old) if old.is_dir() else old.unlink()


def report_values(report: ConversionReport) -> dict[str, Any]:
    """Return the report as plain values, for --json."""
    return {**asdict(report), "folder": str(report.folder)}
