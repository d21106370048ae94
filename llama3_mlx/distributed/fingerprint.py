"""Tells whether two machines have the same model, without reading all of it."""

import hashlib

from ..checkpoint.folder import ModelFolder
from ..errors import PeerError
from ..json_types import JsonObject


def fingerprint(folder: ModelFolder) -> JsonObject:
    """Return checksums: of config.json, every tensor's name, dtype, shape, first and last row, vectors whole."""
    reader, digest = folder.reader(), hashlib.sha256()
    for name, tensor in sorted(folder.tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode())
        rows = tensor.shape[0] if tensor.shape else 1
        parts = [(0, rows)] if len(tensor.shape) < 2 else [(0, 1), (rows - 1, rows)]
        for start, stop in parts:
            digest.update(reader.raw(name, start, stop).tobytes())
    config = (folder.path / "config.json").read_bytes()
    return {"config.json": hashlib.sha256(config).hexdigest(), "weights": digest.hexdigest()}


def check_fingerprint(folder: ModelFolder, expected: JsonObject) -> None:
    """Raise PeerError, naming what differs, if the folder isn't the leader's model."""
    if not folder.path.is_dir():
        raise PeerError(f"{folder.path} isn't on this machine: the model must be in the same folder on all")
    ours = fingerprint(folder)
    differing = [name for name, value in expected.items() if ours.get(name) != value]
    if differing:
        raise PeerError(
            f"{folder.path} has other {' and '.join(differing)} than on rank 0: copy the same model to both"
        )
