"""Functions out of the user's own files, which make data or reward answers."""

import importlib.util
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import DataError, Llama3MLXError


def load_function(path: Path, name: str) -> Callable[..., Any]:
    """Return the function of that name; raises DataError where the file or the function isn't there or fails."""
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    with own_code(path):
        spec.loader.exec_module(module)
    found = getattr(module, name, None)
    if not callable(found):
        raise DataError(f"{path} has no function {name!r}")
    return found


@contextmanager
def own_code(file: str | Path) -> Iterator[None]:
    """Turn what the user's code in `file` raises into a DataError that names its line."""
    try:
        yield
    except Llama3MLXError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == Path(file).resolve()]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        where = f"{file}, line {line}" if line else str(file)
        raise DataError(f"{where}: {type(error).__name__}: {error}") from error
