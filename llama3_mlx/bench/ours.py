"""Our own program, measured through `Llama`."""

import time
from dataclasses import asdict

import mlx.core as mx

from ..completion import Completion
from ..errors import Llama3MLXError
from ..llama import Llama
from .counting import count_work, weights
from .program import Result, serve


class Ours:
    """A `Llama`, without stop tokens, so that every run writes what it was asked for."""

    def load(self, folder: str, dtype: str) -> Result:
        began = time.perf_counter()
        self.llama = Llama.load(folder, dtype=dtype)
        mx.eval(weights(self.llama.model))
        load_s = time.perf_counter() - began
        self.llama.stop_ids = frozenset()
        return {"load_s": load_s, "weight_bytes": sum(array.nbytes for array in weights(self.llama.model))}

    def generate(self, prompt: list[int], tokens: int) -> Result:
        completion = self.llama.generate(prompt, max_tokens=tokens, temperature=0.0)
        _check([completion], tokens)
        return {
            "prefill_per_second": completion.prompt_tokens_per_second,
            "decode_per_second": completion.tokens_per_second,
            "peak_bytes": completion.peak_memory_bytes,
        }

    def batch(self, prompts: list[list[int]], tokens: int) -> Result:
        mx.reset_peak_memory()
        began = time.perf_counter()
        completions = self.llama.generate_batch(prompts, max_tokens=tokens, temperature=0.0)  # type: ignore[attr-defined]
        took = time.perf_counter() - began
        _check(completions, tokens)
        return {"batch_per_second": len(prompts) * tokens / took, "peak_bytes": mx.get_peak_memory()}

    def count(self, depth: int) -> Result:
        model = self.llama.model
        cache = model.make_cache()
        mx.eval(model.hidden(mx.zeros((1, depth), mx.int32), cache), cache.arrays)

        def step(token: mx.array) -> mx.array:
            return mx.argmax(model.head(model.hidden(token, cache)[:, -1]), axis=-1)

        return asdict(count_work(step, mx.array([[0]])))


def _check(completions: list[Completion], tokens: int) -> None:
    for completion in completions:
        if len(completion.token_ids) != tokens or completion.cached_tokens:
            raise Llama3MLXError(
                f"a run wrote {len(completion.token_ids)} tokens where {tokens} were asked for, with "
                f"{completion.cached_tokens} of its prompt from a cache: its figures can't be compared"
            )


if __name__ == "__main__":
    serve(Ours())
