"""Which layers are trained, and how: names of linear layers, how many blocks, rank of each, fully trained modules."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import mlx.nn as nn

from ...errors import RequestError
from ...model.transformer import LlamaForCausalLM

BLOCK_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
NAMES = (*BLOCK_LINEARS, "embed_tokens", "lm_head")
_LAYER = re.compile(r"model\.layers\.(\d+)\.")


@dataclass(frozen=True)
class LoRATarget:
    """One layer to adapt, by its path in the model."""

    path: str
    rank: int
    scale: float


def linear_paths(model: LlamaForCausalLM) -> Iterator[tuple[str, nn.Module]]:
    """Yield path and module of every layer that has a matrix: linear layers, embedding, head."""
    kinds = (nn.Linear, nn.QuantizedLinear, nn.Embedding, nn.QuantizedEmbedding)
    yield from ((path, module) for path, module in model.named_modules() if isinstance(module, kinds))


def layer_number(path: str) -> int | None:
    """Return the number of the block that a path lies in, None for embedding and head."""
    match = _LAYER.match(path)
    return int(match[1]) if match else None


def choose_paths(model: LlamaForCausalLM, names: Sequence[str], n_layers: int | None) -> list[str]:
    """Return the paths of the layers called `names`, within the last `n_layers` blocks (None: all)."""
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise RequestError(f"there is no layer {unknown[0]!r} to train; accepted are {', '.join(NAMES)}")
    if "lm_head" in names and model.config.tie_word_embeddings:
        raise RequestError("this model's head is tied to its embedding: train embed_tokens, which serves both")
    total = model.config.num_hidden_layers
    if n_layers is not None and n_layers > total:
        raise RequestError(f"layers is {n_layers}, but the model has {total}")
    first = 0 if n_layers is None else total - n_layers
    paths = [path for path, _ in linear_paths(model) if path.rpartition(".")[2] in names]
    return [path for path in paths if (number := layer_number(path)) is None or number >= first]


def matches(pattern: str, path: str) -> bool:
    """Return whether `pattern`, a regular expression, matches the end of `path` from a dot on. Source: PEFT."""
    return re.fullmatch(rf"(.*\.)?({pattern})", path) is not None


def read_ranks(entries: Sequence[str]) -> dict[str, int]:
    """Return the ranks of `pattern=rank` entries; raises RequestError naming a malformed one."""
    ranks = {}
    for entry in entries:
        pattern, _, rank = entry.rpartition("=")
        try:
            re.compile(pattern)
        except re.error as error:
            raise RequestError(f"{entry!r}: {error}") from None
        if not pattern or not rank.isdigit() or int(rank) < 1:
            raise RequestError(f"a rank is given as NAME=RANK, such as down_proj=16, not {entry!r}")
        ranks[pattern] = int(rank)
    return ranks


def make_targets(
    paths: Sequence[str], rank: int, alpha: float, ranks: Mapping[str, int], *, rslora: bool
) -> list[LoRATarget]:
    """Return rank and scale of each path: alpha / rank, or alpha / sqrt(rank) with `rslora`.

    `ranks` are exceptions by pattern. Source: https://arxiv.org/abs/2312.03732 for rsLoRA.
    """
    chosen = {path: next((r for pattern, r in ranks.items() if matches(pattern, path)), rank) for path in paths}
    unused = [pattern for pattern in ranks if not any(matches(pattern, path) for path in paths)]
    if unused:
        raise RequestError(f"no trained layer matches {unused[0]!r}")
    return [LoRATarget(path, r, alpha / (r**0.5 if rslora else r)) for path, r in chosen.items()]
