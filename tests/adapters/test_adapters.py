"""Adapters in and out: mlx-lm, PEFT, joined projections, several at once, and what is refused."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from mlx.utils import tree_unflatten
from safetensors.numpy import load_file, save_file

from llama3_mlx import CheckpointError, ConfigError, RequestError
from llama3_mlx.adapters.adapter import Adapter, LowRank, from_model
from llama3_mlx.adapters.adapter_set import AdapterSet, load_adapter
from llama3_mlx.adapters.mlx_lm_format import read_adapter, save_adapter
from llama3_mlx.adapters.peft_format import save_peft
from llama3_mlx.adapters.rescaling import adapter_base
from llama3_mlx.checkpoint.loading import load_model
from llama3_mlx.convert import convert
from llama3_mlx.finetune.layers.attach import adapted_layers, attach, make_dense
from llama3_mlx.finetune.layers.lora import base_layer
from llama3_mlx.finetune.layers.targets import BLOCK_LINEARS, choose_paths, make_targets, read_ranks
from llama3_mlx.model.fused_projections import join_projections
from llama3_mlx.model.transformer import LlamaForCausalLM

from ..support.finetune_fixtures import adapted_model, furthest, small_model
from ..support.tiny_model import save_tiny
from ..support.transformers_reference import our_model, reference_logits, reference_model, small_config

SMALL: dict[str, Any] = {"vocab_size": 512, "eos_token_id": [1], "bos_token_id": 0}
TOKENS = mx.array([[3, 5, 300, 7]])
peft_warnings = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


def saved(folder: Path, *, rank: int = 4, n_in: int = 64, n_out: int = 128, **config: Any) -> Path:
    """An adapter folder as mlx-lm writes it, on the queries of both layers of the tiny model."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    weights = {}
    for layer in range(2):
        path = f"model.layers.{layer}.self_attn.q_proj"
        weights[f"{path}.lora_a"] = rng.normal(0, 0.3, (n_in, rank)).astype(np.float32)
        weights[f"{path}.lora_b"] = rng.normal(0, 0.3, (rank, n_out)).astype(np.float32)
    save_file(weights, folder / "adapters.safetensors")
    parameters = {"rank": rank, "scale": 3.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]}
    values = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": parameters, **config}
    (folder / "adapter_config.json").write_text(json.dumps(values))
    return folder


def random_adapter(model: LlamaForCausalLM, seed: int, names: tuple[str, ...] = BLOCK_LINEARS) -> Adapter:
    """An adapter of random values on all layers called so."""
    rng = np.random.default_rng(seed)
    parts = {}
    # The config's own layers: those of the model may be joined, or wrapped by an adapter.
    modules = dict(LlamaForCausalLM(model.config).named_modules())
    for path in choose_paths(model.config, names, None):
        weight = modules[path].weight
        shape = weight.shape if path.endswith("embed_tokens") else weight.shape[::-1]
        a, b = (rng.normal(0, 0.1, size).astype(np.float32) for size in ((shape[0], 3), (3, shape[1])))
        parts[path] = LowRank(mx.array(a), mx.array(b), 2.0)
    return Adapter(parts)


@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("join", [False, True])
def test_an_adapter_gives_the_logits_of_mlx_lm(tmp_path: Path, bits: int | None, join: bool) -> None:
    import mlx_lm.utils
    from mlx_lm.tuner.utils import load_adapters

    from llama3_mlx.convert import convert

    source = save_tiny(tmp_path / "source", **SMALL)
    convert(source, tmp_path / "model", bits=bits, quality="rtn" if bits else None)
    adapter = saved(tmp_path / "adapter")
    theirs, _ = mlx_lm.utils.load_model(tmp_path / "model")
    theirs.set_dtype(mx.float32)
    load_adapters(theirs, str(adapter))
    theirs.eval()
    model = load_model(tmp_path / "model", join=join)
    base = model(TOKENS)
    load_adapter(model, adapter)
    expected, ours = theirs(TOKENS), model(TOKENS)
    assert (mx.abs(ours - base).max() > 0.01).item()
    assert (mx.abs(expected - ours).max() < 1e-4 * mx.abs(expected).max()).item()


@pytest.mark.parametrize("options", [{}, {"dora": True}, {"names": (*BLOCK_LINEARS, "lm_head", "embed_tokens")}])
def test_what_is_trained_here_gives_the_same_logits_in_mlx_lm(tmp_path: Path, options: dict[str, Any]) -> None:
    import mlx_lm.utils
    from mlx_lm.tuner.utils import load_adapters

    source = save_tiny(tmp_path / "model", **SMALL, tie_word_embeddings=False)
    model = load_model(source, join=False)
    adapted_model(model, **options)
    model.eval()
    expected = model(TOKENS)
    save_adapter(tmp_path / "adapter", from_model(model), model.config)
    theirs, _ = mlx_lm.utils.load_model(source)
    theirs.set_dtype(mx.float32)
    load_adapters(theirs, str(tmp_path / "adapter"))
    theirs.eval()
    assert furthest(theirs(TOKENS), expected) < 1e-4
    again = load_model(source)
    load_adapter(again, tmp_path / "adapter")
    assert furthest(again(TOKENS), expected) < 1e-4


def test_ranks_and_scales_of_their_own_survive_the_layout_of_mlx_lm(tmp_path: Path) -> None:
    model = small_model()
    targets = make_targets(
        choose_paths(model.config, BLOCK_LINEARS, None),
        4,
        8.0,
        read_ranks(["down_proj=6", "layers.0.self_attn.q_proj=2"]),
        rslora=True,
    )
    assert {target.path: target.rank for target in targets}["model.layers.1.mlp.down_proj"] == 6
    attach(model, targets)
    for layer in model.model.layers:
        layer.mlp.down_proj.lora_b = mx.random.normal((6, 64))
        layer.self_attn.q_proj.lora_b = mx.random.normal(layer.self_attn.q_proj.lora_b.shape)
    expected = model(TOKENS % 320)
    save_adapter(tmp_path / "adapter", from_model(model), model.config)
    values = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert isinstance(values["lora_alpha"], int)
    assert values["lora_alpha"] == pytest.approx(values["lora_parameters"]["scale"] * values["r"])
    model.update_modules(tree_unflatten([(path, base_layer(layer)) for path, layer in adapted_layers(model)]))
    load_adapter(model, tmp_path / "adapter")
    assert furthest(model(TOKENS % 320), expected) < 1e-4


def peft_model(reference: Any, **options: Any) -> Any:
    """The reference with a PEFT adapter of random values."""
    from peft import LoraConfig, get_peft_model

    made = get_peft_model(reference, LoraConfig(**{"r": 4, "lora_alpha": 12, "task_type": "CAUSAL_LM", **options}))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
            elif "magnitude" in name:
                parameter.mul_(1 + 0.3 * torch.rand(parameter.shape, generator=generator))
    return made.eval()


@peft_warnings
@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": "all-linear"},
        {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1]},
        {"target_modules": ["q_proj", "down_proj"], "use_rslora": True, "rank_pattern": {"down_proj": 6}},
        {"target_modules": ["k_proj", "up_proj"], "alpha_pattern": {"layers.0.self_attn.k_proj": 3}},
        {"target_modules": ["o_proj", "gate_proj"], "use_dora": True},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    ],
)
@pytest.mark.parametrize("join", [False, True])
def test_an_adapter_made_by_peft_gives_its_logits_here(tmp_path: Path, options: dict[str, Any], join: bool) -> None:
    reference = reference_model(small_config())
    model = our_model(reference)
    theirs = peft_model(reference, **options)
    theirs.save_pretrained(tmp_path / "adapter")
    if join:
        join_projections(model)
    base = model(TOKENS % 320)
    load_adapter(model, tmp_path / "adapter")
    ours = model(TOKENS % 320)
    expected = reference_logits(theirs, np.array(TOKENS % 320).astype(np.int64))
    assert np.abs(np.array(ours) - expected).max() < 1e-3
    if "modules_to_save" not in options:
        assert furthest(ours, base) > 0.01


@peft_warnings
@pytest.mark.parametrize(
    ("names", "ranks", "dora"),
    [(BLOCK_LINEARS, [], False), (("q_proj", "down_proj"), ["down_proj=7"], False), (("v_proj", "up_proj"), [], True)],
)
def test_an_adapter_of_ours_gives_its_logits_in_peft(
    tmp_path: Path, names: tuple[str, ...], ranks: list[str], dora: bool
) -> None:
    from peft import PeftModel

    reference = reference_model(small_config())
    model = our_model(reference)
    attach(
        model, make_targets(choose_paths(model.config, names, 1), 4, 6.0, read_ranks(ranks), rslora=False), dora=dora
    )
    for layer in model.model.layers[-1:]:
        for _, module in layer.named_modules():
            if "lora_b" in module:
                module.lora_b = mx.random.normal(module.lora_b.shape) * 0.2
    expected = np.array(model(TOKENS % 320))
    save_peft(tmp_path / "adapter", from_model(model, base="base"), model.config)
    theirs = PeftModel.from_pretrained(reference, str(tmp_path / "adapter")).eval()
    assert np.abs(reference_logits(theirs, np.array(TOKENS % 320).astype(np.int64)) - expected).max() < 1e-3
    assert "dropout" in (tmp_path / "adapter" / "adapter_config.json").read_text()


@pytest.mark.parametrize("join", [False, True])
@pytest.mark.parametrize("names", [BLOCK_LINEARS, ("q_proj", "embed_tokens")])
def test_adapters_are_switched_mixed_and_taken_off(join: bool, names: tuple[str, ...]) -> None:
    model = small_model(tie_word_embeddings=True)
    base = model(TOKENS % 320)
    adapters = [random_adapter(model, seed, names) for seed in (1, 2)]
    mixed = Adapter(
        {
            path: LowRank(
                mx.concatenate([part.a, adapters[1].parts[path].a], axis=1),
                mx.concatenate([part.b * 0.5, adapters[1].parts[path].b * 2.0]),
                2.0,
            )
            for path, part in adapters[0].parts.items()
        }
    )
    if join:
        join_projections(model)
    alone = []
    for adapter in (*adapters, mixed):
        single = AdapterSet(model)
        single.add("one", adapter)
        single.select("one")
        alone.append(model(TOKENS % 320))
        single.clear()
    several = AdapterSet(model)
    for name, adapter in zip("ab", adapters, strict=True):
        several.add(name, adapter)
    cases: list[tuple[Any, mx.array]] = [
        ("a", alone[0]),
        ("b", alone[1]),
        ({"a": 0.5, "b": 2.0}, alone[2]),
        (None, base),
    ]
    for choice, expected in cases:
        several.select(choice)
        assert furthest(model(TOKENS % 320), expected) < 1e-4
    several.select_rows([choice for choice, _ in cases])
    rows = model(mx.repeat(TOKENS % 320, 4, axis=0))
    assert furthest(rows, mx.concatenate([expected for _, expected in cases])) < 1e-4
    several.unload("a")
    several.select("b")
    assert furthest(model(TOKENS % 320), alone[1]) < 1e-4
    several.clear()
    assert mx.array_equal(model(TOKENS % 320), base).item()


def test_switching_a_hundred_times_leaves_no_memory_behind() -> None:
    model = small_model()
    adapters = AdapterSet(model)
    for name in "ab":
        adapters.add(name, random_adapter(model, ord(name)))

    def switch(times: int) -> int:
        for n in range(times):
            adapters.select("ab"[n % 2])
            mx.eval(model(TOKENS % 320))
        return mx.get_active_memory()

    # A reused buffer may be larger than what it holds, so memory varies a little; a leak would be an adapter each time.
    adapter_bytes = sum(part.a.nbytes + part.b.nbytes for part in random_adapter(model, 1).parts.values())
    before = switch(4)
    assert switch(100) < before + adapter_bytes
    for _ in range(20):
        adapters.unload("a")
        adapters.add("a", random_adapter(model, 1))
    assert switch(4) < before + adapter_bytes


def test_decoding_with_a_cache_gives_the_logits_without_one() -> None:
    from llama3_mlx.kv_cache import make_cache

    model = small_model()
    join_projections(model)
    adapters = AdapterSet(model)
    adapters.add("a", random_adapter(model, 1))
    adapters.select({"a": 0.7})
    cache = make_cache(2)
    steps = [model(TOKENS[:, i : i + 1] % 320, cache) for i in range(4)]
    assert furthest(mx.concatenate(steps, axis=1), model(TOKENS % 320)) < 1e-4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_in": 32}, r"is of another model: model.layers.0.self_attn.q_proj is adapted from 32 to 128 values"),
        ({"fine_tune_type": "magic"}, "'magic'"),
        ({"lora_parameters": {"scale": "big"}}, 'scale must be a number, not "big"'),
    ],
)
def test_adapters_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    model = load_model(save_tiny(tmp_path / "source", **SMALL), join=False)
    with pytest.raises((CheckpointError, ConfigError), match=words):
        load_adapter(model, saved(tmp_path / "adapter", **changes))


def test_half_an_adapter_is_refused(tmp_path: Path) -> None:
    model = load_model(save_tiny(tmp_path / "source", **SMALL), join=False)
    adapter = saved(tmp_path / "adapter")
    save_file(
        {"model.layers.0.self_attn.q_proj.lora_a": np.ones((64, 4), np.float32)}, adapter / "adapters.safetensors"
    )
    with pytest.raises(CheckpointError, match=r"lacks model\.layers\.0\.self_attn\.q_proj\.lora_b"):
        load_adapter(model, adapter)
    (adapter / "adapters.safetensors").unlink()
    with pytest.raises(CheckpointError, match="has neither"):
        load_adapter(model, adapter)
    with pytest.raises(CheckpointError, match="there is no adapter folder"):
        load_adapter(model, tmp_path / "absent")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"bias": "all"}, "trains biases"),
        ({"r": 5}, "has rank 4, and adapter_config.json says 5"),
        ({"lora_alpha": None}, "lora_alpha must be a number"),
        ({"use_dora": True}, "use_dora is True"),
    ],
)
@peft_warnings
def test_peft_adapters_that_cannot_be_carried_over_are_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    reference = reference_model(small_config())
    model = our_model(reference)
    peft_model(reference, target_modules=["q_proj"]).save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(CheckpointError, match=words):
        load_adapter(model, tmp_path / "adapter")


def test_a_peft_adapter_read_and_written_is_the_same(tmp_path: Path) -> None:
    model = small_model()
    save_peft(tmp_path / "one", random_adapter(model, 3), model.config)
    save_peft(tmp_path / "two", read_adapter(tmp_path / "one", adapter_base(model)), model.config)
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_a_tied_embedding_is_not_exported_to_peft(tmp_path: Path) -> None:
    model = small_model(tie_word_embeddings=True)
    with pytest.raises(CheckpointError, match="PEFT changes the embedding alone"):
        save_peft(tmp_path / "one", random_adapter(model, 3, ("embed_tokens",)), model.config)


def test_a_second_set_on_a_model_and_unknown_names_are_refused() -> None:
    model = small_model()
    adapters = AdapterSet(model)
    adapters.add("a", random_adapter(model, 1))
    with pytest.raises(RequestError, match="has adapters already"):
        AdapterSet(model)
    with pytest.raises(RequestError, match="there is no adapter 'b'; loaded are a"):
        adapters.select("b")
    with pytest.raises(RequestError, match="there is an adapter 'a' already"):
        adapters.add("a", random_adapter(model, 1))


@pytest.mark.parametrize("mode", ["mxfp4", "mxfp8", "nvfp4"])
def test_an_adapter_adds_as_much_where_the_scales_are_integers(mode: str, tmp_path: Path) -> None:
    """The reference is the same matrices unquantized, with the same adapter."""
    convert(save_tiny(tmp_path / "source", **SMALL), tmp_path / mode, mode=mode, quality="rtn")
    model, dense = (load_model(tmp_path / mode) for _ in range(2))
    modules = dense.named_modules()
    dense.update_modules(tree_unflatten([(path, make_dense(module)) for path, module in modules if "scales" in module]))
    plain = model(TOKENS)
    for each in (model, dense):
        adapters = AdapterSet(each)
        adapters.add("a", random_adapter(dense, 1, (*BLOCK_LINEARS, "embed_tokens")))
        adapters.select("a")
    assert furthest(model(TOKENS), plain) > 0.1
    assert furthest(model(TOKENS), dense(TOKENS)) < 1e-4
