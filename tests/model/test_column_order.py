"""Matrices by columns: the same values and logits, in another order in memory."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from llama3_mlx.checkpoint.loading import load_model
from llama3_mlx.convert import convert
from llama3_mlx.model.column_order import by_columns

from ..support.small_chat import save_small_chat


def lies_by_columns(matrix: mx.array) -> bool:
    rows, columns = np.array(matrix, copy=False).strides
    return bool(rows < columns)


def test_a_matrix_by_columns_is_equal() -> None:
    matrix = mx.random.normal((48, 80))
    turned = by_columns(matrix)
    mx.eval(turned)
    assert (lies_by_columns(matrix), lies_by_columns(turned)) == (False, True)
    np.testing.assert_array_equal(np.array(turned), np.array(matrix))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bits", [None, 4])
def test_a_loaded_model_multiplies_by_columns(
    tied: bool, bits: int | None, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = save_small_chat(tmp_path / "small", tie_word_embeddings=tied)
    if bits is not None:
        convert(folder, tmp_path / "packed", bits=bits)
        folder = tmp_path / "packed"
    tokens = mx.array([[1, 2, 3]])
    model: Any = load_model(folder, dtype="float32")
    logits = model(tokens, model.make_cache())
    block = model.model.layers[0]
    head = model.model.embed_tokens if tied else model.lm_head
    if bits is None:
        assert all(map(lies_by_columns, (block.mlp.down_proj.weight, block.self_attn.o_proj.weight, head.weight)))
        assert tied or not lies_by_columns(model.model.embed_tokens.weight)
    else:
        assert all(lies_by_columns(layer._products._unpacked) for layer in (block.self_attn.o_proj, head))
    request.getfixturevalue("gpu_branches")
    plain: Any = load_model(folder, dtype="float32")
    if bits is None:
        assert not lies_by_columns(plain.model.layers[0].mlp.down_proj.weight)
    assert mx.allclose(plain(tokens, plain.make_cache()), logits, atol=1e-4)
