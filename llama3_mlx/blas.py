"""Puts a fast BLAS in place of the one that MLX's Linux wheel links, before MLX is loaded.

The wheel's CPU back end calls the CBLAS interface of a reference BLAS; a library whose symbols are global when MLX is
loaded takes those calls, as LD_PRELOAD would make it. On a Mac MLX computes on Accelerate and Metal: nothing is done.
"""

import ctypes
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

VARIABLE = "LLAMA3_MLX_BLAS"
OFF = ("off", "0", "none", "")
# Debian's and Fedora's builds with threads, then those that a conda or other environment brings.
_SYSTEM = (
    "/usr/lib/*/openblas-pthread/libopenblas.so.0",
    "/usr/lib/*/openblas-openmp/libopenblas.so.0",
    "/usr/lib64/libopenblasp.so.0",
    "/usr/lib64/libopenblaso.so.0",
    "/usr/lib/libopenblas.so.0",
)
_ENVIRONMENT = "lib/libopenblas.so.0"


class _Loaded:
    """The library that was loaded, kept for as long as the process runs."""

    library: ctypes.CDLL | None = None
    path: Path | None = None


def load_blas() -> None:
    """Load the first OpenBLAS that is found with global symbols; only warns where MLX is loaded already.

    `$LLAMA3_MLX_BLAS` names another library, or turns this off; a warning says that it can't be loaded.
    """
    if not sys.platform.startswith("linux") or _Loaded.path is not None:
        return
    given = os.environ.get(VARIABLE)
    if "mlx.core" in sys.modules:
        if given is None and not _preloaded() and next(_candidates(), None):
            warnings.warn(
                f"mlx was imported before llama3_mlx, so its slow BLAS computes: import llama3_mlx first "
                f"({VARIABLE}=off silences this)",
                RuntimeWarning,
                stacklevel=3,
            )
        return
    if given is not None:
        if given.lower() not in OFF:
            try:
                _load(Path(given).expanduser())
            except OSError as error:
                warnings.warn(f"{VARIABLE}={given}: {error}; unset it, or set it to off", RuntimeWarning, stacklevel=3)
        return
    for path in _candidates():
        try:
            _load(path)
        except OSError:
            continue
        return


def blas_description() -> str:
    """Return which BLAS computes, as far as this process has chosen it."""
    if not sys.platform.startswith("linux"):
        return "Accelerate"
    if _Loaded.path is None:
        preloaded = _preloaded()
        return f"preloaded ({preloaded})" if preloaded else "MLX's own (slow; install libopenblas0-pthread)"
    config = getattr(_Loaded.library, "openblas_get_config", None)
    if config is None:
        return str(_Loaded.path)
    config.restype = ctypes.c_char_p
    return f"{' '.join(config().decode().split()[:2])} ({_Loaded.path})"


def _preloaded() -> str | None:
    return next((part for part in os.environ.get("LD_PRELOAD", "").split(":") if "blas" in Path(part).name), None)


def _load(path: Path) -> None:
    _Loaded.library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    _Loaded.path = path


def _candidates() -> Iterator[Path]:
    for prefix in dict.fromkeys((os.environ.get("CONDA_PREFIX"), sys.prefix)):
        if prefix and (path := Path(prefix, _ENVIRONMENT)).exists():
            yield path
    for pattern in _SYSTEM:
        yield from sorted(Path("/").glob(pattern.lstrip("/")))
