"""conversion.json: how a folder was made, and the checksum of each of its tensors."""

from collections.abc import Mapping
from pathlib import Path

from ...errors import CheckpointError
from ...json_types import JsonMapping, JsonObject
from ...model.config import load_json_object
from ...version import __version__
from ..sources.source import Source
from .journal import Checksums

RECORD_NAME = "conversion.json"


def make_record(
    source: Source, quantizer: str | None, settings: JsonMapping, modules: Mapping[str, Checksums]
) -> JsonObject:
    """Return the record's content. A conversion that measures adds `quality` to it, such as `{"kl": 0.021}`.

    It has no times and no paths in it: equal conversions give equal files.
    """
    crc = {tensor: f"{value:08x}" for checksums in modules.values() for tensor, value in checksums.items()}
    return {
        "llama3_mlx": __version__,
        "source": source.description,
        "base_model": source.base_model,
        "quantizer": quantizer,
        "settings": dict(settings),
        "crc32": dict(sorted(crc.items())),
    }


def load_record(folder: Path) -> JsonObject:
    """Read the record of a folder; raises CheckpointError if it was not made by this package."""
    path = folder / RECORD_NAME
    if not path.exists():
        raise CheckpointError(f"{folder} has no {RECORD_NAME}: only what this package converted can be verified")
    record = load_json_object(path)
    if not isinstance(record.get("crc32"), dict):
        raise CheckpointError(f"{path} has no crc32 of the tensors")
    return record
