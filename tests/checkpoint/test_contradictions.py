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


NOTES = {
    "head differs in its last row": r"lm_head\.weight differs from it: the head is read as it is",
    "names of PEFT": r"read without 'base_model\.model\.'",
    "names without model.": r"read with 'model\.' before them",
    "an index left over": r"model\.safetensors is read; model\.safetensors\.index\.json beside it, .* is left out",
    "older shards beside": r"names model-00001-of-00001\.safetensors, is left out",
    "a damaged index left over": "is damaged and left out",
    "an index of other files": r"names old-00001-of-00002\.safetensors, .* the files that are there are read",
    "shards without an index": r"there is no model\.safetensors\.index\.json: the tensors of all 2 safetensors files",
    "shards swapped in the index": r"index\.json is wrong about .* the files' own headers are taken",
    "bfloat16 tensors": "config.json says float32, the weights are bfloat16",
    "GPTQ left over": "a quantization_config of 'gptq', but the tensors aren't packed",
    "packed, config silent": "no quantization of 15 modules .* the tensors' shapes say affine 4 bits, group size 64",
    "packed, other bits": "another quantization of 15 modules .* the tensors' shapes say affine 8 bits, group size 64",
}


@pytest.mark.parametrize("name", NOTES)
def test_a_decision_is_noted(name: str, tmp_path: Path) -> None:
    change = next(change for change in (*MEANING, *FORM) if change.name == name)
    opened = ModelFolder(make((change,)).write(tmp_path / "model"))
    load_model(opened)
    assert len(opened.notes) == 1
    assert re.search(NOTES[name], opened.notes[0]), opened.notes


def test_a_checkpoint_without_contradictions_has_no_notes(tmp_path: Path) -> None:
    opened = ModelFolder(make(()).write(tmp_path / "model"))
    load_model(opened)
    assert opened.notes == ()
