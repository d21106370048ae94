"""How much each matrix's rounding costs: the KL divergence that a scheme is expected to add.

For small errors the divergence of the next token's distribution is half the mean square of its log-likelihood's
change. A matrix whose outputs are off by d adds (1/2) sum over outputs of E[g²] E[d²], where g is the gradient of the
log-likelihood of a token drawn from the model itself (Fisher information). The gradients take one pass forwards and
one backwards, a layer at a time; E[d²] follows from the inputs' sizes and the weights' rounding errors.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ...model.quantization import Scheme
from ...model.transformer import Rope, TransformerBlock
from ..phases import Phase, unseen
from ..plan import AFFINE_SCHEMES
from ..sources.source import Source
from .activations import Activations, mapped, through
from .calibration import batches_of
from .divergence import MODULES
from .layer_reader import LayerReader

# Rows of a matrix that are rounded to learn what a scheme costs it.
_SAMPLED_ROWS = 256


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """A matrix's size and the KL divergence, in nats a token, that each scheme is expected to cost."""

    path: str
    weights: int
    costs: Mapping[Scheme, float]


def sensitivities(
    source: Source,
    windows: Sequence[Sequence[int]],
    schemes: Sequence[Scheme] = AFFINE_SCHEMES,
    seed: int = 0,
    phase: Phase = unseen,
) -> list[Sensitivity]:
    """Measure every matrix of a source; one layer's weights and each layer's inputs are in memory."""
    reader = LayerReader(source)
    rope = Rope(source.config)
    tokens = batches_of(windows)
    table = reader.tensor("model.embed_tokens.weight")
    activations: list[Activations] = [[table[batch] for batch in tokens]]
    for index in range(source.config.num_hidden_layers):
        activations.append(through(reader.block(index), activations[-1], rope))
    found: list[Sensitivity] = []
    norm = reader.tensor("model.norm.weight")
    gradients, head_rows, head_inputs = _head_gradients(reader.head(), norm, activations.pop(), source, seed)
    tied = source.config.tie_word_embeddings
    head_path = "model.embed_tokens" if tied else "lm_head"
    head = _costs(reader.head(), head_inputs, head_rows, schemes)
    layers = source.config.num_hidden_layers
    for index in reversed(range(layers)):
        phase("measuring which modules need more bits", layers - 1 - index, layers)
        block = reader.block(index)
        gradients, energies, inputs = _layer_gradients(block, rope, activations.pop(), gradients)
        for name in MODULES:
            parent, _, child = name.rpartition(".")
            weight = block[parent][child].weight
            costs = _costs(weight, inputs[name], energies[name], schemes)
            found.append(Sensitivity(f"model.layers.{index}.{name}", weight.size, costs))
    phase("measuring which modules need more bits", layers, layers)
    as_table = _table_costs(table, tokens, gradients, schemes)
    if tied:
        both = {scheme: head[scheme] + as_table[scheme] for scheme in head}
        found.append(Sensitivity(head_path, table.size, both))
    else:
        found += [Sensitivity("model.embed_tokens", table.size, as_table), Sensitivity(head_path, table.size, head)]
    return found[::-1]


def _head_gradients(
    head: mx.array, norm: mx.array, activations: Activations, source: Source, seed: int
) -> tuple[Activations, np.ndarray, np.ndarray]:
    """Return gradients to the last hidden states, each logit's mean square gradient (V,), the inputs' mean squares."""
    normed = mapped(lambda x: mx.fast.rms_norm(x, norm, source.config.rms_norm_eps), activations)
    key = mx.random.key(seed)
    gradients, energy, squares, count = [], mx.zeros(head.shape[0]), mx.zeros(head.shape[1]), 0
    for x, y in zip(activations, normed, strict=True):
        to_normed = []
        for row in y:
            key, drawn = mx.random.split(key)
            logits = row @ head.T
            p = mx.softmax(logits, axis=-1)
            token = mx.random.categorical(logits, key=drawn)
            to_normed.append(p @ head - head[token])
            energy = energy + (p * (1 - p)).sum(axis=0)
            count += row.shape[0]
            mx.eval(to_normed[-1], energy)
        squares = squares + y.square().sum(axis=(0, 1))
        _, (to_x,) = mx.vjp(lambda v: mx.fast.rms_norm(v, norm, source.config.rms_norm_eps), [x], [mx.stack(to_normed)])
        mx.eval(to_x, squares)
        gradients.append(to_x)
    return gradients, np.array(energy) / count, np.array(squares) / count


def _layer_gradients(
    block: TransformerBlock, rope: Rope, activations: Activations, gradients: Activations
) -> tuple[Activations, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return gradients to a layer's inputs, mean square gradients of its matrices' outputs, and mean square inputs."""
    taps = _Taps(block)
    energies: dict[str, mx.array] = {}
    squares: dict[str, mx.array] = {}
    before, count = [], 0
    for x, gradient in zip(activations, gradients, strict=True):
        zeros = {name: mx.zeros((*x.shape[:2], taps.rows(name))) for name in MODULES}
        _, (to_x, *to_taps) = mx.vjp(taps.run(rope), [x, *zeros.values()], [gradient])
        for name, to_tap in zip(MODULES, to_taps, strict=True):
            energies[name] = energies.get(name, 0) + to_tap.square().sum(axis=(0, 1))
        inputs = taps.inputs(rope, x)
        for name in MODULES:
            squares[name] = squares.get(name, 0) + inputs[name].square().sum(axis=(0, 1))
        mx.eval(to_x, energies, squares)
        before.append(to_x)
        count += x.shape[0] * x.shape[1]
    return (
        before,
        {name: np.array(value) / count for name, value in energies.items()},
        {name: np.array(value) / count for name, value in squares.items()},
    )


class _Tap(nn.Module):
    """A matrix whose output something is added to, and whose input is seen."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.seen: list[mx.array] = []
        self.extra: list[mx.array] = []

    def __call__(self, x: mx.array) -> mx.array:
        self.seen[:] = [x]
        y = self.linear(x)
        return y + self.extra[0] if self.extra else y


class _Taps:
    """The seven matrices of a layer, tapped."""

    def __init__(self, block: TransformerBlock) -> None:
        self.block = block
        self._taps: dict[str, _Tap] = {}

    def rows(self, name: str) -> int:
        """Return the number of outputs of a matrix."""
        parent, _, child = name.rpartition(".")
        return int(self.block[parent][child].weight.shape[0])

    def run(self, rope: Rope) -> Callable[..., mx.array]:
        """Return the layer as a function of its input and of what is added to each matrix's output."""

        def tapped(x: mx.array, *extra: mx.array) -> mx.array:
            self._set(dict(zip(MODULES, extra, strict=True)))
            try:
                return self.block(x, rope, "causal", None)
            finally:
                self._reset()

        return tapped

    def inputs(self, rope: Rope, x: mx.array) -> dict[str, mx.array]:
        """Return each matrix's input."""
        self._set({})
        try:
            self.block(x, rope, "causal", None)
            return {name: tap.seen[0] for name, tap in self._taps.items()}
        finally:
            self._reset()

    def _set(self, extra: Mapping[str, mx.array]) -> None:
        for name in MODULES:
            parent, _, child = name.rpartition(".")
            tap = _Tap(self.block[parent][child])
            tap.extra[:] = [extra[name]] if name in extra else []
            self._taps[name] = tap
            self.block[parent][child] = tap

    def _reset(self) -> None:
        for name, tap in self._taps.items():
            parent, _, child = name.rpartition(".")
            self.block[parent][child] = tap.linear


def _costs(
    weights: mx.array, squares: np.ndarray, energies: np.ndarray, schemes: Sequence[Scheme]
) -> dict[Scheme, float]:
    """Return what rounding a matrix (R, C) costs under each scheme, estimated on a sample of its rows."""
    rows, columns = weights.shape
    picked = np.linspace(0, rows - 1, min(rows, _SAMPLED_ROWS)).astype(np.int64)
    # Rows of little energy say little: energies scale the sample up to all rows.
    share = float(energies.sum()) / max(float(energies[picked].sum()), 1e-30)
    sample, size = weights[mx.array(picked)], mx.array(np.sqrt(squares))
    # Rounded as an equalized matrix is, its errors seen through the inputs' sizes.
    scale = mx.sqrt(mx.maximum(size, size.max() * 1e-3))
    energy = mx.array(energies[picked])
    costs = {}
    for scheme in schemes:
        if columns % scheme.group_size:
            continue
        kind = scheme.to_dict()
        rounded = mx.dequantize(*mx.quantize(sample * scale, **kind), **kind)
        error = ((rounded / scale - sample) * size).square().sum(axis=1)
        costs[scheme] = 0.5 * share * float(np.array((energy * error).sum()))
    return costs


def _table_costs(
    table: mx.array, tokens: Sequence[mx.array], gradients: Activations, schemes: Sequence[Scheme]
) -> dict[Scheme, float]:
    """Return what rounding the embedding costs as the table of the text's tokens."""
    costs = {}
    count = sum(batch.size for batch in tokens)
    for scheme in schemes:
        if table.shape[1] % scheme.group_size:
            continue
        kind = scheme.to_dict()
        total = 0.0
        for batch, gradient in zip(tokens, gradients, strict=True):
            rows = table[batch.reshape(-1)]
            error = mx.dequantize(*mx.quantize(rows, **kind), **kind) - rows
            total += float(np.array((error.square() * gradient.reshape(error.shape).square()).sum()))
        costs[scheme] = 0.5 * total / count
    return costs
