"""Quantized products on the CPU's way: MLX's own dequantize and quantized layers are the reference."""

import gc
import itertools
import weakref
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest

from llama3_mlx import Llama
from llama3_mlx.checkpoint.folder import load_config
from llama3_mlx.checkpoint.loading import load_model
from llama3_mlx.convert import convert
from llama3_mlx.device import in_own_thread
from llama3_mlx.model import unpacked
from llama3_mlx.model.memory_estimate import estimate
from llama3_mlx.model.quantization import Scheme
from llama3_mlx.model.unpacked import UnpackedEmbedding, UnpackedLinear, unpack, unpack_rows

from ..support.tiny_model import save_tiny

SCHEMES = [Scheme(bits, size) for bits in (2, 3, 4, 5, 6, 8) for size in (32, 64, 128)]
SCHEMES += [Scheme(4, 32, "mxfp4"), Scheme(8, 32, "mxfp8"), Scheme(4, 16, "nvfp4")]


def normal(*shape: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(sum(shape)))


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_unpacked_values_are_those_of_mlx_bit_for_bit(scheme: Scheme) -> None:
    weight, scales, *rest = mx.quantize(normal(24, 256), scheme.group_size, scheme.bits, mode=scheme.mode)
    biases = rest[0] if rest else None
    expected = mx.dequantize(weight, scales, biases, scheme.group_size, scheme.bits, mode=scheme.mode)
    assert mx.array_equal(unpack(weight, scales, biases, scheme), expected)


@pytest.mark.parametrize("rows", [1, unpack_rows() - 1, 33])
@pytest.mark.parametrize("bias", [False, True])
def test_products_and_gradients_are_those_of_the_packed_layer(
    rows: int, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Blocks of 5 rows on two streams; the last one isn't whole.
    monkeypatch.setattr(unpacked, "_BLOCK_VALUES", 5 * 128)
    streams = (None, mx.new_thread_local_stream(mx.cpu))
    monkeypatch.setattr(unpacked, "product_streams", lambda: streams)
    packed = nn.QuantizedLinear.from_linear(nn.Linear(128, 48, bias=bias), 64, 4)
    layer = UnpackedLinear(packed)
    x, cotangent = normal(1, rows, 128), normal(1, rows, 48)
    expected, (expected_grad,) = mx.vjp(packed, [x], [cotangent])
    found, (grad,) = mx.vjp(layer, [x], [cotangent])
    assert mx.allclose(found[0], expected[0], atol=1e-4)
    assert mx.allclose(grad, expected_grad, atol=1e-4)
    assert dict(layer.parameters()).keys() == dict(packed.parameters()).keys()
    assert layer.trainable_parameters() == {}


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_a_packed_product_split_over_streams_is_that_of_mlx_bit_for_bit(
    scheme: Scheme, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = (None, *(mx.new_thread_local_stream(mx.cpu) for _ in range(2)))
    monkeypatch.setattr(unpacked, "product_streams", lambda: streams)
    monkeypatch.setattr(unpacked, "_PART_VALUES", 5 * 256)
    packed = nn.QuantizedLinear(256, 49, bias=True, group_size=scheme.group_size, bits=scheme.bits, mode=scheme.mode)
    layer = UnpackedLinear(packed)
    x = normal(1, unpack_rows() - 1, 256)
    assert mx.array_equal(layer(x), packed(x))
    assert len(layer._products._parts) == 3
    # Other weights, as an adapter's fully trained ones, are not taken for those that were split.
    layer["weight"] = mx.zeros_like(packed["weight"])
    assert not mx.array_equal(layer(x), packed(x))
    # A layer that was used on one thread works on another, and its memory is the whole matrix's.
    before = mx.get_active_memory()
    assert mx.array_equal(in_own_thread(lambda: evaluated(layer(x))), layer(x))
    assert mx.get_active_memory() - before < layer["weight"].nbytes


def evaluated(array: mx.array) -> mx.array:
    mx.eval(array)
    return array


def test_an_embedding_gives_the_same_vectors_and_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacked, "_BLOCK_VALUES", 7 * 128)
    packed = nn.QuantizedEmbedding.from_embedding(nn.Embedding(100, 128), 32, 8)
    layer = UnpackedEmbedding(packed)
    tokens = mx.array([[3, 99, 0]])
    assert mx.array_equal(layer(tokens), packed(tokens))
    for rows in (1, 9):
        h = normal(1, rows, 128)
        assert mx.allclose(layer.as_linear(h), packed.as_linear(h), atol=1e-4)


def test_a_loaded_models_prompt_gives_the_packed_models_logits(tiny_folder: Path, tmp_path: Path) -> None:
    convert(tiny_folder, tmp_path / "four", bits=4)
    model = load_model(tmp_path / "four")
    kinds = {type(module) for _, module in model.named_modules()}
    assert UnpackedLinear in kinds
    assert nn.QuantizedLinear not in kinds
    tokens = mx.array([[5, 9, 2, 7, 1, 3, 8, 4, 6]])
    all_at_once = model(tokens)
    cache = model.make_cache()
    one_by_one = mx.concatenate([model(tokens[:, i : i + 1], cache) for i in range(tokens.shape[1])], axis=1)
    assert mx.allclose(all_at_once, one_by_one, atol=1e-4)


def test_info_says_how_quantized_products_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacked, "product_streams", lambda: (None, None, None))
    assert unpacked.products_description(0) == "packed, on 3 cores; from 8 tokens at once on unpacked, by BLAS"
    assert unpacked.products_description(5_000_000) == "unpacked, by BLAS (5.00 MB beside the packed matrices)"


def test_one_matrix_is_unpacked_at_a_time() -> None:
    """Without waiting for x, MLX unpacks those of the next layers, too: more than two matrices at once."""
    layers = [[UnpackedLinear(nn.QuantizedLinear(*sides, bias=False)) for sides in _MLP] for _ in range(8)]
    x = normal(1, 16, 1024)
    mx.eval(x, [layer.parameters() for layer in itertools.chain(*layers)])
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    for gate, up, down in layers:
        x = x + down(nn.silu(gate(x)) * up(x))
    mx.eval(x)
    matrix = 4 * 1024 * 4096
    assert mx.get_peak_memory() - before < 1.5 * matrix


_MLP = ((1024, 4096), (1024, 4096), (4096, 1024))


@pytest.mark.parametrize("tied", [False, True])
def test_a_small_models_matrices_stay_unpacked_in_the_memory_that_was_estimated(
    tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save_tiny(tmp_path / "source", tie_word_embeddings=tied)
    convert(source, tmp_path / "four", bits=4, quality="rtn")
    config, tokens = load_config(tmp_path / "four"), mx.array([[5, 9, 2, 7, 1, 3, 8, 4, 6]])
    memory = [2**50]
    monkeypatch.setattr("llama3_mlx.device.working_memory_bytes", lambda: memory[0])
    kept = estimate(config).unpacked_bytes
    memory[0] = 16 * kept - 1
    assert estimate(config).unpacked_bytes == 0
    packed = load_model(tmp_path / "four")
    expected = packed(tokens), packed(tokens[:, :1])
    memory[0] = 16 * kept
    model = load_model(tmp_path / "four")
    mx.eval(expected)
    before = mx.get_active_memory()
    found = model(tokens), model(tokens[:, :1])
    mx.eval(found)
    assert all(mx.allclose(ours, theirs, atol=1e-4) for ours, theirs in zip(found, expected, strict=True))
    grown = mx.get_active_memory() - before - sum(array.nbytes for array in found)
    assert grown == pytest.approx(kept, rel=0.02)


def test_what_a_draft_model_keeps_unpacked_is_not_left_for_keys_and_values(tiny_folder: Path, tmp_path: Path) -> None:
    convert(tiny_folder, tmp_path / "four", bits=4, quality="rtn")
    needs = estimate(load_config(tmp_path / "four"), "float32")
    assert needs.unpacked_bytes
    rooms = []
    for draft in (None, tmp_path / "four"):
        with Llama.load(tmp_path / "four", draft=draft, memory_gb=4) as llama:
            rooms.append(llama.engine.settings.memory_bytes)
    assert rooms[0] - rooms[1] == pytest.approx(needs.resident_bytes, rel=0.001)


def test_what_is_kept_unpacked_follows_the_weights() -> None:
    packed = nn.QuantizedLinear(128, 48, bias=True)
    layer = UnpackedLinear(packed, keep=True)
    for rows in (1, 33):
        assert mx.allclose(layer(normal(rows, 128)), packed(normal(rows, 128)), atol=1e-4)
    layer["weight"] = packed["weight"] = mx.zeros_like(packed["weight"])
    assert mx.allclose(layer(normal(1, 128)), packed(normal(1, 128)), atol=1e-4)


@pytest.mark.parametrize("keep", [False, True])
def test_a_layer_that_nothing_refers_to_leaves_the_memory_at_once(keep: bool) -> None:
    """Without waiting for Python to look for cycles, which may be long after a server has unloaded a model."""
    layer = UnpackedLinear(nn.QuantizedLinear(128, 48), keep=keep)
    mx.eval(layer(normal(1, 128)), layer(normal(33, 128)))
    gone = weakref.ref(layer)
    gc.disable()
    try:
        del layer
        assert gone() is None
    finally:
        gc.enable()
