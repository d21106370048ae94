"""llama.cpp as a program to measure, through the package xllamacpp, on a GGUF file made from the same model."""

import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..errors import Llama3MLXError
from ..json_types import JsonObject
from .program import Result, answer_requests

_PARALLEL = 16
# The type of llama.cpp whose bits are nearest to those of MLX's scheme.
_TYPES = {4: "q4_0", 8: "q8_0"}


class LlamaCpp:
    """A server of llama.cpp's in this process. Its memory isn't MLX's, so that peaks are left out."""

    def load(self, folder: str, dtype: str) -> Result:
        import xllamacpp

        self._made = tempfile.TemporaryDirectory(prefix="bench-")
        file = Path(self._made.name, "model.gguf")
        _export(Path(folder), file)
        began = time.perf_counter()
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(file)
        context = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))["max_position_embeddings"]
        parameters.n_ctx, parameters.n_parallel = int(context), _PARALLEL
        parameters.warmup = False
        # One cache for all requests: each may take the whole context while it is alone.
        parameters.kv_unified = True
        self._server = xllamacpp.Server(parameters)
        return {"load_s": time.perf_counter() - began, "weight_bytes": float(file.stat().st_size)}

    def generate(self, prompt: list[int], tokens: int) -> Result:
        timings = self._complete(prompt, tokens)["timings"]
        return {
            "prefill_per_second": timings["prompt_per_second"],
            "decode_per_second": timings["predicted_per_second"],
        }

    def batch(self, prompts: list[list[int]], tokens: int) -> Result:
        began = time.perf_counter()
        with ThreadPoolExecutor(len(prompts)) as pool:
            list(pool.map(lambda prompt: self._complete(prompt, tokens), prompts))
        return {"batch_per_second": len(prompts) * tokens / (time.perf_counter() - began)}

    def count(self, depth: int) -> Result:
        return {}

    def _complete(self, prompt: list[int], tokens: int) -> JsonObject:
        request = {"prompt": prompt, "max_tokens": tokens, "temperature": 0.0, "cache_prompt": False}
        answer: JsonObject = self._server.handle_completions({**request, "ignore_eos": True})
        if "timings" not in answer or answer["usage"]["completion_tokens"] != tokens:
            raise Llama3MLXError(f"llama.cpp didn't generate {tokens} tokens: {json.dumps(answer)[:200]}")
        return answer


def _export(folder: Path, file: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kind = _TYPES.get((config.get("quantization") or {}).get("bits", 16), "f16")
    command = [sys.executable, "-m", "llama3_mlx", "convert", str(folder), str(file), "--gguf-type", kind]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise Llama3MLXError(f"the model can't be exported for llama.cpp: {made.stderr.strip()[-300:]}")


if __name__ == "__main__":
    answer_requests(LlamaCpp())
