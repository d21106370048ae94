"""What structure adds to a decode step: masks of llguidance, their application, and whole steps with and without.

Llama 3's vocabulary of 128,256 tokens; the model has two random layers. A step's mask is computed while the model
runs, which only needs the token before.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map

from benchmarks.tables import parser, publish
from llama3_mlx.convert.sources.tokenizer_json import save_tokenizer_json
from llama3_mlx.kv_cache import ModelCache, make_cache
from llama3_mlx.model.config import ModelConfig
from llama3_mlx.model.transformer import LlamaForCausalLM
from llama3_mlx.structured.grammar import Grammar, GrammarState, compile_grammar
from llama3_mlx.structured.token_mask import apply_mask, mask_width
from llama3_mlx.tokenizer.loading import load_tokenizer
from llama3_mlx.tokenizer.tokenizer import Tokenizer

VOCABULARY = 128256
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 60},
        "born": {"type": "string", "format": "date"},
        "height": {"type": "number", "minimum": 0.5, "maximum": 2.5},
        "languages": {"type": "array", "items": {"enum": ["German", "French", "Italian"]}, "maxItems": 3},
        "notes": {"type": "array", "items": {"type": "string"}},
        "parent": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
    },
    "required": ["name", "born"],
    "additionalProperties": False,
}
ADA = {
    "name": "Ada Lovelace",
    "born": "1815-12-10",
    "height": 1.65,
    "languages": ["French", "German"],
    "notes": ["She wrote the first program, for a machine that wasn't built.", "Ünïcode 🦙 as well"],
    "parent": {"name": "Anne Isabella", "born": "1792-05-17", "parent": None},
}
TOOL = {"name": "remember", "parameters": PERSON}
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "JSON schema": ({"schema": PERSON}, json.dumps(ADA, ensure_ascii=False)),
    "JSON schema, indented text": ({"schema": PERSON}, json.dumps(ADA, ensure_ascii=False, indent=2)),
    "any JSON": ({"schema": {}}, json.dumps(ADA, ensure_ascii=False)),
    "tools, a call": ({"tools": [TOOL]}, json.dumps({"name": "remember", "parameters": ADA}, ensure_ascii=False)),
    "tools, text": ({"tools": [TOOL]}, "I don't need a tool for that: " + ADA["notes"][0] * 4),  # type: ignore[index]
    "regular expression": ({"regex": r"(\w+@\w+\.(com|org)[, ]*)+"}, "ada@lovelace.org, " * 12 + "charles@engine.com"),
}


def mask_times(tokenizer: Tokenizer, grammar: Grammar, text: str, rounds: int = 5) -> list[float]:
    """Return microseconds of each step, of the fastest round: the mask, and going on by the token."""
    row = np.zeros(mask_width(VOCABULARY), np.uint32)
    best: list[float] = []
    for _ in range(rounds):
        state, times = grammar.start(), []
        for token in tokenizer.encode(text):
            began = time.perf_counter()
            state.fill_mask(row)
            state.accept(token)
            times.append((time.perf_counter() - began) * 1e6)
        best = times if not best else [min(pair) for pair in zip(best, times, strict=True)]
    return best


def median_ms(run: Callable[[], object], times: int = 60) -> float:
    """Return the median milliseconds of a run."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        taken.append((time.perf_counter() - began) * 1e3)
    return statistics.median(taken)


def apply_rows() -> list[list[str]]:
    """Measure the application of masks for several batch sizes."""
    rows = []
    rng = np.random.default_rng(0)
    for batch in (1, 8):
        logits = mx.array(rng.normal(size=(batch, VOCABULARY)), mx.float32)
        masks = rng.integers(0, 2**32, (batch, mask_width(VOCABULARY)), dtype=np.uint32)
        mx.eval(logits)
        taken = median_ms(lambda logits=logits, masks=masks: mx.eval(apply_mask(logits, mx.array(masks))))  # type: ignore[misc]
        rows.append([f"apply_mask, {batch} rows", f"{taken * 1e3:.0f}", "", ""])
    return rows


def step(model: LlamaForCausalLM, cache: ModelCache, token: int, state: GrammarState | None, row: np.ndarray) -> float:
    """Return the seconds of a step: forward pass, mask meanwhile, greedy choice."""
    began = time.perf_counter()
    logits = model.head(model.hidden(mx.array([[token]]), cache)[:, -1])
    mx.async_eval(logits)
    if state is not None:
        state.fill_mask(row[0])
        logits = apply_mask(logits, mx.array(row))
        state.accept(token)
    mx.argmax(logits, axis=-1).item()
    return time.perf_counter() - began


def steps(model: LlamaForCausalLM, tokens: Sequence[int], grammar: Grammar) -> list[tuple[float, float]]:
    """Return the seconds of each step over a text, plain and constrained, one after the other."""
    plain, held = (make_cache(model.config.num_hidden_layers) for _ in range(2))
    state = grammar.start()
    row = np.zeros((1, mask_width(VOCABULARY)), np.uint32)
    return [(step(model, plain, token, None, row), step(model, held, token, state, row)) for token in tokens]


def step_row(tokenizer: Tokenizer, grammar: Grammar, text: str) -> list[str]:
    """Measure whole steps of a model with two layers, in turns."""
    config = ModelConfig.from_dict(
        {
            "model_type": "llama",
            "hidden_size": 512,
            "intermediate_size": 1536,
            "num_hidden_layers": 2,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "vocab_size": VOCABULARY,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": True,
        }
    )
    model = LlamaForCausalLM(config)
    model.update(tree_map(lambda weight: weight.astype(mx.float32), model.parameters()))
    tokens = tokenizer.encode(text)
    steps(model, tokens[:8], grammar)
    pairs = [pair for _ in range(3) for pair in steps(model, tokens, grammar)]
    plain, held = (statistics.median(times) * 1e3 for times in zip(*pairs, strict=True))
    return [
        "whole step, 2 layers, plain and constrained, ms",
        f"{plain:.2f}",
        f"{held:.2f}",
        f"ratio {held / plain:.3f}",
    ]


def main() -> None:
    args = parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as name:
        save_tokenizer_json(Path(str(files("llama_models") / "llama3" / "tokenizer.model")), Path(name))
        tokenizer = load_tokenizer(Path(name))
        began = time.perf_counter()
        compile_grammar(tokenizer, choices=["a"])
        rows = [["vocabulary prepared, once", f"{(time.perf_counter() - began) * 1e6:.0f}", "", ""]]
        for title, (what, text) in CASES.items():
            began = time.perf_counter()
            grammar = compile_grammar(tokenizer, **what)
            compiled = (time.perf_counter() - began) * 1e6
            times = mask_times(tokenizer, grammar, text)
            rows.append([title, f"{statistics.mean(times):.0f}", f"{max(times):.0f}", f"compiled in {compiled:.0f}"])
        what, text = CASES["JSON schema"]
        rows += [*apply_rows(), step_row(tokenizer, compile_grammar(tokenizer, **what), text)]
    note = "Microseconds per step over 128,256 tokens, mean and worst, the fastest of five rounds; CPU, two cores."
    publish("Constrained decoding", ["", "mean", "worst", ""], rows, note, args.write)


if __name__ == "__main__":
    main()
