"""The conversion: source, quantiser, writer, one pass, one block of rows at a time."""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from ..errors import CheckpointError, ConversionError
from ..files import fsync_path
from ..safetensors_files import INDEX_NAME, as_mlx
from ..version import __version__
from .destination import check_destination, check_space, partial_folder, take_place
from .options import DTYPE_NAMES
from .plan import Plan
from .quantise import Quantiser
from .record import RECORD_NAME, make_record
from .side_files import write_json
from .tensors import FLOAT_DTYPES, Source, TensorRef, is_finite
from .verify import Verification, verify_files
from .writer import ShardWriter

# Values a block of rows holds at most: about 64 MB in 16 bits.
BLOCK_VALUES = 32_000_000
MLX_DTYPES = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}
_SHOWN = 20

Parts = list[tuple[str, np.ndarray]]


class Progress(Protocol):
    """Told how far a conversion is; the library itself prints nothing."""

    def start(self, total_tensors: int, total_bytes: int) -> None:
        """A conversion of that many tensors and source bytes begins."""

    def advance(self, tensor: str, n_bytes: int, *, finished: bool) -> None:
        """Bytes of a tensor have been read and written; `finished` with its last rows."""


@dataclass(frozen=True)
class ConversionReport:
    """What was written. `warnings` are sentences for the user; `verification` is None unless it was asked for."""

    folder: Path
    source: str
    parameters: int
    total_bytes: int
    bits_per_weight: float
    quantiser: str | None
    resumed_modules: int
    warnings: tuple[str, ...] = ()
    verification: Verification | None = None


def run(
    source: Source,
    plan: Plan,
    quantiser: Quantiser,
    dest: Path,
    *,
    settings: Mapping[str, Any],
    force: bool = False,
    verify: bool = False,
    progress: Progress | None = None,
) -> ConversionReport:
    """Write the converted folder at `dest`; it appears when all is done, and has been verified if that is asked for.

    `settings` is what was asked for, for the record, and what decides the result beside source, plan and quantiser.
    Raises ConversionError where `dest` is taken or the disk is full, CheckpointError where the source is damaged.
    """
    check_destination(dest, source.location, force=force)
    check_space(dest, plan.total_bytes)
    refs = list(source.tensors())
    config = _config_values(plan)
    state = {
        "version": __version__,
        "source": source.fingerprint(),
        "quantiser": quantiser.name,
        "settings": settings,
        "config": config,
    }
    partial = partial_folder(dest)
    writer = ShardWriter(partial, plan, json.loads(json.dumps(state, default=str)))
    resumed = len(writer.done)
    verification = None
    try:
        _convert_tensors(refs, plan, quantiser, writer, progress)
        writer.flush()
        quantiser_name = quantiser.name if plan.schemes else None
        record = make_record(source, quantiser_name, settings, writer.done)
        _write_beside(source, plan, writer.folder, record, config)
        if verify:
            verification = verify_files(writer.folder, refs)
        take_place(writer.folder, dest)
    except CheckpointError:
        # Nothing that comes out of a damaged source is worth keeping.
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        writer.close()
    return ConversionReport(
        folder=dest,
        source=source.description,
        parameters=plan.parameters,
        total_bytes=plan.total_bytes,
        bits_per_weight=plan.bits_per_weight,
        quantiser=quantiser_name,
        resumed_modules=resumed,
        warnings=tuple(_warnings(refs, plan)),
        verification=verification,
    )


def _convert_tensors(
    refs: list[TensorRef], plan: Plan, quantiser: Quantiser, writer: ShardWriter, progress: Progress | None
) -> None:
    """Read, quantise and write in three threads: a block is read while the one before is quantised."""
    if progress:
        progress.start(len(refs), sum(ref.nbytes for ref in refs))
    waiting = [ref for ref in refs if ref.name not in writer.done]
    for ref in refs:
        if progress and ref.name in writer.done:
            progress.advance(ref.name, ref.nbytes, finished=True)
    damaged: dict[str, None] = {}
    written: Future[None] | None = None
    with ThreadPoolExecutor(1, "convert-write") as writing:
        for ref, start, raw, finite in _blocks_ahead(waiting):
            stop = start + raw.shape[0]
            if not finite:
                damaged[ref.name] = None
            if damaged:
                continue
            parts = _converted(ref, start, as_mlx(raw, ref.dtype), plan, quantiser)
            if written:
                written.result()
            written = writing.submit(_write, writer, ref, start, stop, parts)
            if progress:
                share = ref.nbytes * stop // ref.rows - ref.nbytes * start // ref.rows
                progress.advance(ref.name, share, finished=stop == ref.rows)
        if written:
            written.result()
    if damaged:
        names = list(damaged)
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        verb = "hold" if len(names) > 1 else "holds"
        raise CheckpointError(f"{', '.join(names[:_SHOWN])}{more} {verb} NaN or infinity: the source is damaged")


def _write(writer: ShardWriter, ref: TensorRef, start: int, stop: int, parts: Parts) -> None:
    for name, rows in parts:
        writer.write_rows(name, start, rows)
    if stop == ref.rows:
        writer.finish_module(ref.name)


def _blocks_ahead(refs: Iterable[TensorRef]) -> Iterator[tuple[TensorRef, int, np.ndarray, bool]]:
    """Yield blocks of rows and whether they are finite; the next is read in a thread while this one is quantised."""
    pending: Future[tuple[TensorRef, int, np.ndarray, bool]] | None = None
    with ThreadPoolExecutor(1, "convert-read") as reading:
        for ref, start, stop in blocks(refs):
            ahead = reading.submit(_read_block, ref, start, stop)
            if pending:
                yield pending.result()
            pending = ahead
        if pending:
            yield pending.result()


def blocks(refs: Iterable[TensorRef]) -> Iterator[tuple[TensorRef, int, int]]:
    """Yield tensor, first row and end row of each block in turn."""
    for ref in refs:
        columns = ref.shape[1] if len(ref.shape) > 1 else 1
        step = max(1, BLOCK_VALUES // columns)
        for start in range(0, ref.rows, step):
            yield ref, start, min(start + step, ref.rows)


def _read_block(ref: TensorRef, start: int, stop: int) -> tuple[TensorRef, int, np.ndarray, bool]:
    raw = ref.read(start, stop)
    return ref, start, raw, is_finite(raw, ref.dtype)


def _converted(ref: TensorRef, start: int, rows: mx.array, plan: Plan, quantiser: Quantiser) -> Parts:
    """Return name and rows of each tensor that a block of source rows becomes."""
    rows = rows.astype(MLX_DTYPES[plan.dtype])
    if ref.dtype != plan.dtype and not mx.isfinite(rows).all().item():
        raise ConversionError(f"{ref.name} doesn't fit the range of {plan.dtype}: choose another --dtype")
    path = ref.name.removesuffix(".weight")
    scheme = plan.schemes.get(path) if path != ref.name else None
    if scheme is None:
        return [(ref.name, _as_numpy(rows))]
    parts = quantiser(path, start, rows, scheme)
    mx.eval(parts)
    return [
        (f"{path}.{part}", _as_numpy(array)) for part, array in zip(("weight", "scales", "biases"), parts, strict=False)
    ]


def _as_numpy(array: mx.array) -> np.ndarray:
    return np.array(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array)


def _write_beside(
    source: Source, plan: Plan, folder: Path, record: Mapping[str, Any], config: Mapping[str, Any]
) -> None:
    """Write what stands beside the weights, config.json last, and flush it."""
    source.save_side_files(folder)
    index = {"metadata": {"total_size": plan.total_bytes, "total_parameters": plan.parameters}}
    write_json(folder / INDEX_NAME, {**index, "weight_map": plan.weight_map})
    write_json(folder / RECORD_NAME, record)
    write_json(folder / "config.json", {**source.extra_config, **config})
    for path in folder.iterdir():
        fsync_path(path)
    fsync_path(folder)


def _config_values(plan: Plan) -> dict[str, Any]:
    names = {short: name for name, short in DTYPE_NAMES.items()}
    return replace(plan.config, quantization=plan.quantization, dtype=names[plan.dtype]).to_dict()


def _warnings(refs: list[TensorRef], plan: Plan) -> Iterator[str]:
    """Yield what the user should know about the result."""
    lossy = sorted({ref.stored for ref in refs if ref.stored not in FLOAT_DTYPES})
    if lossy and plan.schemes:
        yield (
            f"the source is quantised already ({', '.join(lossy)}), and quantising it again adds to its error: "
            "the original weights make a better model"
        )
    if plan.indivisible:
        names = plan.indivisible[:3]
        more = f" and {len(plan.indivisible) - 3} more" if len(plan.indivisible) > 3 else ""
        yield f"not quantised, as the group size doesn't divide their rows: {', '.join(names)}{more}"


def report_values(report: ConversionReport) -> dict[str, Any]:
    """Return the report as plain values, for --json."""
    return {**asdict(report), "folder": str(report.folder)}
