"""The parts of the quantization methods, each against numpy, MLX or a direct computation."""

from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from llama3_mlx.convert import convert
from llama3_mlx.convert.quantization.bit_allocation import allocate
from llama3_mlx.convert.quantization.bit_packing import pack_codes
from llama3_mlx.convert.quantization.divergence import distance, module_distances
from llama3_mlx.convert.quantization.dtypes import as_float32, as_stored
from llama3_mlx.convert.quantization.equalized_source import EqualizedSource, WeightScales
from llama3_mlx.convert.quantization.gptq import compensated, inverse_factor
from llama3_mlx.convert.quantization.sensitivity import Sensitivity, sensitivities
from llama3_mlx.convert.sources.huggingface import HFSource
from llama3_mlx.convert.sources.source import Source
from llama3_mlx.model.config import ModelConfig
from llama3_mlx.model.parameters import expected_tensors
from llama3_mlx.model.quantization import AFFINE_BITS, Scheme
from llama3_mlx.model.transformer import LlamaForCausalLM

from ...support.quality_fixtures import SMALL, divergence, logits, opened, random_windows, save_uneven
from ...support.tiny_model import CONFIG


def read(source: Source) -> Mapping[str, np.ndarray]:
    return {ref.name: as_float32(ref.read(0, ref.rows), ref.dtype) for ref in source.tensors()}


def equalized(folder: Path, dtype: str = "F32") -> EqualizedSource:
    source = opened(folder)
    scales = WeightScales(source, dtype)
    return EqualizedSource(source, dtype, scales.layer, scales.head)


@pytest.mark.parametrize("bits", AFFINE_BITS)
def test_codes_are_packed_as_mlx_packs_them(bits: int) -> None:
    weights = mx.random.normal((3, 128), key=mx.random.key(bits))
    words, scales, biases = mx.quantize(weights, group_size=64, bits=bits)
    codes = mx.dequantize(words, mx.ones(scales.shape), mx.zeros(biases.shape), group_size=64, bits=bits)
    np.testing.assert_array_equal(pack_codes(np.array(codes).astype(np.uint8), bits), np.array(words))


def test_bfloat16_is_rounded_to_the_nearest() -> None:
    values = np.random.default_rng(0).normal(0, 1, 1000).astype(np.float32)
    expected = np.array(mx.array(values).astype(mx.bfloat16).astype(mx.float32))
    np.testing.assert_array_equal(as_float32(as_stored(values.copy(), "BF16"), "BF16"), expected)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_equalizing_leaves_the_models_function(tmp_path: Path, tied: bool, biased: bool) -> None:
    folder = save_uneven(tmp_path / "source", tie_word_embeddings=tied, attention_bias=biased, mlp_bias=biased)
    source = equalized(folder)
    model = LlamaForCausalLM(source.config)
    changed = read(source)
    model.load_weights([(name, mx.array(value)) for name, value in changed.items()], strict=True)
    window = random_windows(source.config, 1)
    np.testing.assert_allclose(np.array(model(mx.array(window))), logits(folder, window), atol=1e-3, rtol=1e-3)
    before = read(opened(folder))
    assert not np.allclose(
        changed["model.layers.0.mlp.down_proj.weight"], before["model.layers.0.mlp.down_proj.weight"]
    )


def test_equalized_norms_lose_nothing_in_their_dtype(tmp_path: Path) -> None:
    source = equalized(save_uneven(tmp_path / "source"), "F16")
    for name, value in read(source).items():
        if name.endswith("layernorm.weight"):
            np.testing.assert_allclose(value.astype(np.float16).astype(np.float32), value, rtol=1e-6)


def test_rows_read_in_parts_are_the_rows_read_at_once(tmp_path: Path) -> None:
    source = equalized(save_uneven(tmp_path / "source"))
    for ref in source.tensors():
        cut = ref.rows // 3
        parts = [ref.read(0, cut), ref.read(cut, ref.rows)]
        np.testing.assert_array_equal(np.concatenate(parts), ref.read(0, ref.rows), err_msg=ref.name)


def correlated(columns: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    inputs = rng.normal(0, 1, (2000, columns // 4)) @ rng.normal(0, 1, (columns // 4, columns))
    inputs += 0.1 * rng.normal(0, 1, inputs.shape)
    return inputs.astype(np.float32), (inputs.T @ inputs / len(inputs)).astype(np.float32)


def test_the_factor_is_that_of_the_damped_inverse() -> None:
    _, moments = correlated(64)
    factor = inverse_factor(moments, 0.01)
    damped = moments + 0.01 * np.diag(moments).mean() * np.eye(64)
    assert np.allclose(factor, np.triu(factor))
    np.testing.assert_allclose(factor.T @ factor @ damped, np.eye(64), atol=2e-2)


@pytest.mark.parametrize("bits", [2, 4])
def test_compensated_rounding_errs_less_than_rounding_to_nearest(bits: int) -> None:
    inputs, moments = correlated(128)
    weights = mx.random.normal((32, 128), key=mx.random.key(1))
    scheme = Scheme(bits, 64)
    rounded = compensated(weights, inverse_factor(moments, 0.01), scheme, mx.float16)
    nearest = mx.dequantize(*mx.quantize(weights, group_size=64, bits=bits), group_size=64, bits=bits)

    def error(other: mx.array) -> float:
        return float(np.square(inputs @ (np.array(other) - np.array(weights)).T).mean())

    assert error(rounded.dequantized()) < 0.4 * error(nearest)
    scales, biases = (grid.astype(mx.float16).astype(mx.float32) for grid in (rounded.grid.scales, rounded.grid.biases))
    theirs = mx.dequantize(mx.array(pack_codes(rounded.codes, bits)), scales, biases, group_size=64, bits=bits)
    np.testing.assert_allclose(np.array(theirs), np.array(rounded.dequantized()), atol=1e-6)


@pytest.mark.parametrize("tied", [True, False])
def test_distance_a_layer_at_a_time_is_that_of_whole_models(tmp_path: Path, tied: bool) -> None:
    folder = save_uneven(tmp_path / "source", tie_word_embeddings=tied)
    convert(folder, tmp_path / "made", bits=4)
    source, result = HFSource(folder), HFSource(tmp_path / "made")
    windows = random_windows(source.config, 3)
    p, q = logits(folder, windows), logits(tmp_path / "made", windows)
    found = distance(source, result, windows)
    assert found.kl == pytest.approx(divergence(p, q), rel=1e-3)
    assert found.tokens == 3 * 31
    assert found.top1_agreement == pytest.approx((p.argmax(-1) == q.argmax(-1))[:, :-1].mean())
    ids = np.array(windows)[:, 1:, None]
    for logit, perplexity in ((p, found.source_perplexity), (q, found.perplexity)):
        logprobs = logit - np.log(np.exp(logit).sum(-1, keepdims=True))
        loss = -np.take_along_axis(logprobs[:, :-1], ids, -1).mean()
        assert perplexity == pytest.approx(np.exp(loss), rel=1e-3)


def test_a_modules_distance_is_the_models_with_it_alone_quantized(tmp_path: Path) -> None:
    folder = save_uneven(tmp_path / "source", tie_word_embeddings=False)
    rules = tmp_path / "rules.json"
    module = "model.layers.1.mlp.up_proj"
    rules.write_text(f'{{"rules": [{{"modules": "{module}", "bits": 3, "group_size": 64}}]}}')
    convert(folder, tmp_path / "made", rules=rules, quality="rtn", dtype="float32")
    source, result = HFSource(folder), HFSource(tmp_path / "made")
    window = random_windows(source.config, 1)[0]
    whole = distance(source, result, [window])
    found = {entry.path: entry for entry in module_distances(source, result, window)}
    assert len(found) == 2 * 7 + 2
    assert found[module].kl == pytest.approx(whole.kl, rel=1e-3)
    assert found[module].top1_agreement == pytest.approx(whole.top1_agreement)
    assert all(entry.kl == pytest.approx(0, abs=1e-6) for path, entry in found.items() if path != module)


def test_expected_costs_are_of_the_size_of_what_is_measured(tmp_path: Path) -> None:
    folder = save_uneven(tmp_path / "source", tie_word_embeddings=False)
    source = HFSource(folder)
    windows = random_windows(source.config, 24)
    scheme = Scheme(4, 64)
    expected = {entry.path: entry.costs[scheme] for entry in sensitivities(source, windows, [scheme])}
    convert(folder, tmp_path / "made", bits=4, quality="fast")
    made = module_distances(equalized(folder, "F16"), HFSource(tmp_path / "made"), windows[0])
    ratios = np.array([expected[entry.path] / entry.kl for entry in made if "layers" in entry.path])
    assert 0.3 < np.median(ratios) < 3


def test_bits_go_where_they_save_most() -> None:
    config = ModelConfig.from_dict({**CONFIG, **SMALL})
    low, high = Scheme(4, 64), Scheme(8, 64)
    shapes = expected_tensors(config)
    paths = [name.removesuffix(".weight") for name, shape in shapes.items() if len(shape) == 2]
    found = [
        Sensitivity(path, int(np.prod(shapes[f"{path}.weight"])), {low: 10.0 if "v_proj" in path else 0.1, high: 0.0})
        for path in paths
    ]
    chosen = allocate(config, found, 5.0)
    assert all(chosen.scheme_for(path) == high for path in paths if "v_proj" in path)
    assert any(chosen.scheme_for(path) == low for path in paths)
