"""Trains the scales, biases and norms of a calibrated model so that its next-token distributions become the source's.

Codes stay as they are. What is trained are small relative changes, all zero at the beginning: of each group's scale,
of its bias in steps of the scale, of each norm's weight. The loss is the KL divergence from the source, over the whole
vocabulary; the source is needed only for its last hidden states, which are made once, a layer at a time.

Source: the idea of DWQ, mlx-lm's `quant/dwq.py`: distilled scales and biases.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import RLock
from typing import Any

import mlx.core as mx
import mlx.optimizers as optimizers
import numpy as np
from mlx.utils import tree_map, tree_unflatten

from ...checkpoint.reader import dequantize
from ...dtypes import MLX_FLOATS
from ...errors import ConversionError
from ...model.quantization import Scheme
from ...model.transformer import Rope, TransformerBlock
from ..phases import Phase, unseen
from ..plan import Plan
from ..sources.source import Source
from .calibration import Calibration
from .divergence import last_hidden
from .dtypes import as_float32
from .layer_reader import LayerReader
from .quantizer import Packed

# Positions whose logits are in memory at a time.
_POSITIONS = 128

Changes = dict[str, mx.array]
Parameters = dict[str, Changes]


@dataclass(frozen=True)
class DistillationSettings:
    """How long and how fast the training goes."""

    epochs: int = field(default=2, metadata={"help": "passes over the windows"})
    rate: float = field(default=1e-4, metadata={"help": "first learning rate, of relative changes; falls to zero"})
    held_out: int = field(default=3, metadata={"help": "windows that aren't trained on but choose what is kept"})
    seed: int = 0


class FrozenCodes:
    """A quantized matrix whose scales and biases can be changed."""

    def __init__(self, parts: Packed, scheme: Scheme) -> None:
        packed, scales, biases = parts
        self.packed, self.scheme = packed, scheme
        self.scales, self.biases = scales.astype(mx.float32), biases.astype(mx.float32)

    def begin(self) -> Changes:
        """Return changes that change nothing."""
        return {"gain": mx.zeros(self.scales.shape), "shift": mx.zeros(self.scales.shape)}

    def grid(self, changes: Changes) -> tuple[mx.array, mx.array]:
        """Return scales and biases (R, C / group size)."""
        return self.scales * (1 + changes["gain"]), self.biases + self.scales * changes["shift"]

    def weights(self, changes: Changes) -> mx.array:
        """Return the values (R, C), differentiable in the changes."""
        ones, zeros = mx.ones(self.scales.shape), mx.zeros(self.scales.shape)
        codes = mx.dequantize(self.packed, ones, zeros, group_size=self.scheme.group_size, bits=self.scheme.bits)
        scales, biases = self.grid(changes)
        groups = codes.reshape(*scales.shape, self.scheme.group_size)
        return (groups * scales[..., None] + biases[..., None]).reshape(codes.shape)


class Student:
    """The quantized model as a function of changes. `tensors` by module path or name, quantized ones `FrozenCodes`."""

    def __init__(self, plan: Plan, tensors: Mapping[str, "mx.array | FrozenCodes"], teacher_head: mx.array) -> None:
        self.config, self.tensors, self._teacher_head = plan.config, tensors, teacher_head
        self._rope = Rope(plan.config)
        self._block = TransformerBlock(plan.config)

    def begin(self) -> Parameters:
        """Return changes of every matrix and norm, all zero."""
        parameters: Parameters = {}
        for path, tensor in self.tensors.items():
            if isinstance(tensor, FrozenCodes):
                parameters[path] = tensor.begin()
            elif path.endswith("norm.weight"):
                parameters[path] = {"gain": mx.zeros(tensor.shape)}
        return parameters

    def weights(self, path: str, parameters: Parameters) -> mx.array:
        """Return a changed matrix or norm."""
        tensor = self.tensors[path]
        if isinstance(tensor, FrozenCodes):
            return tensor.weights(parameters[path])
        return tensor * (1 + parameters[path]["gain"]) if path in parameters else tensor

    def loss(self, parameters: Parameters, ids: mx.array, teacher: mx.array) -> mx.array:
        """Return the mean KL divergence from the teacher, whose last hidden states (B, L, D) are given."""
        table = self.weights("model.embed_tokens", parameters)
        h = table[ids]
        for index in range(self.config.num_hidden_layers):
            prefix = f"model.layers.{index}."
            own = {path: changes for path, changes in parameters.items() if path.startswith(prefix)}
            h = mx.checkpoint(self._layer(prefix))(h, own)
        h = mx.fast.rms_norm(h, self.weights("model.norm.weight", parameters), self.config.rms_norm_eps)
        head = table if self.config.tie_word_embeddings else self.weights("lm_head", parameters)
        h, teacher = h.reshape(-1, h.shape[-1]), teacher.reshape(-1, h.shape[-1])
        total = mx.array(0.0)
        for start in range(0, ids.size, _POSITIONS):
            part = slice(start, start + _POSITIONS)
            total = total + mx.checkpoint(self._divergence)(h[part], head, teacher[part])
        return total / ids.size

    def _layer(self, prefix: str) -> Any:
        names = [name for name in self.tensors if name.startswith(prefix)]

        def run(h: mx.array, parameters: Parameters) -> mx.array:
            changed = [(_parameter(name).removeprefix(prefix), self.weights(name, parameters)) for name in names]
            self._block.update(tree_unflatten(changed))
            return self._block(h, self._rope, "causal", None)

        return run

    def _divergence(self, h: mx.array, head: mx.array, teacher: mx.array) -> mx.array:
        p, q = teacher @ self._teacher_head.T, h @ head.T
        p = p - mx.logsumexp(p, axis=-1, keepdims=True)
        q = q - mx.logsumexp(q, axis=-1, keepdims=True)
        return (mx.exp(p) * (p - q)).sum()


class Distillation:
    """The quantizer of a distilled conversion: trains once, when the first matrix or norm is requested."""

    def __init__(
        self,
        source: Source,
        equalized: Source,
        calibration: Calibration,
        plan: Plan,
        windows: Sequence[Sequence[int]],
        settings: DistillationSettings | None = None,
        phase: Phase = unseen,
    ) -> None:
        self.settings = settings or DistillationSettings()
        if len(windows) <= self.settings.held_out:
            raise ConversionError(f"the calibration text has {len(windows)} windows, too few to distill")
        self.name = calibration.name.replace("calibrated", "distilled", 1)
        self._source, self._equalized, self._calibration, self._plan = source, equalized, calibration, plan
        self._windows = [mx.array([list(window)]) for window in windows]
        self._student: Student | None = None
        self._found: Parameters = {}
        self._lock = RLock()
        self._phase = phase

    def __call__(self, tensor: str, start: int, rows: mx.array, scheme: Scheme) -> Packed:
        """Return packed weight, trained scales and biases of rows of a matrix."""
        matrix = self._trained().tensors[tensor]
        if not isinstance(matrix, FrozenCodes):
            return self._calibration(tensor, start, rows, scheme)
        part, dtype = slice(start, start + rows.shape[0]), MLX_FLOATS[self._plan.dtype]
        scales, biases = matrix.grid(self._found[tensor])
        return matrix.packed[part], scales[part].astype(dtype), biases[part].astype(dtype)

    def norm(self, name: str) -> np.ndarray:
        """Return a trained norm's weight in float32."""
        return np.array(self._trained().weights(name, self._found))

    def _trained(self) -> Student:
        with self._lock:
            if self._student is None:
                teacher = last_hidden(LayerReader(self._source), self._windows)
                student = Student(self._plan, self._quantized(), LayerReader(self._source).head())
                self._found = trained(student, self._windows, teacher, self.settings, self._phase)
                self._student = student
            return self._student

    def _quantized(self) -> dict[str, "mx.array | FrozenCodes"]:
        """Return the calibrated model's tensors, those that can be trained as `FrozenCodes`."""
        tensors: dict[str, mx.array | FrozenCodes] = {}
        dtype = MLX_FLOATS[self._plan.dtype]
        for ref in self._equalized.tensors():
            rows = mx.array(as_float32(ref.read(0, ref.rows), ref.dtype)).astype(dtype)
            path = ref.name.removesuffix(".weight")
            scheme = self._plan.schemes.get(path) if path != ref.name else None
            if scheme is None:
                # A norm keeps its name; a matrix or a bias goes under its module's path or name.
                tensors[ref.name if len(ref.shape) == 1 else path] = rows.astype(mx.float32)
                continue
            parts = self._calibration(path, 0, rows, scheme)
            tensors[path] = (
                FrozenCodes(parts, scheme) if scheme.mode == "affine" else mx.array(dequantize([*parts], scheme))
            )
            mx.eval(parts)
        return tensors


def trained(
    student: Student,
    windows: Sequence[mx.array],
    teacher: Sequence[mx.array],
    settings: DistillationSettings,
    phase: Phase = unseen,
) -> Parameters:
    """Return the changes that are best on the held-out windows, which may be none."""
    few = min(settings.held_out, len(windows) - 1)
    held_out, rest = list(range(0, len(windows), max(1, len(windows) // few)))[:few], range(len(windows))
    order = [index for index in rest if index not in held_out]
    parameters = kept = student.begin()
    best = _held_out_loss(student, parameters, [(windows[i], teacher[i]) for i in held_out])
    steps = settings.epochs * len(order)
    optimizer = optimizers.Adam(optimizers.cosine_decay(settings.rate, steps), bias_correction=True)
    gradient = mx.value_and_grad(student.loss)
    shuffled = np.random.default_rng(settings.seed)
    for epoch in range(settings.epochs):
        for at, index in enumerate(shuffled.permutation(order)):
            phase("distilling", epoch * len(order) + at, steps)
            loss, gradients = gradient(parameters, windows[index], teacher[index])
            parameters = optimizer.apply_gradients(gradients, parameters)
            mx.eval(loss, parameters, optimizer.state)
        now = _held_out_loss(student, parameters, [(windows[i], teacher[i]) for i in held_out])
        if now < best:
            best, kept = now, tree_map(lambda value: value, parameters)
    phase("distilling", steps, steps)
    return kept


def _held_out_loss(student: Student, parameters: Parameters, pairs: Sequence[tuple[mx.array, mx.array]]) -> float:
    return sum(float(np.array(student.loss(parameters, ids, hidden))) for ids, hidden in pairs) / len(pairs)


def _parameter(name: str) -> str:
    """Return the parameter of a module path; norms and biases have their own names."""
    return name if name.endswith((".weight", ".bias")) else f"{name}.weight"
