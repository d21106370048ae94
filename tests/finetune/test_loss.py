"""The loss: against float64 numpy, plain autodiff and PEFT on transformers; which positions count."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import torch

from llama3_mlx.finetune.data.encoding import Example
from llama3_mlx.finetune.kernels.chunked_loss import chunk_size, head_loss
from llama3_mlx.finetune.kernels.exponential import exp, gated
from llama3_mlx.finetune.kernels.forward import hidden_states
from llama3_mlx.finetune.kernels.packed_attention import PackedAttention

from ..support.finetune_fixtures import (
    adapted_model,
    furthest,
    loss_and_gradients,
    objective,
    random_examples,
    small_model,
    value,
)
from ..support.transformers_reference import our_model, reference_model, small_config


def numpy_loss(logits: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    """Weighted cross entropy in float64."""
    logits = logits.astype(np.float64)
    largest = logits.max(-1, keepdims=True)
    normalizers = np.log(np.exp(logits - largest).sum(-1)) + largest[:, 0]
    return float((weights * (normalizers - logits[np.arange(len(targets)), targets])).sum())


@pytest.mark.parametrize("chunk", [32, 7, 1000])
def test_the_chunked_loss_is_that_of_float64_numpy(chunk: int) -> None:
    rng = np.random.default_rng(0)
    h, head = rng.normal(0, 1, (50, 16)).astype(np.float32), rng.normal(0, 1, (320, 16)).astype(np.float32)
    targets, weights = rng.integers(0, 320, 50), rng.random(50).astype(np.float32)
    w = mx.array(head)
    loss = head_loss(
        lambda _, x: x @ w.T, {}, mx.array(h), mx.array(targets.astype(np.int32)), mx.array(weights), chunk=chunk
    )
    assert value(loss) == pytest.approx(numpy_loss(h.astype(np.float64) @ head.T, targets, weights), rel=1e-6)


def test_the_gradients_of_the_chunked_loss_are_those_of_plain_autodiff() -> None:
    rng = np.random.default_rng(0)
    h, head = (mx.array(rng.normal(0, 1, shape).astype(np.float32)) for shape in ((50, 16), (320, 16)))
    targets, weights = mx.array(rng.integers(0, 320, 50).astype(np.int32)), mx.array(rng.random(50).astype(np.float32))

    def ours(h: mx.array, head: mx.array) -> mx.array:
        return head_loss(lambda p, x: x @ p["w"].T, {"w": head}, h, targets, weights, chunk=32) * 0.3

    def plain(h: mx.array, head: mx.array) -> mx.array:
        return (nn.losses.cross_entropy(h @ head.T, targets) * weights).sum() * 0.3

    for mine, theirs in zip(mx.grad(ours, (0, 1))(h, head), mx.grad(plain, (0, 1))(h, head), strict=True):
        assert furthest(mine, theirs) < 1e-5


def test_a_chunk_of_a_large_vocabulary_fits_its_budget() -> None:
    assert chunk_size(128256, 2048) * 128256 * 4 <= 128 * 2**20
    assert chunk_size(128256, 2048) >= 32
    assert chunk_size(10**7, 2048) == 32


def test_a_chunk_of_a_small_vocabulary_is_no_longer_than_a_row() -> None:
    assert chunk_size(320, 96) == 96


def masked_attention(q: mx.array, k: mx.array, v: mx.array, segments: np.ndarray) -> mx.array:
    """MLX's own attention with an explicit mask."""
    length = segments.shape[1]
    mask = (segments[:, :, None] == segments[:, None]) & np.tril(np.ones((length, length), bool))
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=0.25, mask=mx.array(mask[:, None]))


def test_packed_attention_and_its_gradients_are_those_of_masked_attention() -> None:
    rng = np.random.default_rng(0)
    lengths = [40, 70, 3, 60, 20]
    segments = np.stack([np.repeat(np.arange(1, 6), lengths), np.repeat(np.arange(1, 6), lengths[::-1])])
    shapes = ((2, 6, 193, 16), (2, 2, 193, 16), (2, 2, 193, 16), (2, 6, 193, 16))
    q, k, v, c = (mx.array(rng.normal(0, 1, shape).astype(np.float32)) for shape in shapes)
    attention = PackedAttention(mx.array(segments.astype(np.int32)), longest=70)

    def ours(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        return (attention.attend(q, k, v, scale=0.25) * c).sum()

    def plain(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        return (masked_attention(q, k, v, segments) * c).sum()

    (mine, my_grads), (theirs, their_grads) = (mx.value_and_grad(f, (0, 1, 2))(q, k, v) for f in (ours, plain))
    assert mine.item() == pytest.approx(theirs.item(), rel=1e-5)
    for a, b in zip(my_grads, their_grads, strict=True):
        assert furthest(a, b) < 1e-5


def test_packed_rows_give_each_example_the_loss_it_has_alone() -> None:
    model, examples = adapted_model(small_model()), random_examples(12)
    packed = objective(examples, batch_size=4)
    assert packed.per_epoch == 1
    for example in examples:
        alone, _ = loss_and_gradients(model, objective([example], batch_size=1))
        tokens = mx.array(example.ids[None, :-1])
        logits = np.array(model(tokens)[0])
        expected = numpy_loss(logits, example.ids[1:], example.is_target[1:].astype(np.float64))
        assert alone == pytest.approx(expected, rel=1e-5)
    together, _ = loss_and_gradients(model, packed)
    each = sum(loss_and_gradients(model, objective([example], batch_size=1))[0] for example in examples)
    assert together == pytest.approx(each, rel=1e-5)


def test_an_example_in_a_row_is_not_touched_by_its_neighbors() -> None:
    model, examples = small_model(), random_examples(3, low=30, high=40)
    tokens, segments = np.zeros((1, 128), np.int32), np.zeros((1, 128), np.int32)
    at = 0
    for number, example in enumerate(examples, start=1):
        tokens[0, at : at + example.length], segments[0, at : at + example.length] = example.ids[:-1], number
        at += example.length
    packed = np.array(hidden_states(model, mx.array(tokens), mx.array(segments), longest=40))[0]
    at = 0
    for example in examples:
        alone = np.array(model.hidden(mx.array(example.ids[None, :-1])))[0]
        assert np.abs(packed[at : at + example.length] - alone).max() < 1e-5
        at += example.length


def test_a_text_of_n_tokens_counts_n_minus_one_targets() -> None:
    example = Example(np.arange(20, dtype=np.int32), np.ones(20, bool))
    made = objective([example], batch_size=1).batch(0)
    assert made.count == 19
    counted = made.arrays["weights"] > 0
    assert made.arrays["targets"][counted].tolist() == list(range(1, 20))


def test_every_row_is_trained_in_every_epoch() -> None:
    examples = random_examples(23)
    for packing in (True, False):
        made = objective(examples, packing=packing)
        for epoch in range(3):
            seen = [w for i in range(made.per_epoch) for w in made.batch(epoch * made.per_epoch + i).where]
            assert sorted(seen) == sorted(example.where for example in examples)


def test_the_batches_of_an_epoch_follow_from_the_seed_and_differ_between_epochs() -> None:
    examples = random_examples(40)
    one, two, other = objective(examples, seed=1), objective(examples, seed=1), objective(examples, seed=2)
    assert [one.batch(i).where for i in range(10)] == [two.batch(i).where for i in range(10)]
    assert [one.batch(i).where for i in range(3)] != [other.batch(i).where for i in range(3)]
    assert one.batch(0).where != one.batch(one.per_epoch).where


@pytest.mark.parametrize("keep", ["light", "full"])
@pytest.mark.parametrize("options", [{}, {"dora": True}, {"dropout": 0.3}])
def test_what_is_kept_for_the_backward_pass_does_not_change_gradients(keep: str, options: dict[str, Any]) -> None:
    examples = random_examples(6)
    model = adapted_model(small_model(), **options)
    loss, grads = loss_and_gradients(model, objective(examples, keep="none"))
    other_loss, other_grads = loss_and_gradients(model, objective(examples, keep=keep))
    assert other_loss == pytest.approx(loss, rel=1e-6)
    for name, grad in grads.items():
        assert np.abs(other_grads[name] - grad).max() < 1e-5 * max(1, np.abs(grad).max()), name


def test_gradients_are_those_of_autodiff_through_the_plain_model() -> None:
    model, examples = adapted_model(small_model()), random_examples(1, low=50)
    _, grads = loss_and_gradients(model, objective(examples, batch_size=1))
    example = examples[0]

    def plain(params: Any) -> mx.array:
        model.update(params)
        losses = nn.losses.cross_entropy(model(mx.array(example.ids[None, :-1]))[0], mx.array(example.ids[1:]))
        return (losses * mx.array(example.is_target[1:])).sum()

    params = model.trainable_parameters()
    from llama3_mlx.trees import flatten

    for name, grad in flatten(mx.grad(plain)(params)):
        assert np.abs(grads[name] - np.array(grad)).max() < 1e-5 * max(1, np.abs(np.array(grad)).max()), name


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT calls what transformers has renamed.
@pytest.mark.parametrize("use_dora", [False, True])
def test_gradients_of_a_and_b_are_those_of_peft_on_transformers(use_dora: bool) -> None:
    from peft import LoraConfig, get_peft_model

    reference = reference_model(small_config())
    model = adapted_model(our_model(reference), dora=use_dora)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", use_dora=use_dora)
    theirs = get_peft_model(reference, config)
    named = dict(theirs.named_parameters())
    from llama3_mlx.trees import flatten

    def their_name(name: str) -> str:
        path, _, key = name.rpartition(".")
        ending = {"lora_a": "lora_A.default.weight", "lora_b": "lora_B.default.weight"}
        return f"base_model.model.{path}.{ending.get(key, 'lora_magnitude_vector.default.weight')}"

    with torch.no_grad():
        for name, array in flatten(model.trainable_parameters()):
            values = torch.from_numpy(np.array(array))
            named[their_name(name)].copy_(values if name.endswith(".m") else values.T)
    example = random_examples(1, low=50, high=60)[0]
    labels = torch.from_numpy(np.where(example.is_target, example.ids, -100).astype(np.int64))[None]
    output = theirs(input_ids=torch.from_numpy(example.ids.astype(np.int64))[None], labels=labels)
    (output.loss * example.n_targets).backward()
    loss, grads = loss_and_gradients(model, objective([example], batch_size=1))
    assert loss == pytest.approx(output.loss.item() * example.n_targets, rel=1e-5)
    for name, grad in grads.items():
        gradient = named[their_name(name)].grad
        assert gradient is not None
        expected = gradient.numpy() if name.endswith(".m") else gradient.numpy().T
        assert np.abs(grad - expected).max() < 1e-4 * max(1, np.abs(expected).max()), name


def test_the_exponential_function_is_that_of_float64_numpy() -> None:
    x = np.linspace(-85, 88, 100_001, dtype=np.float32)
    expected = np.exp(x.astype(np.float64))
    # The argument itself is rounded when it is made a power of two: by half a digit of |x| log2(e).
    allowed = expected * (1e-6 + np.abs(x) * 2.0**-23) + 2.0**-125
    assert np.all(np.abs(np.array(exp(mx.array(x))) - expected) < allowed)
    ends = np.array(exp(mx.array([-np.inf, -1000.0, 0.0, np.nan], mx.float32)))
    assert ends[:3].tolist() == [0.0, 0.0, 1.0] and np.isnan(ends[3])


def test_the_gated_product_and_its_gradients_are_those_of_mlx_silu() -> None:
    gate, up, weight = (mx.random.normal((50, 30)) * scale for scale in (20.0, 1.0, 1.0))

    def total(product: Any) -> Any:
        return mx.value_and_grad(lambda gate, up: (product(gate, up) * weight).sum(), argnums=(0, 1))(gate, up)

    (ours, our_gradients), (theirs, their_gradients) = total(gated), total(lambda gate, up: nn.silu(gate) * up)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    for mine, plain in zip(our_gradients, their_gradients, strict=True):
        np.testing.assert_allclose(mine, plain, atol=1e-5)
