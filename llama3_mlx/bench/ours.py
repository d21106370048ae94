"""Our own program, measured through `Llama`."""

import time
from collections.abc import Callable
from dataclasses import asdict

import mlx.core as mx

from ..errors import DialogError, Llama3MLXError
from ..generation.completion import Completion
from ..kv_cache import CacheOptions
from ..llama import Llama
from .counting import count_work, host_seconds, weights
from .drafts import summed
from .program import Result, answer_requests


class Ours:
    """A `Llama` that generates one token per forward pass past stop tokens, without a prefix cache between runs."""

    def load(
        self,
        folder: str,
        dtype: str,
        cache: dict[str, int] | None = None,
        nodes: int = 1,
        split: str = "auto",
        draft: str | None = None,
    ) -> Result:
        began = time.perf_counter()
        options = CacheOptions(**(cache or {}))
        self.llama = Llama.load(
            folder, dtype=dtype, cache=options, disk_cache=False, nodes=nodes, split=split, draft=draft
        )
        parameters = weights(self.llama.model)
        mx.eval(parameters)
        return {
            "load_s": time.perf_counter() - began,
            "weight_bytes": sum(array.nbytes for array in parameters),
        }

    def generate(self, prompt: list[int], tokens: int, *, speculate: bool = False) -> Result:
        (completion,) = self._generate([prompt], tokens, speculate=speculate)
        return {
            "prefill_per_second": completion.prompt_tokens_per_second,
            "decode_per_second": completion.tokens_per_second,
            "peak_bytes": mx.get_peak_memory(),
        }

    def drafts(self, requests: list[str], tokens: int, drafted_first: bool) -> Result:
        """Answer each request without and with drafts; nothing is cached from one answer to the next."""
        answers: dict[bool, list[Completion]] = {False: [], True: []}
        for request in requests:
            prompt = self._prompt(request)
            for speculate in (True, False) if drafted_first else (False, True):
                self.llama.release_memory()
                done = self.llama.generate(prompt, max_tokens=tokens, temperature=0.0, speculate=speculate)
                answers[speculate].append(done)
        return summed(answers[False], answers[True])

    def _prompt(self, request: str) -> list[int]:
        """Return a request as a dialog, or as bare text to a model without a dialog format."""
        try:
            return self.llama.encode_chat([{"role": "user", "content": request}])
        except DialogError:
            return self.llama.tokenizer.encode(request)

    def batch(self, prompts: list[list[int]], tokens: int) -> Result:
        began = time.perf_counter()
        self._generate(prompts, tokens)
        took = time.perf_counter() - began
        return {"batch_per_second": len(prompts) * tokens / took, "peak_bytes": mx.get_peak_memory()}

    def count(self, depth: int) -> Result:
        return self.llama.engine.call(lambda: asdict(count_work(self._step(depth), mx.array([[0]]))))

    def host(self, depth: int) -> float:
        """Return the seconds of CPU time in which the host builds one decode step after `depth` tokens."""
        return self.llama.engine.call(lambda: host_seconds(self._step(depth), mx.array([[0]])))

    def _step(self, depth: int) -> Callable[[mx.array], mx.array]:
        """Return one greedy decode step after `depth` tokens, on the engine's thread."""
        model, cache = self.llama.model, self.llama.model.make_cache()
        mx.eval(model.hidden(mx.zeros((1, depth), mx.int32), cache), cache.arrays)
        return lambda token: mx.argmax(model.head(model.hidden(token, cache)[:, -1]), -1)

    def _generate(self, prompts: list[list[int]], tokens: int, *, speculate: bool = False) -> list[Completion]:
        self.llama.release_memory()
        mx.reset_peak_memory()
        completions = self.llama.generate_batch(
            prompts, max_tokens=tokens, temperature=0.0, ignore_eos=True, speculate=speculate
        )
        _check(completions, tokens)
        return completions


def _check(completions: list[Completion], tokens: int) -> None:
    for completion in completions:
        if len(completion.token_ids) != tokens or completion.cached_tokens:
            raise Llama3MLXError(
                f"a run generated {len(completion.token_ids)} tokens where {tokens} were requested, with "
                f"{completion.cached_tokens} of its prompt from a cache: its figures can't be compared"
            )


if __name__ == "__main__":
    program = Ours()
    answer_requests(program, drafts=program.drafts)
