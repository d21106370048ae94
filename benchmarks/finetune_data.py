"""Models and data of the fine-tuning benchmark: random, of fixed seeds, the same for both sides."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from llama3_mlx.model.config import ModelConfig
from llama3_mlx.model.parameters import expected_tensors
from llama3_mlx.tokenizer.loading import load_tokenizer
from llama3_mlx.tokenizer.tokenizer import Tokenizer
from tests.support.llama3_tokenizer import save_llama3_tokenizer
from tests.support.smollm2 import save_smollm2

# Llama 3's vocabulary over a small body: what the loss costs stands out.
WIDE = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 512,
    "intermediate_size": 1536, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4,
    "vocab_size": 128256, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "max_position_embeddings": 8192,
    "tie_word_embeddings": True, "torch_dtype": "float32", "bos_token_id": 128000, "eos_token_id": [128001, 128009],
}  # fmt: skip
_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
WORDS = [
    "river",
    "stone",
    "light",
    "paper",
    "garden",
    "window",
    "the",
    "of",
    "and",
    "to",
    "a",
    "in",
    "is",
    "that",
    "it",
    "was",
    "for",
    "on",
    "with",
    "as",
    "field",
    "north",
    "early",
    "green",
    "letter",
    "music",
    "answer",
    "number",
    "simple",
    "water",
    "morning",
    "table",
    "small",
    "round",
    "question",
    "train",
    "island",
    "bread",
    "yellow",
    "winter",
]


def make_model(name: str, folder: Path) -> Path:
    """Write the model of that name: wide, or smollm2."""
    folder.mkdir(parents=True, exist_ok=True)
    if name == "smollm2":
        return save_smollm2(folder)
    rng = np.random.default_rng(0)
    shapes = expected_tensors(ModelConfig.from_dict(WIDE))
    weights = {
        name: (rng.normal(0, 0.03, shape) + (len(shape) == 1)).astype(np.float32) for name, shape in shapes.items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(WIDE))
    save_llama3_tokenizer(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": _TEMPLATE}))
    return folder


def make_data(case: str, model: Path, folder: Path, examples: int) -> Path:
    """Write train.jsonl of a case: dialogs (prompt and answer alike long), text, or mixed (20 to 400 tokens)."""
    tokenizer = load_tokenizer(model)
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(_example(case, tokenizer, rng)) for _ in range(examples)]
    for name in ("train.jsonl", "valid.jsonl"):
        (folder / name).write_text("\n".join(lines if name == "train.jsonl" else lines[:4]) + "\n")
    return folder


def _example(case: str, tokenizer: Tokenizer, rng: np.random.Generator) -> dict[str, Any]:
    if case == "text":
        return {"text": _words(tokenizer, rng, int(rng.integers(380, 505)))}
    if case == "mixed":
        length = int(rng.integers(20, 400))
        asked, told = max(4, length // 2 - 20), max(4, length // 2)
    else:
        half = int(rng.integers(190, 240))
        # The template's own tokens count to the prompt.
        asked, told = half - 20, half
    return {
        "messages": [
            {"role": "user", "content": _words(tokenizer, rng, asked)},
            {"role": "assistant", "content": _words(tokenizer, rng, told)},
        ]
    }


def _words(tokenizer: Tokenizer, rng: np.random.Generator, n_tokens: int) -> str:
    words = " ".join(rng.choice(WORDS, n_tokens + 8))
    return tokenizer.decode(tokenizer.encode(words)[:n_tokens]).strip()
