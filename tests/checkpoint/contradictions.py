"""Checkpoints whose files contradict one another, made by changing a small whole one in one or two ways.

A change is either of the meaning (what transformers reads, from a clean folder, is what the model then is) or of the
form (other names, files, an index, packed weights: the meaning must stay). Each says what a refusal has to name.
"""

import json
import random
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from safetensors.numpy import save_file

V, D, F = 304, 64, 128
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": D,
    "intermediate_size": F,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": V,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "bos_token_id": 0,
    "eos_token_id": 1,
}


def random_tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """The tensors of the whole checkpoint, large enough that every part of them matters."""
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (V, D), "model.norm.weight": (D,)}
    for layer in range(2):
        at = f"model.layers.{layer}."
        shapes |= {f"{at}input_layernorm.weight": (D,), f"{at}post_attention_layernorm.weight": (D,)}
        shapes |= {f"{at}self_attn.{name}_proj.weight": (D, D) for name in "qo"}
        shapes |= {f"{at}self_attn.{name}_proj.weight": (D // 2, D) for name in "kv"}
        shapes |= {f"{at}mlp.{name}_proj.weight": (F, D) for name in ("gate", "up")}
        shapes[f"{at}mlp.down_proj.weight"] = (D, F)
    return {
        name: (rng.normal(0, shape[-1] ** -0.5, shape) + (len(shape) == 1)).astype(np.float32)
        for name, shape in shapes.items()
    }


@dataclass
class Checkpoint:
    """A checkpoint before it is written. `files` says which tensors go into which file."""

    config: dict[str, Any]
    tensors: dict[str, np.ndarray]
    packed: dict[str, mx.array] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    files: dict[str, list[str]] | None = None
    index: Any = None
    extra: dict[str, bytes] = field(default_factory=dict)
    halves: bool = False
    left_over: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """Write all of it."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, content in self.extra.items():
            (folder / name).write_bytes(content)
        (folder / "config.json").write_text(json.dumps({**self.config, **self.left_over}))
        files = self.files if self.files is not None else {"model.safetensors": list(self.stored())}
        for file, names in files.items():
            self._save(folder / file, {self.names.get(name, name): self.stored()[name] for name in names})
        if self.index is not None:
            text = self.index if isinstance(self.index, str) else json.dumps(self.index)
            (folder / "model.safetensors.index.json").write_text(text)
        return folder

    def stored(self) -> dict[str, Any]:
        """The tensors as they lie in the files: packed ones in place of their matrix."""
        gone = {name.rpartition(".")[0] + ".weight" for name in self.packed}
        return {**{name: array for name, array in self.tensors.items() if name not in gone}, **self.packed}

    def write_clean(self, folder: Path) -> Path:
        """Write what it means: whole tensors under their own names in one file."""
        return Checkpoint(self.config, self.tensors).write(folder)

    def _save(self, path: Path, tensors: dict[str, Any]) -> None:
        if self.halves or self.packed:
            arrays = {name: mx.array(array) for name, array in tensors.items()}
            if self.halves:
                arrays = {name: a.astype(mx.bfloat16) if a.dtype == mx.float32 else a for name, a in arrays.items()}
            mx.save_safetensors(str(path), arrays)
        else:
            save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, path)


@dataclass(frozen=True)
class Change:
    """One contradiction. `words` is what a refusal must name; `loads` says that alone it has to load."""

    name: str
    apply: Callable[[Checkpoint], None]
    words: str
    form: bool = False
    loads: bool = False


def field_change(words: str, loads: bool = False, /, **values: Any) -> Change:
    """A change of fields of config.json; None takes one out."""

    def apply(made: Checkpoint) -> None:
        for name, value in values.items():
            made.config.pop(name, None)
            if value is not None:
                made.config[name] = value

    return Change(f"config {json.dumps(values)}", apply, words, loads=loads)


def head(share: float) -> Callable[[Checkpoint], None]:
    """A head that is the embedding, or differs from it in a share of its rows."""

    def apply(made: Checkpoint) -> None:
        made.tensors[HEAD] = made.tensors[EMBEDDING].copy()
        rows = round(V * share)
        made.tensors[HEAD][V - rows :] = random_tensors(1)[EMBEDDING][V - rows :]

    return apply


def head_alone(made: Checkpoint) -> None:
    made.tensors = {HEAD if name == EMBEDDING else name: array for name, array in made.tensors.items()}


def without(name: str) -> Callable[[Checkpoint], None]:
    def apply(made: Checkpoint) -> None:
        made.tensors.pop(name, None)

    return apply


def added(name: str, *shape: int) -> Callable[[Checkpoint], None]:
    def apply(made: Checkpoint) -> None:
        made.tensors[name] = np.full(shape, 0.5, np.float32)

    return apply


def rows_of_embedding(rows: int) -> Callable[[Checkpoint], None]:
    def apply(made: Checkpoint) -> None:
        made.tensors[EMBEDDING] = np.resize(made.tensors[EMBEDDING], (rows, D))

    return apply


def renamed(change: Callable[[str], str]) -> Callable[[Checkpoint], None]:
    def apply(made: Checkpoint) -> None:
        made.names = {name: change(made.names.get(name, name)) for name in (*made.tensors, *made.packed)}

    return apply


def sharded(
    style: str = "model-{:05d}-of-00002.safetensors", lost: int | None = None, index: str = "right"
) -> Callable[[Checkpoint], None]:
    """Two files with half of the tensors each, and an index that is right, absent, or wrong in one way."""

    def apply(made: Checkpoint) -> None:
        names = sorted(made.stored())
        halves = {style.format(1): names[: len(names) // 2], style.format(2): names[len(names) // 2 :]}
        weight_map = {made.names.get(name, name): file for file, part in halves.items() for name in part}
        if index == "swapped":
            first, second = halves
            weight_map = {name: second if file == first else first for name, file in weight_map.items()}
        elif index == "of other files":
            weight_map = {name: file.replace("model", "old") for name, file in weight_map.items()}
        elif index == "of few tensors":
            weight_map = dict(list(weight_map.items())[::3])
        elif index == "of a tensor that isn't there":
            weight_map["model.rotary.table"] = style.format(1)
        made.files = halves if lost is None else {style.format(3 - lost): halves[style.format(3 - lost)]}
        made.index = None if index == "absent" else {"metadata": {}, "weight_map": weight_map}

    return apply


def single_beside(old: bool, damaged: bool = False) -> Callable[[Checkpoint], None]:
    """A whole model.safetensors with left-overs beside it: shards of another model, or an index alone."""

    def apply(made: Checkpoint) -> None:
        made.files = {"model.safetensors": list(made.stored())}
        name = "model-00001-of-00001.safetensors"
        made.index = "{" if damaged else {"metadata": {}, "weight_map": dict.fromkeys(made.stored(), name)}
        if old:
            other = random_tensors(2)
            made.extra[name] = _bytes_of(other)

    return apply


def _bytes_of(tensors: dict[str, np.ndarray]) -> bytes:
    from safetensors.numpy import save

    return save(tensors)


def packed(bits: int, group_size: int, /, **entry: Any) -> Callable[[Checkpoint], None]:
    """Every matrix in MLX's affine form; `entry` is what config.json says of it, nothing if it is empty."""

    def apply(made: Checkpoint) -> None:
        for name, array in list(made.tensors.items()):
            if array.ndim != 2:
                continue
            parts = mx.quantize(mx.array(array), group_size=group_size, bits=bits)
            path = name.removesuffix(".weight")
            made.packed |= dict(zip((f"{path}.{part}" for part in ("weight", "scales", "biases")), parts, strict=True))
            made.tensors[name] = np.array(mx.dequantize(*parts, group_size=group_size, bits=bits))
        if entry:
            made.config["quantization"] = entry

    return apply


def left_over(**entry: Any) -> Callable[[Checkpoint], None]:
    return lambda made: made.left_over.update(quantization_config=entry)


def set_halves(made: Checkpoint) -> None:
    made.halves = True
    made.tensors = {
        name: np.array(mx.array(array).astype(mx.bfloat16).astype(mx.float32)) for name, array in made.tensors.items()
    }


ROPE_LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
MEANING = [
    Change("head equals the embedding", head(0), "lm_head", loads=True),
    Change("head differs in all rows", head(1), "lm_head", loads=True),
    Change("head differs in its last row", head(1 / V), "lm_head", loads=True),
    Change("head without an embedding", head_alone, "lm_head|embed_tokens", loads=True),
    Change("no embedding", without(EMBEDDING), "embed_tokens"),
    Change("no norm", without("model.norm.weight"), "model.norm.weight"),
    Change("no up_proj", without("model.layers.1.mlp.up_proj.weight"), "up_proj"),
    Change("a bias", added("model.layers.0.self_attn.q_proj.bias", D), "q_proj.bias"),
    Change("a tensor more", added("model.layers.0.self_attn.q_norm.weight", 16), "q_norm"),
    Change("a layer more", added("model.layers.2.input_layernorm.weight", D), "layers"),
    Change("rotary frequencies", added("model.layers.0.self_attn.rotary_emb.inv_freq", 8), "inv_freq", loads=True),
    Change("embedding too long", rows_of_embedding(V + 8), "vocab_size|embed_tokens"),
    Change("embedding too short", rows_of_embedding(V - 8), "vocab_size|embed_tokens"),
    field_change("tie_word_embeddings|lm_head", tie_word_embeddings=False),
    field_change("tie_word_embeddings|lm_head", tie_word_embeddings=None),
    field_change("vocab_size", vocab_size=V + 3),
    field_change("vocab_size", vocab_size=V - 3),
    field_change("num_hidden_layers", num_hidden_layers=1),
    field_change("num_hidden_layers", num_hidden_layers=3),
    field_change("intermediate_size|mlp", intermediate_size=F * 2),
    field_change("hidden_size|embed_tokens", hidden_size=D * 2),
    field_change("k_proj|num_", num_key_value_heads=1),
    field_change("k_proj|num_", num_key_value_heads=4),
    field_change("num_key_value_heads", num_key_value_heads=3),
    field_change("k_proj", True, num_attention_heads=8, num_key_value_heads=4, head_dim=8),
    field_change("head_dim|q_proj", head_dim=32),
    field_change("head_dim", True, head_dim=None),
    field_change("attention_bias|bias", attention_bias=True),
    field_change("mlp_bias|bias", mlp_bias=True),
    field_change("dtype", True, torch_dtype="bf16"),
    field_change("dtype", True, torch_dtype="auto"),
    field_change("dtype", True, torch_dtype=None),
    field_change("dtype", True, torch_dtype="float16", dtype="bfloat16"),
    field_change("rope", True, rope_theta=500000.0),
    field_change("rope", True, rope_theta=None),
    field_change("rope", True, rope_scaling={"type": "linear", "factor": 4.0}),
    field_change("rope", True, rope_scaling={"type": "linear", "rope_type": "default", "factor": 4.0}),
    field_change("rope", True, rope_scaling=ROPE_LLAMA3),
    field_change("rope", True, rope_scaling={**ROPE_LLAMA3, "original_max_position_embeddings": 64}),
    field_change("rope", True, rope_scaling=ROPE_LLAMA3, original_max_position_embeddings=32),
    field_change("rope", True, rope_parameters={"rope_theta": 5e5, "rope_type": "default"}, rope_theta=None),
    field_change("rope", True, rope_parameters={"rope_theta": 5e5, "rope_type": "default"}),
    field_change("rope", rope_parameters={"rope_theta": 5e5}, rope_scaling={"type": "linear", "factor": 2.0}),
    field_change("rope", rope_scaling={"rope_type": "llama3", "factor": 8.0}),
    field_change("rope", rope_scaling={"rope_type": "yarn", "factor": 8.0}),
    field_change("rope", rope_scaling={"rope_type": "linear"}),
    field_change("partial_rotary_factor", partial_rotary_factor=0.5),
    field_change("layer_types", layer_types=["sliding_attention"] * 2, sliding_window=4),
    field_change("layer_types", True, layer_types=["full_attention"] * 2, sliding_window=4),
    field_change("sliding_window", True, sliding_window=4),
    field_change("final_logit_softcapping", final_logit_softcapping=30.0),
    field_change("embedding_multiplier", embedding_multiplier=12.0),
    field_change("is_causal", is_causal=False),
    field_change("qk_norm", use_qk_norm=True),
    field_change("num_experts|num_local_experts", num_local_experts=8),
    field_change("anything", True, some_field_of_another_program={"a": 1}, pretraining_tp=2),
    field_change("hidden_act", hidden_act="gelu"),
    field_change("model_type", model_type="mistral"),
    field_change("quantization", True, quantization={"bits": 4, "group_size": 64}),
    field_change("rms_norm_eps", True, rms_norm_eps=1e-3),
]
FORM = [
    Change("bitsandbytes left over", left_over(quant_method="bitsandbytes", load_in_4bit=True), "quant", True, True),
    Change("GPTQ left over", left_over(quant_method="gptq", bits=4, group_size=128), "quant", True, True),
    Change("names of torch.compile", renamed(lambda name: f"_orig_mod.{name}"), "_orig_mod", form=True, loads=True),
    Change("names of DataParallel", renamed(lambda name: f"module.{name}"), "module", form=True, loads=True),
    Change("names of PEFT", renamed(lambda name: f"base_model.model.{name}"), "base_model", form=True, loads=True),
    Change(
        "names without model.", renamed(lambda name: name.removeprefix("model.")), "layers|embed", form=True, loads=True
    ),
    Change("names of nothing", renamed(lambda name: f"gpt.{name}"), "gpt|missing", form=True),
    Change("two shards", sharded(), "index", form=True, loads=True),
    Change("shards swapped in the index", sharded(index="swapped"), "index", form=True, loads=True),
    Change("an index of other files", sharded(index="of other files"), "index|old", form=True, loads=True),
    Change("an index of few tensors", sharded(index="of few tensors"), "index", form=True, loads=True),
    Change("an index of more", sharded(index="of a tensor that isn't there"), "index", form=True, loads=True),
    Change("shards without an index", sharded(index="absent"), "index", form=True, loads=True),
    Change(
        "shards of another naming",
        sharded("weights.{:02d}.safetensors", index="absent"),
        "index",
        form=True,
        loads=True,
    ),
    Change("the first shard lost", sharded(lost=1), "00001-of-00002", form=True),
    Change("the second shard lost", sharded(lost=2), "00002-of-00002", form=True),
    Change("a shard lost, no index", sharded(lost=1, index="absent"), "00001-of-00002", form=True),
    Change("an index left over", single_beside(old=False), "index", form=True, loads=True),
    Change("a damaged index left over", single_beside(old=False, damaged=True), "index", form=True, loads=True),
    Change("older shards beside", single_beside(old=True), "index", form=True, loads=True),
    Change("bfloat16 tensors", set_halves, "dtype", form=True, loads=True),
    Change("packed, config right", packed(4, 64, bits=4, group_size=64), "quantiz", form=True, loads=True),
    Change("packed, config silent", packed(4, 64), "quantiz", form=True, loads=True),
    Change("packed, other bits", packed(8, 64, bits=4, group_size=64), "quantiz", form=True, loads=True),
    Change("packed, other group", packed(4, 32, bits=4, group_size=64), "quantiz", form=True, loads=True),
    Change(
        "packed, said of one",
        packed(4, 64, bits=4, group_size=64, **{"lm_head": False}),
        "quantiz",
        form=True,
        loads=True,
    ),
]


def variants(count: int, seed: int = 0) -> list[tuple[Change, ...]]:
    """Every change alone, then pairs of them up to `count`: first what it means, then its form."""
    chance = random.Random(seed)
    found: list[tuple[Change, ...]] = [(change,) for change in (*MEANING, *FORM)]
    pairs = [(one, two) for one in MEANING for two in (*MEANING, *FORM) if one is not two]
    # Mostly of those that load alone: two that are refused say little.
    loading = [pair for pair in pairs if all(change.loads for change in pair)]
    some = (count - len(found)) * 2 // 3
    return found + chance.sample(loading, some) + chance.sample(pairs, count - len(found) - some)


def make(changes: tuple[Change, ...]) -> Checkpoint:
    """The checkpoint with these changes."""
    made = Checkpoint(deepcopy(CONFIG), random_tensors())
    for change in changes:
        change.apply(made)
    return made
