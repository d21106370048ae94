"""Contradictory checkpoints are read as transformers reads them, or refused by the name of the contradiction."""

import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from llama3_mlx.checkpoint.folder import ModelFolder
from llama3_mlx.checkpoint.loading import load_model
from llama3_mlx.errors import Llama3MLXError

from .contradictions import FORM, MEANING, Change, Checkpoint, make, variants

TOKENS = [3, 5, 250, 7, 7, 90, 299, 12, 40, 8, 31, 2, 77]
N_VARIANTS = 320
SHARDS = 8


def in_transformers(folder: Path) -> np.ndarray | None:
    """Logits in transformers, None where it refuses or makes a part of the model up."""
    try:
        model, facts = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    except Exception:
        return None
    if facts["missing_keys"] or facts["mismatched_keys"] or type(model).__name__ != "LlamaForCausalLM":
        return None
    with torch.no_grad():
        logits: np.ndarray = model.eval()(torch.tensor([TOKENS])).logits[0].numpy()
    return logits


def reference(made: Checkpoint, folder: Path) -> np.ndarray | None:
    """What transformers reads in the folder, else what it reads where the meaning alone was changed."""
    if made.packed:
        return in_transformers(made.write_clean(folder.with_name("clean")))
    found = in_transformers(folder)
    return found if found is not None else in_transformers(made.write_clean(folder.with_name("clean")))


def outcome(changes: tuple[Change, ...], folder: Path) -> tuple[str, str]:
    """Return equal, refused, or what went wrong, with the notes or the error."""
    made = make(changes)
    made.write(folder)
    opened = ModelFolder(folder)
    try:
        logits = np.array(load_model(opened, dtype="float32", join=False)(mx.array([TOKENS])))[0]
    except Llama3MLXError as error:
        named = any(re.search(change.words, str(error)) for change in changes)
        return ("refused" if named and "\n" not in str(error) else "refused without a name"), str(error)
    expected = reference(made, folder)
    if expected is None:
        return "loaded what transformers doesn't", "; ".join(opened.notes)
    off = float(np.abs(logits - expected).max() / np.abs(expected).max())
    return ("equal" if off < 1e-4 else f"off by {off:.3g}"), "; ".join(opened.notes)


@pytest.mark.parametrize("part", range(SHARDS))
def test_each_is_read_as_transformers_does_or_refused_by_name(part: int, tmp_path: Path) -> None:
    wrong: list[Any] = []
    for changes in variants(N_VARIANTS)[part::SHARDS]:
        result, words = outcome(changes, tmp_path / "model")
        if result not in ("equal", "refused"):
            wrong.append((result, [change.name for change in changes], words[:300]))
    assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.parametrize("change", [change for change in (*MEANING, *FORM) if change.loads], ids=lambda c: c.name)
def test_what_can_be_decided_loads(change: Change, tmp_path: Path) -> None:
    result, words = outcome((change,), tmp_path / "model")
    assert result == "equal", words
