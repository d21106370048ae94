"""Reads a source's tensors in float32, a layer at a time."""

import mlx.core as mx

from ...checkpoint.safetensors_files import as_mlx
from ...model.transformer import TransformerBlock
from ..sources.source import Source, read_finite


class LayerReader:
    """Reads one layer or one tensor of a source."""

    def __init__(self, source: Source) -> None:
        self.config = source.config
        self._refs = {ref.name: ref for ref in source.tensors()}

    def block(self, index: int) -> TransformerBlock:
        """Return layer `index`."""
        block = TransformerBlock(self.config)
        prefix = f"model.layers.{index}."
        names = [name for name in self._refs if name.startswith(prefix)]
        block.load_weights([(name.removeprefix(prefix), self.tensor(name)) for name in names], strict=True)
        mx.eval(block.parameters())
        return block

    def tensor(self, name: str) -> mx.array:
        """Return one tensor; raises CheckpointError unless it is finite."""
        ref = self._refs[name]
        return as_mlx(read_finite(ref, 0, ref.rows), ref.dtype).astype(mx.float32)

    def head(self) -> mx.array:
        """Return the head's matrix (V, D): the embedding where the two are tied."""
        return self.tensor("model.embed_tokens.weight" if self.config.tie_word_embeddings else "lm_head.weight")
