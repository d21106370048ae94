"""Time and memory of a whole `generate` process with one token, and of --help, against mlx-lm's commands.

The model has two random layers and Llama 3's real tokenizer, as tokenizer.json alone; what is measured is everything
around the model: imports, tokenizer, first step.
"""

import json
import tempfile
from importlib.resources import files
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten

from benchmarks.processes import best
from benchmarks.tables import parser, publish
from llama3_mlx.convert.sources.tokenizer_json import save_tokenizer_json
from llama3_mlx.model.config import ModelConfig
from llama3_mlx.model.transformer import LlamaForCausalLM

CONFIG = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "torch_dtype": "float16",
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128009],
}


def make_model(folder: Path) -> None:
    """Write the random model with Llama 3's tokenizer.json (from the llama-models package)."""
    config = ModelConfig.from_dict(CONFIG)
    weights = dict(tree_flatten(LlamaForCausalLM(config).parameters()))
    weights = {name: weight.astype(mx.float16) for name, weight in weights.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_tokenizer_json(Path(str(files("llama_models") / "llama3" / "tokenizer.model")), folder)
    (folder / "tokenizer.model").unlink(missing_ok=True)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--times", type=int, default=3, help="runs of each; the fastest counts")
    args = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        make_model(Path(name))
        ours = best(["llama3-mlx", "generate", "-m", name, "-p", "Hi", "--max-tokens", "1"], args.times)
        theirs = best(["mlx_lm.generate", "--model", name, "--prompt", "Hi", "--max-tokens", "1"], args.times)
    our_help, their_help = (best([tool, "--help"], args.times) for tool in ("llama3-mlx", "mlx_lm.generate"))
    rows = [
        ["generate, seconds", f"{ours.wall_s:.2f}", f"{theirs.wall_s:.2f}", f"{ours.wall_s / theirs.wall_s:.2f}"],
        [
            "generate, peak MB",
            f"{ours.peak_bytes / 1e6:.0f}",
            f"{theirs.peak_bytes / 1e6:.0f}",
            f"{ours.peak_bytes / theirs.peak_bytes:.2f}",
        ],
        [
            "--help, seconds",
            f"{our_help.wall_s:.2f}",
            f"{their_help.wall_s:.2f}",
            f"{our_help.wall_s / their_help.wall_s:.2f}",
        ],
    ]
    note = "One token from a two-layer model with Llama 3's tokenizer.json; whole processes, fastest run of each."
    publish("Start-up", ["", "llama3-mlx", "mlx-lm", "ratio"], rows, note, args.write)


if __name__ == "__main__":
    main()
