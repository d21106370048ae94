"""Training of a draft head: it drafts several tokens at every position, each from its own output of the one before.

At position t the head reads the target's hidden states there and token t + 1. Its k-th drafted token is token
t + 1 + k, of which it should say what the target itself does, over the reduced vocabulary. The tokens that
it reads are those of the data, which a draft whose tokens were all accepted has, too. The loss is the sum over drafted
tokens of the cross entropy, with the weights `step_weight`^(k - 1), over the assistant's tokens only; a position whose
most likely token isn't in the reduced vocabulary counts in no loss.

Sources: https://arxiv.org/abs/2503.01840, section 3.2 (training-time test); SafeAILab/EAGLE
`eagle/traineagle3/cnets.py` (targets, positions, which tokens count) and `main.py` (weights).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ...device import back_end
from ...model.feature_tap import FeatureTap
from ...model.transformer import LlamaForCausalLM
from ...speculation.eagle_head import EagleHead
from ...trees import Tree
from .. import distributed
from ..data.encoding import Example
from ..kernels.chunked_loss import Head, chunk_size
from ..kernels.draft_attention import DraftAttention, KeysAndValues
from ..kernels.exponential import exp, log_sum_exp
from ..kernels.forward import checkpointed, hidden_states
from ..kernels.packed_attention import PackedAttention
from ..kernels.soft_loss import soft_head_loss
from .objective import Loss, TrainBatch
from .sequences import sequences_fingerprint
from .supervised import CPU_FILLING, RowObjective, RowShape

# The name of the head in its target while it is trained.
HEAD = "draft_head"


@dataclass(frozen=True)
class DraftSteps:
    """How many drafted tokens are trained, and the weight of each further one in the loss."""

    n: int
    weight: float


@dataclass(frozen=True)
class Teaching:
    """What the target says where a token is to be predicted: probabilities (n, reduced V) that sum to one.

    `mass` (n,) is what share of its whole distribution they are, `best` (n,) its most likely token, as an id of
    the reduced vocabulary or -1.
    """

    probabilities: mx.array
    mass: mx.array
    best: mx.array


class DraftObjective(RowObjective):
    """Cross entropy with the target's distributions, over packed rows. The head is a module of its frozen target."""

    def __init__(
        self,
        examples: Sequence[Example],
        valid: Sequence[Example],
        test: Sequence[Example] = (),
        *,
        token_ids: Sequence[int],
        steps: DraftSteps,
        shape: RowShape,
        vocab_size: int,
        packing: bool = True,
        keep: str = "none",
        seed: int = 0,
    ) -> None:
        """`token_ids` are the target's of the reduced vocabulary, in its order."""
        self.steps, self.keep, self.token_ids = steps, keep, token_ids
        self.chunk = chunk_size(vocab_size, shape.length)
        self._arrange((examples, valid, test), shape, packing=packing, seed=seed)
        numbers = np.full(vocab_size, -1, np.int32)
        numbers[np.asarray(token_ids)] = np.arange(len(token_ids), dtype=np.int32)
        self.constants = {"ids": mx.array(list(token_ids), mx.int32), "numbers": mx.array(numbers)}

    def _length(self, example: Example) -> int:
        return len(example.ids)

    def _made(self, examples: Sequence[Example], rows: Sequence[Sequence[int]]) -> TrainBatch:
        mine = rows[distributed.rank() :: distributed.size()]
        filling = self.chunk if back_end().compiles_steps else CPU_FILLING
        arrays = draft_arrays(examples, mine, self._row_length(examples, rows), self.steps.n, filling)
        count = int(arrays["weights"][0].sum())
        where = tuple(examples[number].where for row in mine for number in row)
        return TrainBatch(arrays, count, int((arrays["segments"] > 0).sum()), count, where)

    def loss(self, model: LlamaForCausalLM, arrays: Mapping[str, mx.array], constants: Tree) -> Loss:
        head: EagleHead = model[HEAD]
        packed = PackedAttention(arrays["segments"], self.shape.longest)
        states, teaching = self._taught(model, head, packed, arrays, constants)
        embedding = head.embed_tokens if head.config.own_embedding else model.model.embed_tokens
        embedded = mx.stop_gradient(embedding(arrays["tokens"])).astype(mx.float32)
        apply, params = head_function(head)
        h, earlier, total = head.fuse(states), list[KeysAndValues](), mx.array(0.0)
        outcomes = _Outcomes(h.shape[0] * h.shape[1])
        for step in range(self.steps.n):
            h, added = self._drafted(head, packed, _shifted(embedded, step + 1), h, earlier)
            earlier.append(added)
            rows, weights = arrays["rows"][step], arrays["weights"][step]
            part, best, overlap = soft_head_loss(
                apply,
                params,
                h.reshape(-1, h.shape[-1])[rows],
                teaching.probabilities,
                weights * (teaching.best >= 0),
                mass=teaching.mass,
                chunk=self.chunk,
            )
            total = total + self.steps.weight**step * part
            outcomes.add(rows, weights, best == teaching.best, overlap)
        return total, outcomes.sums

    def _taught(
        self,
        model: LlamaForCausalLM,
        head: EagleHead,
        packed: PackedAttention,
        arrays: Mapping[str, mx.array],
        constants: Tree,
    ) -> tuple[mx.array, Teaching]:
        """Run the target once: its hidden states (B, L, n D) and what it says of the positions that are learned."""
        tap = FeatureTap(head.config.depths_in(model.config.num_hidden_layers))
        tokens, segments, longest = arrays["tokens"], arrays["segments"], self.shape.longest
        h = hidden_states(model, tokens, segments, longest=longest, keep="none", attention=packed, tap=tap)
        h = h.reshape(-1, h.shape[-1])[arrays["positions"]]
        teaching = teach(model, mx.stop_gradient(h), constants, self.chunk)
        return mx.stop_gradient(tap.take()).astype(mx.float32), teaching

    def _drafted(
        self, head: EagleHead, packed: PackedAttention, embedded: mx.array, h: mx.array, earlier: list[KeysAndValues]
    ) -> tuple[mx.array, KeysAndValues]:
        """Return the head's output (B, L, D) for the next drafted token, and the keys and values that it adds."""

        def run(embedded: mx.array, h: mx.array, *flat: mx.array) -> tuple[mx.array, mx.array, mx.array]:
            attention = DraftAttention(packed, list(zip(flat[::2], flat[1::2], strict=True)))
            output = head(embedded, h, attention)
            assert attention.added is not None, "the layer attends"
            return output, *attention.added

        flat, block = [array for pair in earlier for array in pair], head.layers[0]
        if self.keep == "none":
            made = run(embedded, h, *flat)
        else:
            params = block.trainable_parameters()
            made = checkpointed([block], run, embedded, h, *flat)
            # Tracing has put its own arrays in their place, and the next drafted token runs the same layer.
            block.update(params)
        return made[0], (made[1], made[2])

    def reported(self, means: Mapping[str, float]) -> dict[str, float]:
        """Return the acceptance of each drafted token, given those before, and the tokens of a forward pass."""
        found = {}
        for kind in ("greedy", "sampled"):
            tokens, all_so_far = 1.0, 1.0
            for step in range(self.steps.n):
                # The first drafted token is tried wherever anything counts.
                accepted, tried = means[f"{kind} {step}"], means[f"{kind} tried {step}"] if step else 1.0
                share = accepted / tried if tried else 0.0
                all_so_far *= share
                tokens += all_so_far
                found[f"{kind} acceptance {step + 1}"] = share
            found[f"{kind} tokens a pass"] = tokens
        return found

    def fingerprint(self) -> str:
        digest = hashlib.sha256(np.asarray(self.token_ids, np.int64).tobytes())
        return sequences_fingerprint(self.examples) + digest.hexdigest()


class _Outcomes:
    """Sums of what drafts of the head would come to at each position, greedy and sampled at temperature 1."""

    def __init__(self, n_positions: int) -> None:
        self.sums: dict[str, mx.array] = {}
        self._n = n_positions
        self._alive = {kind: mx.ones(n_positions) for kind in ("greedy", "sampled")}
        self._number = 0

    def add(self, rows: mx.array, weights: mx.array, is_best: mx.array, overlap: mx.array) -> None:
        """Add the next drafted token: how probable (n,) it is accepted at positions `rows` where weights are 1."""
        for kind, probability in (("greedy", is_best.astype(mx.float32)), ("sampled", overlap)):
            alive = self._alive[kind]
            tried = mx.zeros(self._n).at[rows].add(weights) * alive
            accepted = mx.zeros(self._n).at[rows].add(weights * probability) * alive
            self._alive[kind] = accepted
            self.sums[f"{kind} {self._number}"] = accepted.sum()
            if self._number:
                # MLX can't compile a function that returns the same sum twice, as both kinds' first would be.
                self.sums[f"{kind} tried {self._number}"] = tried.sum()
        self._number += 1


def teach(model: LlamaForCausalLM, h: mx.array, constants: Tree, chunk: int) -> Teaching:
    """Return what the target says of hidden states (n, D), a chunk of its logits at a time."""
    made: list[tuple[mx.array, mx.array, mx.array]] = []
    for start in range(0, h.shape[0], chunk):
        part = h[start : start + chunk]
        if made:
            part = mx.depends([part], list(made[-1]))[0]
        logits = model.head(part).astype(mx.float32)
        reduced = logits[:, constants["ids"]]
        inside = log_sum_exp(reduced)
        probabilities, mass = exp(reduced - inside[:, None]), mx.exp(inside - log_sum_exp(logits))
        made.append((probabilities, mass, constants["numbers"][mx.argmax(logits, axis=-1)]))
    return Teaching(*(mx.stop_gradient(mx.concatenate(list(each))) for each in zip(*made, strict=True)))


def head_function(head: EagleHead) -> tuple[Head, Tree]:
    """Return the head's last part, of hidden states (n, D) to logits, and its trained parameters."""
    names = ("norm", "lm_head")

    def apply(parameters: Tree, h: mx.array) -> mx.array:
        for name in names:
            head[name].update(parameters.get(name, {}))
        return head.head(h)

    return apply, {name: head[name].trainable_parameters() for name in names}


def _shifted(embedded: mx.array, n: int) -> mx.array:
    """Return (B, L, D) with what stands n positions further on; past the end of the rows, zeros."""
    return mx.pad(embedded[:, n:], [(0, 0), (0, min(n, embedded.shape[1])), (0, 0)])


def draft_arrays(
    examples: Sequence[Example], rows: Sequence[Sequence[int]], length: int, n_steps: int, filling: int
) -> dict[str, np.ndarray]:
    """Return the arrays of a batch of packed rows; without rows, of one that is empty.

    tokens and segments (B, L); positions (n,), counted through the flattened rows, whose next token is learned. Of each
    drafted token k, rows (n_steps, n) are the positions that draft what is learned there, k before it, and weights are
    1 where there is one in the same example. n is filled up to a multiple of `filling` with weights of 0.
    """
    tokens = np.zeros((max(1, len(rows)), length), np.int32)
    segments = np.zeros((max(1, len(rows)), length), np.int32)
    found: list[np.ndarray] = [np.zeros((2, 0), np.int64)]
    for index, row in enumerate(rows):
        at = 0
        for segment, number in enumerate(row, start=1):
            example = examples[number]
            stop = at + len(example.ids)
            tokens[index, at:stop] = example.ids
            segments[index, at:stop] = segment
            learned = np.flatnonzero(example.is_target[1:])
            # Positions, and how many of the example lie before them.
            found.append(np.stack([index * length + at + learned, learned]))
            at = stop
    positions, before = np.concatenate(found, axis=1)
    n_filled = max(filling, -(-len(positions) // filling) * filling)
    drafted = np.arange(1, n_steps + 1)[:, None]
    weights = np.zeros((n_steps, n_filled), np.float32)
    weights[:, : len(positions)] = before >= drafted
    sources = np.zeros((n_steps, n_filled), np.int32)
    sources[:, : len(positions)] = np.maximum(positions - drafted, 0)
    filled = np.zeros(n_filled, np.int32)
    filled[: len(positions)] = positions
    return {"tokens": tokens, "segments": segments, "positions": filled, "rows": sources, "weights": weights}
