"""Adapters and models whose channels were equalized, judged by PEFT on the source and by mlx-lm on the same folder."""

import json
import shutil
import threading
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from llama3_mlx import CheckpointError, Llama
from llama3_mlx.adapters.adapter import from_model
from llama3_mlx.adapters.mlx_lm_format import save_adapter
from llama3_mlx.checkpoint.loading import load_model
from llama3_mlx.cli import main
from llama3_mlx.convert import convert
from llama3_mlx.finetune import AdapterSet, TrainSettings, fuse, load_adapter, train
from llama3_mlx.finetune.layers.attach import attach, unfreeze_full
from llama3_mlx.finetune.layers.targets import BLOCK_LINEARS, choose_paths, make_targets
from llama3_mlx.finetune.sft import build_supervised
from llama3_mlx.finetune.training.job import load_text_side, resumed_job
from llama3_mlx.finetune.training.running import run_job
from llama3_mlx.finetune.training.setup import load_for_training
from llama3_mlx.prefix_cache.disk import model_fingerprint

from ..support.finetune_fixtures import SHORT_RUN, furthest, write_lines
from ..support.quality_fixtures import save_uneven

NAME = "channel_scales.json"
TOKENS = np.random.default_rng(0).integers(64, 80, (1, 24))
# Of the adapter's effect: what 8 bits of the base cost, with room. Unfitted adapters are off by half of it and more.
CLOSE = 0.12
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two query heads for one of values, a head of its own, biases everywhere."""
    folder = tmp_path_factory.mktemp("models") / "source"
    return save_uneven(folder, tie_word_embeddings=False, attention_bias=True, mlp_bias=True, eos_token_id=1)


@pytest.fixture(scope="module")
def even(source: Path) -> Path:
    """The source in 8 bits, its channels equalized."""
    convert(source, source.with_name("even"), bits=8, quality="fast")
    return source.with_name("even")


@pytest.fixture(scope="module")
def plain(source: Path) -> Path:
    """The source in 8 bits."""
    convert(source, source.with_name("plain"), bits=8, quality="rtn")
    return source.with_name("plain")


@pytest.fixture(scope="module")
def peft(source: Path) -> Path:
    """A LoRA of PEFT's on all linear layers."""
    return save_with_peft(source, source.with_name("peft"), target_modules="all-linear")


def reference(source: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()


def logits_of(model: Any) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(TOKENS)).logits[0].numpy()


def save_with_peft(source: Path, folder: Path, **options: Any) -> Path:
    """Write an adapter of random values that PEFT made for the source."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", **options})
    made = get_peft_model(reference(source), config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "lora_A" in name or "lora_B" in name:
                parameter.copy_(noise * 0.07)
            elif "magnitude" in name or "modules_to_save" in name:
                parameter.mul_(1 + 0.2 * noise)
    made.save_pretrained(folder)
    return folder


def in_peft(source: Path, adapter: Path) -> np.ndarray:
    from peft import PeftModel

    return logits_of(PeftModel.from_pretrained(reference(source), str(adapter)).eval())


def ours(folder: Path, adapter: Path | None = None, *, join: bool = True) -> np.ndarray:
    model = load_model(folder, dtype="float32", join=join)
    if adapter is not None:
        load_adapter(model, adapter)
    return np.array(model(mx.array(TOKENS))[0])


def off(found: np.ndarray, expected: np.ndarray, base: np.ndarray) -> float:
    """The error of logits over the effect that an adapter has on them."""
    assert np.linalg.norm(expected - base) > 0.1 * np.linalg.norm(base)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected - base))


@pytest.mark.parametrize(
    ("options", "join"),
    [
        ({"target_modules": "all-linear"}, True),
        ({"target_modules": "all-linear", "use_dora": True}, True),
        ({"target_modules": ["o_proj", "up_proj"], "use_dora": True}, False),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "v_proj", "down_proj"]}, True),
    ],
)
def test_an_adapter_for_the_source_has_its_effect_on_the_evened_out_model(
    source: Path, even: Path, tmp_path: Path, options: dict[str, Any], join: bool
) -> None:
    adapter = save_with_peft(source, tmp_path / "adapter", **options)
    expected, base = in_peft(source, adapter), logits_of(reference(source))
    assert off(ours(even, adapter, join=join), expected, base) < CLOSE
    # The same values taken as they are, as they would be for a model that doesn't know its scales.
    model = load_model(even, dtype="float32", join=join)
    model.channel_scales, model.config = None, load_model(source).config
    load_adapter(model, adapter)
    assert off(np.array(model(mx.array(TOKENS))[0]), expected, base) > 3 * CLOSE


def save_ours(folder: Path, out: Path, *, dora: bool = False, modules_to_save: tuple[str, ...] = ()) -> Path:
    """Write an adapter of random values as training on the model in `folder` would."""
    model = load_model(folder, dtype="float32", join=False)
    names = (*BLOCK_LINEARS, *(() if "lm_head" in modules_to_save else ("lm_head",)))
    attach(model, make_targets(choose_paths(model.config, names, None), 4, 8.0, {}, rslora=False), dora=dora)
    unfreeze_full(model, modules_to_save)
    rng = np.random.default_rng(1)
    for path, module in model.named_modules():
        if "lora_b" in module:
            module.lora_b = mx.array(rng.normal(0, 0.05, module.lora_b.shape).astype(np.float32))
            if "m" in module:
                module.m = module.m * mx.array(1 + rng.normal(0, 0.2, module.m.shape).astype(np.float32))
        elif path in modules_to_save:
            module.weight = module.weight * mx.array(1 + rng.normal(0, 0.1, module.weight.shape).astype(np.float32))
    save_adapter(out, from_model(model), model.config)
    return out


@pytest.mark.parametrize(
    "options", [{}, {"dora": True}, {"modules_to_save": ("lm_head", "model.norm", "model.layers.0.input_layernorm")}]
)
def test_an_adapter_of_the_evened_out_model_has_its_effect_in_peft(
    source: Path, even: Path, plain: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    adapter = save_ours(even, tmp_path / "adapter", **options)
    assert (adapter / NAME).read_bytes() == (even / NAME).read_bytes()
    assert main(["adapter", "export", str(adapter), str(tmp_path / "peft"), "-m", str(even)]) == 0
    expected, base = ours(even, adapter), ours(even)
    assert off(in_peft(source, tmp_path / "peft"), expected, base) < CLOSE
    # The same adapter on another conversion of the source, and on the source itself.
    assert off(ours(plain, adapter), expected, base) < CLOSE
    assert off(ours(source, adapter), expected, base) < CLOSE
    # What stands in the folder fits none of them as it is.
    shutil.copytree(adapter, tmp_path / "bare")
    (tmp_path / "bare" / NAME).unlink()
    values = json.loads((adapter / "adapter_config.json").read_text())
    del values["channel_scales"]
    (tmp_path / "bare" / "adapter_config.json").write_text(json.dumps(values))
    assert off(ours(plain, tmp_path / "bare"), expected, base) > 3 * CLOSE


def in_mlx_lm(folder: Path, adapter: Path | None) -> np.ndarray:
    import mlx_lm.utils
    from mlx_lm.tuner.utils import load_adapters

    model, _ = mlx_lm.utils.load_model(folder)
    model.set_dtype(mx.float32)
    if adapter is not None:
        load_adapters(model, str(adapter))
    model.eval()
    return np.array(model(mx.array(TOKENS))[0])


@pytest.mark.parametrize("options", [{}, {"dora": True}])
def test_mlx_lm_gives_the_same_logits_with_the_same_folders(
    even: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    adapter = save_ours(even, tmp_path / "adapter", **options)
    expected = in_mlx_lm(even, adapter)
    assert off(ours(even, adapter), expected, in_mlx_lm(even, None)) < 1e-3


def test_an_imported_adapter_gives_peft_s_logits_in_mlx_lm(
    source: Path, even: Path, peft: Path, tmp_path: Path
) -> None:
    assert main(["adapter", "import", str(peft), str(tmp_path / "adapter"), "-m", str(even)]) == 0
    base = logits_of(reference(source))
    assert off(in_mlx_lm(even, tmp_path / "adapter"), in_peft(source, peft), base) < CLOSE
    # Over it, one for the source's own channels: no scales of the first stay behind.
    assert main(["adapter", "import", str(peft), str(tmp_path / "adapter"), "-m", str(source)]) == 0
    assert not (tmp_path / "adapter" / NAME).exists()
    assert off(ours(even, tmp_path / "adapter"), in_peft(source, peft), base) < CLOSE


def test_an_adapter_that_mlx_lm_trained_fits_the_model_that_it_names(
    source: Path, even: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = save_ours(even, tmp_path / "adapter")
    (adapter / NAME).unlink()
    settings = adapter / "adapter_config.json"
    values = {k: v for k, v in json.loads(settings.read_text()).items() if k not in ("channel_scales", "r")}
    expected, base = in_mlx_lm(even, adapter), ours(even)

    def named(model: str) -> float:
        settings.write_text(json.dumps({**values, "model": model}))
        return off(ours(even, adapter), expected, base)

    monkeypatch.chdir(even.parent)
    assert named(str(even)) < 1e-3
    assert named("even") < 1e-3
    assert named(str(source)) > 3 * CLOSE
    assert named("HuggingFaceTB/SmolLM2-135M") > 3 * CLOSE
    with pytest.raises(CheckpointError, match=r"trained on gone, which isn't there.*copy its channel_scales.json"):
        named("gone")
    fingerprint = partial(model_fingerprint, even, dtype="float32", cache_kind="plain", adapter=adapter)
    before = fingerprint()
    shutil.copy(even / NAME, adapter / NAME)
    # Keys and values on disk would be another adapter's.
    assert fingerprint() != before
    assert named("gone") < 1e-3


def test_an_adapter_without_its_scales_fits_the_model_it_was_trained_on_alone(
    even: Path, plain: Path, tmp_path: Path
) -> None:
    adapter = save_ours(even, tmp_path / "adapter")
    expected = ours(even, adapter)
    (adapter / NAME).unlink()
    np.testing.assert_array_equal(ours(even, adapter), expected)
    with pytest.raises(CheckpointError, match=r"lacks channel_scales\.json"):
        load_adapter(load_model(plain), adapter)


def test_a_model_that_lost_its_scales_takes_no_adapter(even: Path, peft: Path, tmp_path: Path) -> None:
    shutil.copytree(even, tmp_path / "even")
    (tmp_path / "even" / NAME).unlink()
    with pytest.raises(CheckpointError, match=r"channel_scales\.json, which says how, is missing or damaged"):
        load_adapter(load_model(tmp_path / "even"), peft)


def test_adapters_of_several_bases_are_mixed_over_one(source: Path, even: Path, peft: Path, tmp_path: Path) -> None:
    adapter = save_ours(even, tmp_path / "adapter")
    found = {}
    for folder in (source, even):
        model = load_model(folder, dtype="float32")
        adapters = AdapterSet(model)
        adapters.load("theirs", peft)
        adapters.load("ours", adapter)
        adapters.select({"theirs": 0.5, "ours": 1.0})
        found[folder] = np.array(model(mx.array(TOKENS))[0])
    assert off(found[even], found[source], ours(source)) < CLOSE


def test_a_gguf_adapter_of_the_evened_out_model_is_peft_s(even: Path, peft: Path, tmp_path: Path) -> None:
    assert main(["adapter", "import", str(peft), str(tmp_path / "adapter"), "-m", str(even)]) == 0
    assert main(["adapter", "export", str(tmp_path / "adapter"), str(tmp_path / "a.gguf"), "-m", str(even)]) == 0
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    tensors = {tensor.name: tensor.data.astype(np.float32) for tensor in reader.tensors}
    strength = reader.fields["adapter.lora.alpha"].contents() / 4
    theirs = load_file(peft / "adapter_model.safetensors")
    for name, path in {
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_up": "mlp.up_proj",
    }.items():
        half = f"base_model.model.model.layers.1.{path}.lora_"
        expected = 2.0 * theirs[f"{half}B.weight"] @ theirs[f"{half}A.weight"]
        made = strength * tensors[f"blk.1.{name}.weight.lora_b"] @ tensors[f"blk.1.{name}.weight.lora_a"]
        assert np.abs(made - expected).max() < 2e-3 * np.abs(expected).max(), name


def test_the_facts_of_an_adapter_do_not_depend_on_the_base(
    even: Path, source: Path, peft: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = []
    for folder in (source, even):
        assert main(["adapter", "info", str(peft), "-m", str(folder), "--json"]) == 0
        shown.append(json.loads(capsys.readouterr().out))
    assert shown[0] == shown[1]


def test_a_fused_model_leaves_for_transformers_as_peft_s_merged_one(
    source: Path, even: Path, peft: Path, tmp_path: Path
) -> None:
    fuse(even, peft, tmp_path / "fused", bits="8", texts=["abcdefgh" * 8])
    assert (tmp_path / "fused" / NAME).read_bytes() == (even / NAME).read_bytes()
    convert(tmp_path / "fused", tmp_path / "hf", to="hf", dtype="float32")
    expected, base = in_peft(source, peft), logits_of(reference(source))
    assert off(logits_of(reference(tmp_path / "hf")), expected, base) < CLOSE
    assert off(ours(tmp_path / "fused"), expected, base) < CLOSE


def test_training_starts_from_an_adapter_for_the_source(source: Path, even: Path, peft: Path) -> None:
    settings = TrainSettings(
        **{**SHORT_RUN, "rank": 4, "alpha": 8.0, "layers": None, "targets": BLOCK_LINEARS, "start_from": str(peft),
           "dtype": "float32"}
    )  # fmt: skip
    model, _ = load_for_training(load_text_side(str(even)), settings)
    model.eval()
    assert furthest(model(mx.array(TOKENS))[0], mx.array(ours(even, peft))) < 1e-3


def test_a_run_on_an_evened_out_model_goes_on_to_the_same_bytes(even: Path, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "train.jsonl", [{"text": f"abc{n}abc" * 4} for n in range(8)])
    settings = TrainSettings(**{**SHORT_RUN, "dora": True})
    train(even, data, tmp_path / "whole", settings)
    stop = threading.Event()

    from ..finetune.test_run import Cancelled

    train(even, data, tmp_path / "again", settings, callbacks=[Cancelled(stop, 3)], cancel=stop)
    run_job(resumed_job(tmp_path / "again", {}), build_supervised, resume=True)
    for name in ("adapters.safetensors", "adapter_config.json", NAME):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert (tmp_path / "whole" / NAME).read_bytes() == (even / NAME).read_bytes()


def test_answers_come_with_the_fitted_adapter(source: Path, even: Path, peft: Path) -> None:
    with Llama.load(even, adapter=peft, dtype="float32") as llama:
        found = np.array(llama.logits([int(token) for token in TOKENS[0]]))
    assert off(found, in_peft(source, peft), logits_of(reference(source))) < CLOSE
