"""Which layers are trained, and how: names of linear layers, how many blocks, rank of each, fully trained modules."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...errors import RequestError
from ...model.config import ModelConfig
from ...model.parameters import expected_tensors

BLOCK_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
NAMES = (*BLOCK_LINEARS, "embed_tokens", "lm_head")
_LAYER = re.compile(r"model\.layers\.(\d+)\.")


@dataclass(frozen=True)
class LoRATarget:
    """One layer to adapt, by its path in the model."""

    path: str
    rank: int
    scale: float


def layer_number(path: str) -> int | None:
    """Return the number of the block that a path lies in, None for embedding and head."""
    match = _LAYER.match(path)
    return int(match[1]) if match else None


def module_paths(config: ModelConfig, *, matrices: bool = False) -> list[str]:
    """Return the paths of the modules that have a weight, or of those alone whose weight is a matrix."""
    shapes = expected_tensors(config)
    return [
        name.removesuffix(".weight")
        for name, shape in shapes.items()
        if name.endswith(".weight") and (len(shape) == 2 or not matrices)
    ]


def choose_paths(config: ModelConfig, names: Sequence[str], n_layers: int | None) -> list[str]:
    """Return the paths of the layers that a name matches, within the last `n_layers` blocks (None: all).

    A name is that of a layer, the end of its path, a regular expression of that, or all-linear: PEFT's name for every
    linear layer but the head. Raises RequestError for a name that matches nothing.
    """
    total = config.num_hidden_layers
    if n_layers is not None and n_layers > total:
        raise RequestError(f"layers is {n_layers}, but the model has {total}")
    first = 0 if n_layers is None else total - n_layers
    all_paths = module_paths(config, matrices=True)
    chosen: set[str] = set()
    for name in names:
        if name == "lm_head" and config.tie_word_embeddings:
            raise RequestError("this model's head is tied to its embedding: train embed_tokens, which serves both")
        pattern = f"({'|'.join(BLOCK_LINEARS)})" if name == "all-linear" else checked_pattern(name)
        found = [path for path in all_paths if matches(pattern, path)]
        if not found:
            raise RequestError(
                f"there is no layer {name!r} to train; accepted are {', '.join(NAMES)}, all-linear, and paths such as "
                "layers.0.self_attn.q_proj"
            )
        chosen.update(found)
    return [
        path for path in all_paths if path in chosen and ((number := layer_number(path)) is None or number >= first)
    ]


def choose_full(config: ModelConfig, patterns: Sequence[str]) -> list[str]:
    """Return the paths of the modules that a pattern matches, itself or by what they are part of.

    Raises RequestError for a pattern that matches nothing.
    """
    chosen: dict[str, None] = {}
    for pattern in comma_separated(patterns):
        checked_pattern(pattern)
        found = [path for path in module_paths(config) if matches(pattern, path) or _within(pattern, path)]
        if not found:
            raise RequestError(f"no module of the model matches {pattern!r}, one of modules_to_save")
        chosen |= dict.fromkeys(found)
    return list(chosen)


def _within(pattern: str, path: str) -> bool:
    """Return whether `path` lies under a module that the pattern matches, such as a block."""
    parents = path.split(".")
    return any(matches(pattern, ".".join(parents[:n])) for n in range(1, len(parents)))


def comma_separated(entries: Sequence[str]) -> list[str]:
    """Return the parts of entries, each of which may be several with commas between them."""
    return [part.strip() for entry in entries for part in entry.split(",") if part.strip()]


def checked_pattern(pattern: str) -> str:
    """Return the pattern; raises RequestError if it is not a regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise RequestError(f"{pattern!r}: {error}") from None
    return pattern


def matches(pattern: str, path: str) -> bool:
    """Return whether `pattern`, a regular expression, matches the end of `path` from a dot on. Source: PEFT."""
    return re.fullmatch(rf"(.*\.)?({pattern})", path) is not None


def read_ranks(entries: Sequence[str]) -> dict[str, int]:
    """Return the ranks of `pattern=rank` entries; raises RequestError naming a malformed one."""
    ranks = {}
    for entry in comma_separated(entries):
        pattern, _, rank = entry.rpartition("=")
        checked_pattern(pattern)
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
