"""Finds the safetensors files that hold a checkpoint's weights: what lies there counts, not what an index says.

Source of the order: transformers `modeling_utils.py` (`_get_resolved_checkpoint_files`): a whole model.safetensors goes
before an index and its shards.
"""

import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from pathlib import Path

from ..errors import CheckpointError
from .recognition import weightless_folder
from .safetensors_files import TensorInfo, read_header

INDEX_NAME, SINGLE_NAME = "model.safetensors.index.json", "model.safetensors"
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors\Z")
# Lie beside a model's weights in some folders and are no part of them: adapters, Meta's or Mistral's own layout.
_OTHERS = ("*adapter*.safetensors", "consolidated*.safetensors")
_SHOWN = 5

Note = Callable[[str], None]


def find_headers(folder: Path, weight_map: Mapping[str, str] | None, note: Note) -> dict[Path, dict[str, TensorInfo]]:
    """Return the header of each file that holds weights; `weight_map` is the index's, None where there is no index.

    Raises CheckpointError where the folder has no weights, files are missing or hold the same tensor twice.
    """
    files = _find_files(folder, weight_map, note)
    headers = {path: read_header(path) for path in files}
    _check_unique(folder, headers)
    if weight_map is not None and {path.name for path in files} == set(weight_map.values()):
        moved = [tensor for tensor, name in weight_map.items() if tensor not in headers[folder / name]]
        if moved:
            note(f"{INDEX_NAME} is wrong about {_listed(moved)}: the files' own headers are taken")
    return headers


def checked_weight_map(index: Path, content: Mapping[str, object]) -> dict[str, str]:
    """Return an index's file name for each tensor; raises CheckpointError unless each is a plain name."""
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map")
    for tensor, name in weight_map.items():
        # A plain name can't lead out of the folder. Links may: a Hub cache keeps its files as links to blobs.
        if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
            raise CheckpointError(f"{index}: the file of {tensor} must be a plain name in the folder, not {name!r}")
    return weight_map


def safetensors_names(folder: Path) -> list[str]:
    """Return the names of the folder's safetensors files that may hold weights of a model."""
    names = sorted(path.name for path in folder.glob("*.safetensors") if path.is_file())
    # macOS puts a hidden ._NAME beside each file on a disk that isn't its own format.
    return [name for name in names if not any(fnmatch(name, pattern) for pattern in (*_OTHERS, ".*"))]


def _find_files(folder: Path, weight_map: Mapping[str, str] | None, note: Note) -> list[Path]:
    held = safetensors_names(folder)
    named = sorted(set((weight_map or {}).values()))
    if SINGLE_NAME in held and (SINGLE_NAME not in named or len(named) == 1):
        shards = [name for name in held if _SHARD.match(name)]
        if named not in ([], [SINGLE_NAME]):
            note(f"{SINGLE_NAME} is read; {INDEX_NAME} beside it, which names {_listed(named)}, is left out")
        elif shards:
            note(f"{SINGLE_NAME} is read; beside it are left out {_listed(shards)}")
        return [folder / SINGLE_NAME]
    if weight_map is not None:
        return [folder / name for name in _indexed(folder, named, held, note)]
    if not held:
        raise CheckpointError(weightless_folder(folder))
    _check_numbers(folder, held)
    if len(held) > 1:
        note(f"there is no {INDEX_NAME}: the tensors of all {len(held)} safetensors files are read")
    return [folder / name for name in held]


def _indexed(folder: Path, named: list[str], held: list[str], note: Note) -> list[str]:
    missing = [name for name in named if not (folder / name).is_file()]
    if not missing:
        return named
    others = [name for name in held if name not in named]
    if not others:
        raise CheckpointError(
            f"{folder} lacks {_listed(missing)}, named in {INDEX_NAME}: download or copy the missing files again"
        )
    note(f"{INDEX_NAME} names {_listed(missing)}, which isn't there: the files that are there are read")
    return [*(name for name in named if name not in missing), *others]


def _check_numbers(folder: Path, names: list[str]) -> None:
    """Raise CheckpointError where files are numbered as parts and some are missing."""
    parts = [match for match in map(_SHARD.match, names) if match]
    if not parts or len({(match["stem"], match["count"]) for match in parts}) > 1:
        return
    count = int(parts[0]["count"])
    absent = sorted(set(range(1, count + 1)) - {int(match["number"]) for match in parts})
    if absent:
        lacking = [f"{parts[0]['stem']}-{number:05d}-of-{count:05d}.safetensors" for number in absent]
        raise CheckpointError(f"{folder} lacks {_listed(lacking)}: download or copy the missing files again")


def _check_unique(folder: Path, headers: Mapping[Path, Mapping[str, TensorInfo]]) -> None:
    first: dict[str, str] = {}
    for path, tensors in headers.items():
        for tensor in tensors:
            if first.setdefault(tensor, path.name) != path.name:
                raise CheckpointError(f"{folder}: {tensor} is in {first[tensor]} and again in {path.name}")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
