"""Many files scanned over all cores: bandit and the rules hold Python's lock, so it takes processes."""

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from ...errors import DataError
from .options import ShieldOptions
from .result import Scan
from .shield import Shield

# From here on, a second process is worth its start: it tries all rules first.
_WORTH_PROCESSES = 2_000_000
_shields: list[Shield] = []


def scan_files(
    paths: Sequence[Path], options: ShieldOptions, language: str | None = None
) -> Iterator[list[tuple[int, Scan]]]:
    """Yield what `Shield.scan_file` says of each file, in their order, over several processes where that is faster.

    Raises DataError where a file can't be read or a process ends in the middle.
    """
    count = min(os.cpu_count() or 1, len(paths))
    if count < 2 or sum(path.stat().st_size for path in paths if path.exists()) < _WORTH_PROCESSES:
        shield = Shield(options)
        yield from (shield.scan_file(path, language=language) for path in paths)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, context, initializer=_start, initargs=(options,)) as pool:
        try:
            yield from pool.map(_scan, paths, [language] * len(paths))
        except BrokenProcessPool:
            raise DataError("a process that scanned files has ended: not all of them were scanned") from None


def _start(options: ShieldOptions) -> None:
    _shields.append(Shield(options))


def _scan(path: Path, language: str | None) -> list[tuple[int, Scan]]:
    return _shields[-1].scan_file(path, language=language)
