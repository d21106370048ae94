"""Files that are there whole or not at all."""

import json
import os
import tempfile
from pathlib import Path
from typing import cast


def write_whole(path: Path, text: str) -> None:
    """Write a text file: under a temporary name first, so that a crash leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, encoding="utf-8", delete=False) as file:
        file.write(text)
    os.replace(file.name, path)  # noqa: PTH105


def read_object(path: Path) -> dict[str, object]:
    """Return the JSON object of a file; raises OSError or ValueError."""
    values: object = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError(f"{path.name} holds no object")
    return cast(dict[str, object], values)
