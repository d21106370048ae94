"""Which requests share which beginnings, so that every shared prefix is computed once.

Requests with the same context become one row: its context, and the continuations as leaves. Rows that begin alike form
a cluster: what they share, its stem, is computed once, and each row continues it. Which clusters to form is a trade:
every cluster costs a forward pass, every shared token is saved as often as it is shared.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..prefix_cache.memory import common_length

Ids = tuple[int, ...]
# What beginning a cluster costs beside its tokens, in tokens.
_OVERHEAD = 64
# Contexts shorter than this are repeated in a row of their own for each continuation.
_MIN_CONTEXT = 8
_MAX_DEPTH = 100


@dataclass(frozen=True, slots=True)
class Continuation:
    """A context and what is to be scored after it, in token ids; neither is empty."""

    context: Ids
    tokens: Ids


@dataclass(eq=False, slots=True)
class Row:
    """Tokens to run one after the other; predictions from index `first` on are needed."""

    ids: Ids
    first: int
    leaves: list[Ids] = field(default_factory=list)
    """Continuations of `ids`, in the places of its next tokens; each without its last token, none empty."""
    uses: list["Use"] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Use:
    """Where the predictions of a request's tokens are found: from `first` of the row, then in a leaf."""

    request: int
    leaf: int | None = None


@dataclass(frozen=True, slots=True)
class Cluster:
    """Rows that begin with the same `stem` tokens, the longest first."""

    stem: int
    rows: list[Row]


def make_rows(requests: Sequence[Continuation]) -> list[Row]:
    """Gather requests into rows; all that ask for the same tokens share theirs."""
    by_context: dict[Ids, dict[Ids, list[int]]] = {}
    for number, request in enumerate(requests):
        by_context.setdefault(request.context, {}).setdefault(request.tokens[:-1], []).append(number)
    return [row for context, endings in by_context.items() for row in _rows_of(context, endings)]


def _rows_of(context: Ids, endings: dict[Ids, list[int]]) -> Iterator[Row]:
    first = len(context) - 1
    if len(endings) > 1 and len(context) >= _MIN_CONTEXT:
        row = Row(context, first)
        for ending, numbers in endings.items():
            row.leaves += [ending] if ending else []
            row.uses += [Use(number, len(row.leaves) - 1 if ending else None) for number in numbers]
        yield row
        return
    for ending, numbers in endings.items():
        yield Row(context + ending, first, uses=[Use(number) for number in numbers])


def make_clusters(rows: Iterable[Row]) -> list[Cluster]:
    """Group rows by what they begin with, so that the fewest tokens are run."""
    ordered = sorted(rows, key=lambda row: row.ids[: row.first])
    arrays = [np.asarray(row.ids[: row.first], np.int32) for row in ordered]
    shared = [0, *(common_length(one, two) for one, two in itertools.pairwise(arrays))]
    _, found = _best(ordered, shared, 0, len(ordered), 0, 0)
    return [Cluster(stem, sorted(members, key=lambda row: -len(row.ids))) for stem, members in found]


_Plan = tuple[int, list[tuple[int, list[Row]]]]


def _best(rows: list[Row], shared: list[int], low: int, high: int, parent: int, depth: int) -> _Plan:
    """Return the cost in tokens and the clusters of rows[low:high], whose first `parent` tokens are computed."""
    if high == low:
        return 0, []
    stem = min(shared[low + 1 : high], default=rows[low].first)
    members = rows[low:high]
    together = stem - parent + _OVERHEAD + sum(len(row.ids) - stem for row in members)
    if high - low == 1 or depth == _MAX_DEPTH:
        return together, [(stem, members)]
    cuts = [low, *(at for at in range(low + 1, high) if shared[at] == stem), high]
    parts = list(itertools.pairwise(cuts))
    single = [rows[at] for at, stop in parts if stop - at == 1]
    apart = stem - parent + (_OVERHEAD + sum(len(row.ids) - stem for row in single) if single else 0)
    plans = [(stem, single)] if single else []
    for at, stop in parts:
        if stop - at > 1:
            cost, found = _best(rows, shared, at, stop, stem, depth + 1)
            apart += cost
            plans += found
    return (apart, plans) if apart < together else (together, [(stem, members)])


def batches(cluster: Cluster, max_tokens: int, max_keys: int) -> Iterator[list[Row]]:
    """Cut a cluster into batches: `max_tokens` bounds rows times new tokens, `max_keys` rows times all positions."""
    batch: list[Row] = []
    for row in cluster.rows:
        longest = len(batch[0].ids) if batch else 0
        full = (len(batch) + 1) * (longest - cluster.stem) > max_tokens or (len(batch) + 1) * longest > max_keys
        if batch and full:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
