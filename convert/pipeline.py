"""The conversion: one pass from source over quantizer to writer, one block of rows at a time."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import mlx.core as mx
import numpy as np

from ..checkpoint.safetensors_files import as_mlx
from ..errors import CheckpointError, ConversionError, TokenizerError
from ..files import fsync_folder, is_full, take_place
from .phases import MEASURING
from .sources.source import Source, TensorRef, damage, is_finite
from .targets.destination import check_destination, check_space, partial_folder
from .targets.folder import Parts, Target, ValueRangeError, total_bytes
from .targets.record import make_record
from .targets.verification import Verification
from .targets.writer import ShardWriter

# Values in a block of rows, at most: 16 MB in 16 bits. glibc returns larger ones to the system each time, and
# a third of the processor's time would go into faulting their pages in again.
BLOCK_VALUES = 8_000_000


class Progress(Protocol):
    """Is called as a conversion progresses; the library itself prints nothing."""

    def stage(self, name: str) -> None:
        """A part of the work begins that isn't counted in tensors, such as `verifying`."""

    def start(self, total_tensors: int, total_bytes: int) -> None:
        """A conversion of that many tensors and source bytes begins."""

    def advance(self, tensor: str, n_bytes: int, *, finished: bool) -> None:
        """Bytes of a tensor have been read and written; `finished` with its last rows."""


@dataclass(frozen=True)
class ConversionReport:
    """What was written at `path`: bytes of all tensors, bits of a weight with everything counted.

    `notes` are sentences for the user; `quality` and `verification` are None unless they were requested.
    """

    path: Path
    source: str
    parameters: int
    total_bytes: int
    bits_per_weight: float
    quantizer: str | None
    resumed_modules: int
    notes: tuple[str, ...] = ()
    verification: Verification | None = None
    quality: Mapping[str, float] | None = None


def run(
    source: Source,
    target: Target,
    dest: Path,
    *,
    settings: Mapping[str, object],
    force: bool = False,
    verify: bool = False,
    measure: Callable[[Path], Mapping[str, float]] | None = None,
    progress: Progress | None = None,
) -> ConversionReport:
    """Write the target; it appears at `dest` atomically, when all is done and, with `verify`, verified.

    `settings` are the given ones, for the record; with source and target they decide the result. `measure` gets the
    complete folder before it takes its place; what it returns goes into record and card.
    Raises ConversionError where `dest` is taken or the disk is full, CheckpointError where the source is damaged.
    """
    check_destination(dest, source.location, force=force, single_file=target.single_file)
    check_space(dest, sum(layout.size for layout in target.layouts.values()))
    state = {
        "source": source.fingerprint(),
        "quantizer": target.quantizer,
        "settings": settings,
        "target": target.state,
    }
    partial = partial_folder(dest)
    writer = ShardWriter(partial, target.layouts, json.loads(json.dumps(state, default=str)))
    resumed, verification, quality = len(writer.done), None, None
    try:
        # First, since a tokenizer can be damaged, too.
        target.write_side_files(writer.folder)
        convert_tensors(target, target.refs(), writer, progress)
        writer.flush()
        record = make_record(source, target.quantizer, settings, writer.done)
        target.write_metadata(writer.folder, record)
        if measure:
            _announce(progress, MEASURING)
            quality = measure(writer.folder)
            target.write_metadata(writer.folder, {**record, "quality": quality})
        fsync_folder(writer.folder)
        if verify:
            _announce(progress, "verifying")
            verification = target.verify(writer.folder)
        _take_place(writer.folder / next(iter(target.layouts)) if target.single_file else writer.folder, dest)
        shutil.rmtree(partial, ignore_errors=True)
    except (CheckpointError, TokenizerError, ValueRangeError):
        # Nothing that comes out of a damaged source, or in a dtype that doesn't fit, can be resumed.
        shutil.rmtree(partial, ignore_errors=True)
        raise
    except OSError as error:
        if is_full(error):
            raise writer.failure(error) from None
        raise
    finally:
        writer.close()
    size = total_bytes(target)
    return ConversionReport(
        path=dest,
        source=source.description,
        parameters=target.parameters,
        total_bytes=size,
        bits_per_weight=size * 8 / target.parameters,
        quantizer=target.quantizer,
        resumed_modules=resumed,
        notes=tuple(target.notes()),
        verification=verification,
        quality=quality,
    )


def _take_place(finished: Path, dest: Path) -> None:
    try:
        take_place(finished, dest)
    except OSError as error:
        raise ConversionError(
            f"{dest} can't be replaced: {error.strerror}; the finished result is in {finished}: move it, or give the "
            "same command again once it can"
        ) from None


class Writer(Protocol):
    """Takes rows of tensors; ShardWriter is the one that keeps them."""

    @property
    def done(self) -> Mapping[str, object]:
        """What needs no reading again."""

    def write_rows(self, name: str, start: int, rows: np.ndarray) -> None:
        """Take the rows of a tensor that begin at row `start`."""

    def finish_module(self, path: str) -> None:
        """Note that every tensor of a module has come."""


def convert_tensors(
    target: Target, refs: Sequence[TensorRef], writer: Writer, progress: Progress | None = None
) -> None:
    """Read, quantize and write in three threads: a block is read while the one before is quantized."""
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
            parts = target.convert(ref, start, as_mlx(raw, ref.dtype))
            # Freed blocks would pile up where MLX keeps them for later.
            mx.clear_cache()
            if written:
                written.result()
            written = writing.submit(_write, writer, ref, start, stop, parts)
            if progress:
                share = ref.nbytes * stop // ref.rows - ref.nbytes * start // ref.rows
                progress.advance(ref.name, share, finished=stop == ref.rows)
        if written:
            written.result()
    if damaged:
        raise damage(list(damaged))


def _write(writer: Writer, ref: TensorRef, start: int, stop: int, parts: Parts) -> None:
    for name, rows in parts:
        writer.write_rows(name, start, rows)
    if stop == ref.rows:
        writer.finish_module(ref.name)


def _blocks_ahead(refs: Iterable[TensorRef]) -> Iterator[tuple[TensorRef, int, np.ndarray, bool]]:
    """Yield blocks of rows and whether they are finite; the next is read in a thread while this one is quantized."""
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


def _announce(progress: Progress | None, stage: str) -> None:
    if progress:
        progress.stage(stage)


def report_values(report: ConversionReport) -> dict[str, object]:
    """Return the report as plain values, for --json."""
    return {**asdict(report), "path": str(report.path)}
