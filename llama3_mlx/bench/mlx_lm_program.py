"""mlx-lm as a program to measure, through its own public functions and defaults."""

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import mlx.core as mx

from .counting import count_work, host_seconds, weights
from .program import Result, answer_requests


class MlxLm:
    """mlx-lm's model and tokenizer, without stop tokens."""

    def load(self, folder: str, dtype: str) -> Result:
        import mlx_lm.utils

        began = time.perf_counter()
        self.model, config = mlx_lm.utils.load_model(Path(folder))
        self.model.set_dtype(getattr(mx, dtype))
        self.tokenizer = mlx_lm.utils.load_tokenizer(Path(folder), eos_token_ids=config.get("eos_token_id"))
        mx.eval(weights(self.model))
        load_s = time.perf_counter() - began
        self.tokenizer.eos_token_ids = set()
        return {"load_s": load_s, "weight_bytes": sum(array.nbytes for array in weights(self.model))}

    def generate(self, prompt: list[int], tokens: int) -> Result:
        from mlx_lm import stream_generate

        mx.reset_peak_memory()
        times = [time.perf_counter()]
        for _ in stream_generate(self.model, self.tokenizer, prompt, max_tokens=tokens):
            times.append(time.perf_counter())
        return {
            "prefill_per_second": len(prompt) / (times[1] - times[0]),
            "decode_per_second": (len(times) - 2) / (times[-1] - times[1]),
            "peak_bytes": mx.get_peak_memory(),
        }

    def batch(self, prompts: list[list[int]], tokens: int) -> Result:
        from mlx_lm import batch_generate

        mx.reset_peak_memory()
        began = time.perf_counter()
        batch_generate(self.model, self.tokenizer, prompts, max_tokens=tokens)
        took = time.perf_counter() - began
        return {"batch_per_second": len(prompts) * tokens / took, "peak_bytes": mx.get_peak_memory()}

    def count(self, depth: int) -> Result:
        return asdict(count_work(self._step(depth), mx.array([[0]])))

    def host(self, depth: int) -> float:
        """Return the seconds of CPU time in which the host builds one decode step after `depth` tokens."""
        return host_seconds(self._step(depth), mx.array([[0]]))

    def _step(self, depth: int) -> Callable[[mx.array], mx.array]:
        """Return one greedy decode step after `depth` tokens."""
        from mlx_lm.models.cache import make_prompt_cache

        cache = make_prompt_cache(self.model)
        mx.eval(self.model(mx.zeros((1, depth), mx.int32), cache=cache), [layer.state for layer in cache])

        def step(token: mx.array) -> mx.array:
            # As generate_step chooses a token: log-probabilities of all, then the most likely.
            logits = self.model(token, cache=cache)[:, -1, :]
            return mx.argmax(logits - mx.logsumexp(logits, keepdims=True), axis=-1)

        return step


if __name__ == "__main__":
    answer_requests(MlxLm())
