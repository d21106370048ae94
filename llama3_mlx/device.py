"""What depends on the device that MLX runs on: compute dtype, memory limits. No other module asks for the device."""

import ctypes
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

import mlx.core as mx

from .dtypes import DTYPES, config_dtype, dtype_name
from .errors import RequestError

T = TypeVar("T")
# Levels of memory pressure, as macOS numbers them.
NORMAL, WARNING, CRITICAL = 1, 2, 4
_LARGEST_CACHE = 2 * 2**30
# More than the bandwidth of a desktop's memory feeds.
_MOST_STREAMS = 8


def on_gpu() -> bool:
    """Return whether MLX computes on a GPU (Metal or CUDA)."""
    return mx.default_device().type == mx.DeviceType.gpu


@dataclass(frozen=True)
class BackEnd:
    """What is done differently on MLX's GPU and CPU back ends: every such choice, in one place."""

    computes_stored_dtype: bool
    """Compute in the dtype of the weights; the CPU back end emulates both half formats."""
    compiles_steps: bool
    """Compile a training step for its shapes, which must then be few and not follow from values."""
    native_exponential: bool
    """Take MLX's exponential, one instruction on a GPU; on the CPU sums and products are a third of the time."""
    multiplies_packed: bool
    """Multiply by quantized matrices as they are; on the CPU training unpacks them first."""
    wants_columns: bool
    """Lay matrices in memory by columns: BLAS copies one before it multiplies few rows by it, and these faster."""
    fused_kernels: bool
    """MLX's mx.fast operations are one kernel each; the CPU back end builds them of many operations."""
    cheap_verification: bool
    """Verifying a draft token costs a small part of a decode step."""
    loss_chunk_bytes: int
    """Bytes of a chunk of logits in float32; a GPU wants more rows at once to be busy."""
    live_loss_chunks: int
    """Chunks of logits in memory at once: on the CPU a second one is begun before the first is let go."""
    attention_block: int
    """Queries of a block of attention: on the CPU what stays in its cache, on a GPU what keeps it busy."""
    scored_tokens: int
    """Tokens of a forward pass that scores texts: on the CPU more of them take memory and save no time."""


GPU = BackEnd(
    computes_stored_dtype=True,
    compiles_steps=True,
    native_exponential=True,
    multiplies_packed=True,
    wants_columns=False,
    fused_kernels=True,
    cheap_verification=True,
    loss_chunk_bytes=128 * 2**20,
    live_loss_chunks=5,
    attention_block=256,
    scored_tokens=2048,
)
CPU = BackEnd(
    computes_stored_dtype=False,
    compiles_steps=False,
    native_exponential=False,
    multiplies_packed=False,
    wants_columns=True,
    fused_kernels=False,
    cheap_verification=False,
    loss_chunk_bytes=32 * 2**20,
    live_loss_chunks=10,
    attention_block=64,
    scored_tokens=128,
)


def back_end() -> BackEnd:
    """Return the choices for the device in use."""
    return GPU if on_gpu() else CPU


def unpacks_products() -> bool:
    """Return whether quantized matrices are unpacked before they are multiplied: the CPU back end's are slow."""
    return not back_end().multiplies_packed


def unpacked_fits(n_bytes: int) -> bool:
    """Return whether so many bytes of unpacked matrices may be kept beside the packed ones: a sixteenth of memory."""
    return unpacks_products() and n_bytes <= working_memory_bytes() // 16


@cache
def product_streams() -> tuple[mx.ThreadLocalStream | None, ...]:
    """Return the streams over which the CPU back end's products of packed matrices are split, a core each.

    A stream's operations run one after another on one thread; the first, None, is that of all other operations.
    `$OPENBLAS_NUM_THREADS` bounds these as it does BLAS.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    bound = os.environ.get("OPENBLAS_NUM_THREADS", "")
    count = min(cores, _MOST_STREAMS, int(bound) if bound.isdigit() and int(bound) else cores)
    return (None, *(mx.new_thread_local_stream(mx.cpu) for _ in range(count - 1)))


def emulates_bfloat16() -> bool:
    """Return whether the chip has no bfloat16 arithmetic of its own: M1 and M2 (GPU families 13 and 14).

    Source: Metal feature set tables (bfloat from family Apple9); https://github.com/jundot/omlx/issues/604.
    """
    family = re.search(r"applegpu_g(\d+)", str(device_info().get("architecture", "")))
    return family is not None and int(family[1]) < 15


def device_info() -> dict[str, str | int]:
    """Return MLX's description of the default device."""
    return mx.device_info(mx.default_device())


def compute_dtype(asked: str | None, stored: mx.Dtype, fits_float16: bool) -> mx.Dtype:
    """Return the dtype to compute in: what was asked for, else what is fastest on this device.

    The CPU back end emulates both half formats: float32. M1 and M2 emulate bfloat16: float16 if the weights fit
    its range. Everywhere else the stored dtype.
    """
    if asked is not None:
        if asked not in DTYPES:
            raise RequestError(f"dtype must be one of {', '.join(DTYPES)}, not {asked!r}")
        return DTYPES[asked]
    if not back_end().computes_stored_dtype:
        return mx.float32
    if stored == mx.bfloat16 and fits_float16 and emulates_bfloat16():
        return mx.float16
    return stored


def compute_dtype_name(stored: str | None, asked: str | None = None) -> str:
    """Return the name of the dtype to compute in for weights that a config calls `stored`, taken to fit float16."""
    return dtype_name(compute_dtype(asked, DTYPES[config_dtype(stored) or "float16"], fits_float16=True))


def total_memory_bytes() -> int:
    """Return the memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def working_memory_bytes() -> int:
    """Return the memory that a model can use: Metal's recommended working set, else that of the machine."""
    return int(device_info().get("max_recommended_working_set_size", 0)) or total_memory_bytes()


def memory_pressure() -> int:
    """Return how short of memory the system is: NORMAL, WARNING or CRITICAL.

    macOS says it by `sysctl kern.memorystatus_vm_pressure_level`; on Linux less than 10% and 5% available count.
    """
    if sys.platform == "darwin":
        level, size = ctypes.c_uint32(NORMAL), ctypes.c_size_t(4)
        name = b"kern.memorystatus_vm_pressure_level"
        failed = ctypes.CDLL(None).sysctlbyname(name, ctypes.byref(level), ctypes.byref(size), None, 0)
        return NORMAL if failed else int(level.value)
    return linux_pressure(Path("/proc/meminfo"))


def linux_pressure(meminfo: Path) -> int:
    """Return the level that a file like /proc/meminfo shows; NORMAL where there is none."""
    if not meminfo.exists():
        return NORMAL
    values = dict(re.findall(r"^(\w+):\s+(\d+) kB$", meminfo.read_text(), re.MULTILINE))
    if "MemAvailable" not in values or "MemTotal" not in values:
        return NORMAL
    share = int(values["MemAvailable"]) / int(values["MemTotal"])
    return CRITICAL if share < 0.05 else WARNING if share < 0.1 else NORMAL


def allocator_cache_bytes() -> int:
    """Return how much freed memory may be kept for reuse: a sixteenth of the machine's, at most 2 GB."""
    return min(_LARGEST_CACHE, working_memory_bytes() // 16)


def give_back_free_memory() -> None:
    """Return the allocator's freed buffers to the system, and on Linux those that the C library holds back."""
    mx.clear_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


class _CacheBound:
    """The allocator's limit, which all threads of the process share, and how many hold it down."""

    def __init__(self) -> None:
        self.lock, self.holders, self.before = threading.Lock(), 0, 0


_BOUND = _CacheBound()


@contextmanager
def lowered_cache_limit() -> Iterator[None]:
    """Bound the allocator's cache of freed buffers while any such block runs.

    Without a bound, arrays of ever new sizes let the process grow until the machine swaps.
    """
    with _BOUND.lock:
        if not _BOUND.holders:
            _BOUND.before = mx.set_cache_limit(allocator_cache_bytes())
        _BOUND.holders += 1
    try:
        yield
    finally:
        with _BOUND.lock:
            _BOUND.holders -= 1
            if not _BOUND.holders:
                # MLX may raise here what a lost peer of its group has left; then the process is about to end.
                with suppress(RuntimeError):
                    mx.set_cache_limit(_BOUND.before)


@contextmanager
def bounded_cache() -> Iterator[None]:
    """Bound the allocator's cache while the block runs, and give it back to the system at the block's end."""
    with lowered_cache_limit():
        try:
            yield
        finally:
            give_back_free_memory()


@contextmanager
def wired_memory() -> Iterator[None]:
    """Keep the model's memory resident while the block runs (Metal, macOS 15 and newer); nothing elsewhere."""
    if not mx.metal.is_available():
        yield
        return
    before = mx.set_wired_limit(working_memory_bytes())
    try:
        yield
    finally:
        mx.synchronize()
        mx.set_wired_limit(before)


def in_own_thread(work: Callable[[], T]) -> T:
    """Run `work` in a thread of its own, which leaves nothing of MLX behind, and return or raise what comes of it.

    MLX keeps streams and a random key for each thread (making a layer draws from the key). If a thread that has such a
    key ends while the interpreter does, the process aborts (https://github.com/ml-explore/mlx/pull/4110): the threads
    of an executor do. What `work` returns has to be evaluated.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)
        finally:
            mx.synchronize()
            mx.clear_streams()

    thread = threading.Thread(target=run, name="llama3-mlx load")
    thread.start()
    thread.join()
    return future.result()
