"""Encoded examples on disk, so that checking, training and resuming encode a large set once.

A file holds one set under a hash of all that its ids depend on: the samples, tokenizer and template, and the settings.
"""

import hashlib
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from ...files import save_whole
from .samples import Sample

# A smaller set is encoded in about a second.
LEAST_SAMPLES = 1000
_KEPT_FILES = 8
# Changes with the layout of the files, and with what encoding makes of a sample.
_FORM = 1
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json")

# Ids, marks of targets, place and truncated tokens.
Fields = tuple[np.ndarray, np.ndarray, str, int]


class EncodedCache:
    """The sets that one encoder has made."""

    def __init__(self, folder: Path, model: Path, encoder: Sequence[object]) -> None:
        """`model` is the folder of the tokenizer, `encoder` what else the ids of a sample depend on."""
        files = [model / name for name in _TOKENIZER_FILES] if model.is_dir() else [model]
        facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.exists()]
        self._folder, self._key = folder, repr((_FORM, str(model.resolve()), facts, list(encoder)))

    def path(self, samples: Sequence[Sample], *, split_texts: bool) -> Path:
        """Return the file of this set."""
        digest = hashlib.sha256(f"{self._key}{split_texts}".encode())
        for sample in samples:
            digest.update(repr(sample).encode("utf-8", "surrogatepass"))
        return self._folder / f"{digest.hexdigest()[:40]}.npz"

    def load(self, path: Path) -> list[Fields] | None:
        """Return the fields of each example, None where the file isn't there or whole."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                ids, marks, ends, cut = (stored[name] for name in ("ids", "marks", "ends", "truncated"))
                places = bytes(stored["places"]).decode("utf-8", "surrogatepass").split("\n")
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        if len(ids) != len(marks) or not len(ends) == len(cut) == len(places) or (len(ends) and ends[-1] != len(ids)):
            return None
        path.touch()
        pieces = zip(np.split(ids, ends[:-1]), np.split(marks, ends[:-1]), places, cut.tolist(), strict=True)
        return list(pieces)

    def save(self, path: Path, examples: Sequence[Fields]) -> None:
        """Keep a set, and of all sets those that were used last; a full disk is no reason to fail."""
        ids, marks, places, cut = zip(*examples, strict=True)
        arrays = {
            "ids": np.concatenate(ids),
            "marks": np.concatenate(marks),
            "ends": np.cumsum([len(each) for each in ids]),
            "truncated": np.array(cut),
            "places": np.frombuffer("\n".join(places).encode("utf-8", "surrogatepass"), np.uint8),
        }
        with suppress(OSError):
            save_whole(path, lambda temporary: np.savez(temporary, allow_pickle=False, **arrays))
            kept = sorted(self._folder.glob("*.npz"), key=lambda file: file.stat().st_mtime, reverse=True)
            for old in kept[_KEPT_FILES:]:
                old.unlink(missing_ok=True)
