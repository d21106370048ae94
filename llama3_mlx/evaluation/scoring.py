"""Log-likelihoods of continuations: shared prefixes computed once, rows batched, the head on continuations alone."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ..device import back_end, bounded_cache
from ..errors import CheckpointError
from ..llama import Llama
from ..model.transformer import LlamaForCausalLM
from .branches import RowLayer, Stem, run_leaves, run_rows
from .sharing import Continuation, Row, batches, make_clusters, make_rows

Progress = Callable[[int], None]
# Key positions of all rows of a forward pass together.
_MAX_KEYS = 65536


class Score(NamedTuple):
    """Of a continuation: its log-likelihood, and whether greedy decoding would write it."""

    logprob: float
    is_greedy: bool


# (index of the row in the batch, position in the row, token that follows, number of the request)
_Pair = tuple[int, int, int, int]


def score_continuations(
    llama: Llama,
    requests: Sequence[Continuation],
    progress: Progress | None = None,
    *,
    max_tokens: int | None = None,
    max_keys: int = _MAX_KEYS,
) -> list[Score]:
    """Return the scores of continuations, in the order of the requests.

    Args:
        llama: The model; an adapter that it was loaded with is applied.
        requests: What is to be scored.
        progress: Called with the number of requests that each batch has scored.
        max_tokens: New tokens of a forward pass, padding included; by default what suits the device.
        max_keys: Key positions of all its rows together.

    Raises:
        CheckpointError: The model's predictions are not finite.
    """
    max_tokens = max_tokens or back_end().scored_tokens
    scorer = _Scorer(llama, requests, max_tokens, max_keys)
    with bounded_cache():
        if llama.n_nodes > 1:
            # The others have caches of whole sequences alone, no rows over a stem.
            for number in sorted(range(len(requests)), key=lambda number: requests[number].context):
                scorer.add_alone(number)
                if progress is not None:
                    progress(1)
            return scorer.scores()
        for cluster in make_clusters(make_rows(requests)):
            for rows in batches(cluster, max_tokens, max_keys):
                scorer.add(rows, cluster.stem)
                if progress is not None:
                    progress(sum(len(row.uses) for row in rows))
    return scorer.scores()


class _Scorer:
    """Runs batches on the engine's thread and sums what they give to each request."""

    def __init__(self, llama: Llama, requests: Sequence[Continuation], max_tokens: int, max_keys: int) -> None:
        self._llama, self._requests = llama, requests
        self._max_tokens, self._max_keys = max_tokens, max_keys
        self._stem = llama.compute(lambda model: Stem(model, max_tokens))
        self._sums = np.zeros(len(requests))
        self._greedy = np.ones(len(requests), bool)

    def scores(self) -> list[Score]:
        """Return what all batches gave; raises CheckpointError where it is no number."""
        if not np.isfinite(self._sums).all():
            raise CheckpointError(
                f"the predictions of {self._llama.folder.name} are not finite: its weights are damaged or overflow the "
                "dtype"
            )
        return [Score(float(total), bool(greedy)) for total, greedy in zip(self._sums, self._greedy, strict=True)]

    def add(self, rows: Sequence[Row], stem: int) -> None:
        """Run rows that share `stem` tokens."""
        self._llama.compute(lambda model: self._run(model, rows, stem))

    def add_alone(self, number: int) -> None:
        """Run a request by itself; what it shares with the one before isn't run again."""

        def run(model: LlamaForCausalLM) -> None:
            request = self._requests[number]
            ids, first = (*request.context, *request.tokens[:-1]), len(request.context) - 1
            shared = min(self._stem.shared(ids), first)
            self._stem.trim(shared)
            h = self._stem.run(ids[shared:], first - shared)[None]
            self._score(model, h, ((0, at, token, number) for at, token in enumerate(request.tokens)))

        self._llama.compute(run)

    def _run(self, model: LlamaForCausalLM, rows: Sequence[Row], stem: int) -> None:
        self._stem.set(rows[0].ids[:stem])
        layers: list[RowLayer] | None = None
        if len(rows) == 1:
            # A row by itself becomes part of the stem, in pieces if it is long.
            h, start = self._stem.run(rows[0].ids[stem:], rows[0].first - stem)[None], rows[0].first
        else:
            own, keeps, start = [row.ids[stem:] for row in rows], any(row.leaves for row in rows), stem
            h, layers = run_rows(model, self._stem, own, keeps=keeps)
            # What leaves need is copied now, not when they come: until then it would hold what it is copied from.
            mx.eval(h, [layer.own for layer in layers])
        self._score(model, h, self._row_pairs(rows, start))
        for part in self._leaf_batches(rows):
            leaves = [rows[index].leaves[number] for index, number in part]
            if layers is None:
                h, _ = run_rows(model, self._stem, leaves, keeps=False)
            else:
                parents = [index for index, _ in part]
                lengths = [len(rows[index].ids) - stem for index in parents]
                h = run_leaves(model, self._stem, leaves, layers, parents, lengths)
            self._score(model, h, self._leaf_pairs(rows, part))

    def _row_pairs(self, rows: Sequence[Row], start: int) -> Iterator[_Pair]:
        """Yield what the rows' own predictions give; hidden states begin at position `start`."""
        for index, row in enumerate(rows):
            for use in row.uses:
                tokens = self._requests[use.request].tokens
                for at, token in enumerate(tokens if use.leaf is None else tokens[:1], row.first - start):
                    yield index, at, token, use.request

    def _leaf_pairs(self, rows: Sequence[Row], part: Sequence[tuple[int, int]]) -> Iterator[_Pair]:
        """Yield what the leaves' predictions give."""
        places = {leaf: index for index, leaf in enumerate(part)}
        for index in {index for index, _ in part}:
            for use in rows[index].uses:
                if use.leaf is not None and (index, use.leaf) in places:
                    for at, token in enumerate(self._requests[use.request].tokens[1:]):
                        yield places[index, use.leaf], at, token, use.request

    def _score(self, model: LlamaForCausalLM, h: mx.array, pairs: Iterable[_Pair]) -> None:
        """Add the log-probabilities of tokens that follow hidden states (B, L, D); the head runs once a state."""
        width, listed = h.shape[1], list(pairs)
        places, which = np.unique([row * width + at for row, at, _, _ in listed], return_inverse=True)
        tokens, requests = (np.array([pair[at] for pair in listed]) for at in (2, 3))
        states = h.reshape(-1, h.shape[-1])[mx.array(places.astype(np.int32))]
        size = max(1, back_end().loss_chunk_bytes // (4 * model.config.vocab_size))
        for start in range(0, len(places), size):
            chosen = np.flatnonzero((which >= start) & (which < start + size))
            logits = model.head(states[start : start + size]).astype(mx.float32)
            lines, following = (
                mx.array((which[chosen] - start).astype(np.int32)),
                mx.array(tokens[chosen].astype(np.int32)),
            )
            logprobs = logits[lines, following] - mx.logsumexp(logits, axis=-1)[lines]
            greedy = logits.argmax(axis=-1)[lines] == following
            mx.eval(logprobs, greedy)
            np.add.at(self._sums, requests[chosen], np.array(logprobs, np.float64))
            np.logical_and.at(self._greedy, requests[chosen], np.array(greedy))

    def _leaf_batches(self, rows: Sequence[Row]) -> Iterator[list[tuple[int, int]]]:
        """Yield (row, number of its leaf) of leaves that are run together, the longest first."""
        leaves = [(index, number) for index, row in enumerate(rows) for number in range(len(row.leaves))]
        leaves.sort(key=lambda leaf: -len(rows[leaf[0]].leaves[leaf[1]]))
        longest_row = max(len(row.ids) for row in rows)
        while leaves:
            longest = len(rows[leaves[0][0]].leaves[leaves[0][1]])
            size = max(1, min(self._max_tokens // longest, self._max_keys // (longest_row + longest)))
            yield leaves[:size]
            leaves = leaves[size:]
