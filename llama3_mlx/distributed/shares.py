"""Which part of a model each process holds: heads and columns of every layer (tensor), or whole layers (pipeline).

Rank 0 holds the embedding, the last norm and the head besides. In tensor parallel the head may be split, too: each
process then has the rows of some tokens, whose logits are gathered on rank 0.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from ..errors import RequestError
from ..json_types import JsonObject
from ..model.config import ModelConfig

Split = Literal["tensor", "pipeline"]
# A cut of one dimension: (start, stop).
Cut = tuple[int, int]
# Group sizes up to which node counts are tried for a message.
_MOST_NODES = 64


@dataclass(frozen=True)
class Share:
    """What one process holds. `columns` are those of the MLP's intermediate values; each cut is (start, stop)."""

    rank: int
    size: int
    split: Split
    layers: Cut
    heads: Cut
    kv_heads: Cut
    columns: Cut
    vocabulary: Cut | None = None
    """The tokens whose rows of a split head it holds; None where rank 0 has the whole head."""
    head_path: str = "lm_head"
    """The matrix that a split head's rows are those of: where the head is tied, the embedding."""

    def to_dict(self) -> JsonObject:
        """Return the fields as JSON has them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: JsonObject) -> "Share":
        """Read what `to_dict` gave."""
        cuts = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **cuts})

    @property
    def has_ends(self) -> bool:
        """Whether embedding, last norm and head are part of it."""
        return self.rank == 0

    def config(self, whole: ModelConfig) -> ModelConfig:
        """Return the config of a model of just this share; its layers count from 0."""
        return replace(
            whole,
            num_hidden_layers=length(self.layers),
            num_attention_heads=length(self.heads),
            num_key_value_heads=length(self.kv_heads),
            intermediate_size=length(self.columns),
            tie_word_embeddings=whole.tie_word_embeddings and self.vocabulary is None,
        )

    def local_name(self, name: str) -> str | None:
        """Return the name in this share of a tensor or module of the whole model's, None if it isn't held."""
        parts = name.split(".")
        if parts[:2] != ["model", "layers"]:
            return name if self.has_ends else self._head_name(name)
        layer = int(parts[2])
        if not self.layers[0] <= layer < self.layers[1]:
            return None
        return ".".join((*parts[:2], str(layer - self.layers[0]), *parts[3:]))

    def _head_name(self, name: str) -> str | None:
        """Return the name here of a split head's tensor or module, None for any other."""
        of_head = self.vocabulary is not None and (name == self.head_path or name.startswith(f"{self.head_path}."))
        return f"lm_head{name.removeprefix(self.head_path)}" if of_head else None

    def cut(self, name: str, config: ModelConfig) -> tuple[Cut | None, Cut | None]:
        """Return which outputs and which inputs of a linear layer it holds, None for all, by a tensor's name."""
        if self.split == "pipeline":
            return None, None
        d = config.head_dim
        heads, kv_heads = _scaled(self.heads, d), _scaled(self.kv_heads, d)
        outputs = {"q_proj": heads, "k_proj": kv_heads, "v_proj": kv_heads, "gate_proj": self.columns}
        outputs["up_proj"] = self.columns
        inputs = {"o_proj": heads, "down_proj": self.columns}
        module = name.split(".")[-2]
        if module in ("lm_head", "embed_tokens"):
            # Rank 0 looks tokens up in the whole embedding, also where other processes have rows of it as their head.
            return (self.vocabulary, None) if self.rank or module == "lm_head" else (None, None)
        return outputs.get(module), inputs.get(module)


def length(cut: Cut) -> int:
    """Return how many it spans."""
    return cut[1] - cut[0]


def tensor_shares(config: ModelConfig, size: int, *, split_head: bool = False) -> list[Share]:
    """Return each process's heads and columns; raises RequestError, with node counts that would do, where they don't.

    With `split_head`, which has to divide the vocabulary, also its rows of the head. Up to the number of key/value
    heads, each goes to one process with its query heads; beyond, several processes hold a copy of one and share its
    query heads out. Boundaries are those of quantization groups.
    """
    problem = _tensor_problem(config, size)
    if problem is not None:
        fitting = [n for n in range(2, _MOST_NODES + 1) if _tensor_problem(config, n) is None]
        ways = f"on {_listed(fitting)} processes it would" if fitting else "it can't be at all"
        raise RequestError(
            f"this model can't be split over {size} processes by heads: {problem}; {ways}; --split pipeline takes any "
            f"number up to its {config.num_hidden_layers} layers"
        )
    made, rows = [], config.vocab_size // size
    head_path = "model.embed_tokens" if config.tie_word_embeddings else "lm_head"
    for rank in range(size):
        heads, kv_heads = _heads(config, rank, size)
        columns = _columns(config, rank, size)
        layers, vocabulary = (0, config.num_hidden_layers), (rank * rows, (rank + 1) * rows) if split_head else None
        made.append(Share(rank, size, "tensor", layers, heads, kv_heads, columns, vocabulary, head_path))
    return made


def head_divides(config: ModelConfig, size: int) -> bool:
    """Return whether the head's rows can be shared out evenly."""
    return size > 1 and config.vocab_size % size == 0


def is_even(shares: Sequence[Share]) -> bool:
    """Return whether all processes compute equally much of each layer: the slowest sets the pace."""
    return len({(length(share.heads), length(share.columns)) for share in shares}) == 1


def pipeline_shares(config: ModelConfig, room: Sequence[float]) -> list[Share]:
    """Return each process's layers, in proportion to its `room` for them, at least one each; raises RequestError."""
    size, n_layers = len(room), config.num_hidden_layers
    if size > n_layers:
        raise RequestError(f"this model has {n_layers} layers: they can't be shared out over {size} processes")
    counts = _apportioned(n_layers, [max(0.0, part) for part in room])
    made, start = [], 0
    for rank, count in enumerate(counts):
        whole = (0, config.num_attention_heads), (0, config.num_key_value_heads), (0, config.intermediate_size)
        made.append(Share(rank, size, "pipeline", (start, start + count), *whole))
        start += count
    return made


def _apportioned(count: int, room: Sequence[float]) -> list[int]:
    """Share out `count` things in proportion, at least one each, the largest remainders getting what is left."""
    total = sum(room)
    exact = [count * part / total if total else count / len(room) for part in room]
    counts = [max(1, int(value)) for value in exact]
    while sum(counts) != count:
        step = 1 if sum(counts) < count else -1
        able = [rank for rank in range(len(room)) if counts[rank] + step >= 1]
        rank = max(able, key=lambda rank: step * (exact[rank] - counts[rank]))
        counts[rank] += step
    return counts


def _tensor_problem(config: ModelConfig, size: int) -> str | None:
    kv_heads, groups = config.num_key_value_heads, config.num_attention_heads // config.num_key_value_heads
    if size > kv_heads and (size % kv_heads or groups % (size // kv_heads)):
        return f"its {kv_heads} key/value heads, of {groups} query heads each, can't be shared out among them"
    unit = _column_unit(config)
    if config.intermediate_size // unit < size:
        return f"its {config.intermediate_size} intermediate values can't be cut in groups of {unit}"
    width = _group_size(config, "o_proj")
    for rank in range(size):
        start, stop = _scaled(_heads(config, rank, size)[0], config.head_dim)
        if start % width or stop % width:
            return f"heads of {config.head_dim} values don't end where quantization groups of {width} do"
    return None


def _heads(config: ModelConfig, rank: int, size: int) -> tuple[Cut, Cut]:
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    if size > kv_heads:
        copies = size // kv_heads
        return (heads * rank // size, heads * (rank + 1) // size), (rank // copies, rank // copies + 1)
    cut = kv_heads * rank // size, kv_heads * (rank + 1) // size
    return _scaled(cut, heads // kv_heads), cut


def _columns(config: ModelConfig, rank: int, size: int) -> Cut:
    unit = _column_unit(config)
    units, end = config.intermediate_size // unit, config.intermediate_size
    return units * rank // size * unit, end if rank == size - 1 else units * (rank + 1) // size * unit


def _column_unit(config: ModelConfig) -> int:
    """Return of how many intermediate values a share is a multiple: a group of down_proj's."""
    return _group_size(config, "down_proj")


def _group_size(config: ModelConfig, module: str) -> int:
    """Return the largest group size that any layer's `module` is quantized in, 1 if none is."""
    if config.quantization is None:
        return 1
    parent = "mlp" if module in ("gate_proj", "up_proj", "down_proj") else "self_attn"
    paths = (f"model.layers.{layer}.{parent}.{module}" for layer in range(config.num_hidden_layers))
    return max((scheme.group_size for path in paths if (scheme := config.quantization.scheme_for(path))), default=1)


def _scaled(cut: Cut, by: int) -> Cut:
    return cut[0] * by, cut[1] * by


def _listed(numbers: Sequence[int]) -> str:
    shown = [str(number) for number in numbers[:8]]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} or {shown[-1]}"
