"""Everything that matters on one machine: the benchmark of all programs, and what only whole runs of ours show."""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path

from ..errors import Llama3MLXError
from ..json_types import JsonObject
from ..model.config import ModelConfig
from ..model.memory_estimate import estimate
from .machine import conditions, measured_bandwidth, published_bandwidth
from .measure import measure
from .options import BenchOptions, random_prompt
from .results import Results
from .worker import Worker

_LENGTHS, _SHORT_LENGTHS = (512, 2048, 8192, 32768), (128, 512)
_PEER_MODULES = {"mlx-lm": "mlx_lm", "llama.cpp": "xllamacpp"}


@dataclass(frozen=True)
class Single:
    """A figure of ours alone: the median of its rounds."""

    name: str
    unit: str
    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.rounds)


@dataclass
class Suite:
    """All that was measured."""

    results: Results
    singles: list[Single] = field(default_factory=list)
    bandwidth: dict[str, float | None] = field(default_factory=dict)
    conditions: JsonObject = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> JsonObject:
        """Return plain values for JSON."""
        return {
            **self.results.to_dict(),
            "singles": [{**asdict(single), "median": single.median} for single in self.singles],
            "bandwidth_bytes_per_second": self.bandwidth,
            "conditions": self.conditions,
            "skipped": self.skipped,
        }


def installed_peers() -> list[str]:
    """Return the peers whose packages are installed."""
    return [name for name, module in _PEER_MODULES.items() if find_spec(module) is not None]


def suite_options(config: ModelConfig, dtype: str, memory_bytes: int, *, short: bool) -> BenchOptions:
    """Return what the suite measures of a model: the usual lengths that fit its context and the memory."""
    tokens = 16 if short else 64
    room = min(config.max_position_embeddings, estimate(config, dtype).longest_context(memory_bytes)) - tokens
    lengths = [length for length in (_SHORT_LENGTHS if short else _LENGTHS) if length <= room] or [max(1, room)]
    return BenchOptions(
        lengths=",".join(map(str, lengths)),
        tokens=tokens,
        batch="1,4" if short else "1,2,4,8,16",
        batch_length=min(128, max(1, room)),
        rounds=1 if short else 3,
    )


def run_suite(
    folder: Path,
    config: ModelConfig,
    options: BenchOptions,
    *,
    dtype: str,
    peers: Sequence[str],
    progress: Callable[[str], None] = lambda _: None,
) -> Suite:
    """Measure the programs in turn, then what is ours alone. A peer that can't run the model is named and left out."""
    before = conditions()
    skipped: dict[str, str] = {}
    programs = ["llama3-mlx"]
    for peer in peers:
        progress(f"trying {peer}")
        problem = _problem(peer, folder, dtype)
        if problem is None:
            programs.append(peer)
        else:
            skipped[peer] = problem
    results = measure(folder, config, options, dtype=dtype, programs=programs, progress=progress)
    suite = Suite(results, skipped=skipped)
    progress("bandwidth of the memory")
    chip = str(results.machine["chip"])
    suite.bandwidth = {"measured": measured_bandwidth(), "published": published_bandwidth(chip)}
    suite.singles += _caches(folder, config, options, dtype, progress)
    suite.singles += _speculation(folder, config, options, dtype, progress)
    suite.singles += _whole_runs(folder, options, progress)
    suite.conditions = {"before": before, "after": conditions()}
    return suite


def _problem(peer: str, folder: Path, dtype: str) -> str | None:
    """Return why a peer can't run the model, None if it can."""
    try:
        with Worker(peer) as worker:
            worker.call("load", folder=str(folder), dtype=dtype)
            worker.call("generate", prompt=[1, 2, 3], tokens=2)
    except Llama3MLXError as error:
        return str(error)
    return None


def _caches(
    folder: Path, config: ModelConfig, options: BenchOptions, dtype: str, progress: Callable[[str], None]
) -> list[Single]:
    """Return decoding at the largest depth with each kind of KV cache."""
    depth = options.depths(config.max_position_embeddings)[-1]
    kinds: dict[str, dict[str, int]] = {"plain": {}, "8 bits": {"kv_bits": 8}, "4 bits": {"kv_bits": 4}}
    kinds["window of 512"] = {"window": 512}
    found = []
    for name, cache in kinds.items():
        progress(f"KV cache: {name}")
        rates = []
        with Worker("llama3-mlx") as worker:
            worker.call("load", folder=str(folder), dtype=dtype, cache=cache)
            for number in range(options.rounds):
                prompt = random_prompt((options.seed, number, 3), depth, config.vocab_size)
                rates.append(worker.call("generate", prompt=prompt, tokens=options.tokens)["decode_per_second"])
        found.append(Single(f"decode at depth {depth:,}, KV cache {name}", "tokens/s", tuple(rates)))
    return found


def _speculation(
    folder: Path, config: ModelConfig, options: BenchOptions, dtype: str, progress: Callable[[str], None]
) -> list[Single]:
    """Return decoding with and without drafts from the text so far, behind a text that repeats itself."""
    found = []
    part = min(128, options.depths(config.max_position_embeddings)[-1] // 3) or 1
    with Worker("llama3-mlx") as worker:
        worker.call("load", folder=str(folder), dtype=dtype)
        for speculate in (False, True):
            progress(f"speculation: {'on' if speculate else 'off'}")
            rates = []
            for number in range(options.rounds):
                prompt = random_prompt((options.seed, number, 5), part, config.vocab_size) * 3
                values = worker.call("generate", prompt=prompt, tokens=options.tokens, speculate=speculate)
                rates.append(values["decode_per_second"])
            name = f"decode behind a text that repeats itself, drafts {'on' if speculate else 'off'}"
            found.append(Single(name, "tokens/s", tuple(rates)))
    return found


def _whole_runs(folder: Path, options: BenchOptions, progress: Callable[[str], None]) -> list[Single]:
    """Return start-up, a conversion and a LoRA step, each as whole processes of the command line."""
    found = []
    with tempfile.TemporaryDirectory(prefix="bench-") as made:
        out = Path(made)
        data = out / "data.jsonl"
        data.write_text("".join(f'{{"text": "{"The lake was calm. " * 40}{n}"}}\n' for n in range(8)), encoding="utf-8")
        commands = {
            "start-up: help, whole process": ["--help"],
            "start-up: one token, whole process": [
                "generate",
                "-m",
                str(folder),
                "--raw",
                "-p",
                "Hi",
                "--max-tokens",
                "1",
                "--no-disk-cache",
            ],
            "conversion to 4 bits, round-to-nearest, whole process": [
                "convert",
                str(folder),
                str(out / "made"),
                "--bits",
                "4",
                "--quality",
                "rtn",
                "--force",
            ],
        }
        for name, command in commands.items():
            progress(name)
            found.append(Single(name, "s", tuple(_seconds(command) for _ in range(options.rounds))))
        progress("LoRA steps")
        train = ["train", "-m", str(folder), "-d", str(data), "-o", str(out / "run"), "--steps", "4", "--samples", "0"]
        _seconds([*train, "--batch-size", "1", "--row-length", "512", "--no-report", "--quiet"])
        found.append(Single("LoRA step, one row of 512 tokens", "s", _step_seconds(out / "run")))
    return found


def _seconds(arguments: Sequence[str]) -> float:
    """Return how long the command line takes; raises Llama3MLXError if it fails."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "llama3_mlx", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Llama3MLXError(f"llama3-mlx {arguments[0]} failed in the suite: {done.stderr.strip()[-300:]}")
    return time.perf_counter() - began


def _step_seconds(folder: Path) -> tuple[float, ...]:
    """Return the seconds of the run's steps behind the first, which compiles."""
    import json

    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return tuple(line["seconds"] for line in lines if line["kind"] == "step")[1:]
