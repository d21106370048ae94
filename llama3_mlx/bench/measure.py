"""Runs the programs round by round, each in its own process, and collects their figures."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from ..distributed.settings import NodeOptions
from ..json_types import JsonObject
from ..model.config import ModelConfig
from ..model.memory_estimate import estimate
from .machine import machine_facts
from .options import BenchOptions, random_prompt
from .program import Result
from .results import Figure, Results
from .worker import Worker

Report = Callable[[str], None]
_ALONE = NodeOptions()


@dataclass(frozen=True)
class Workload:
    """One run: a prompt of a length, or a number of requests."""

    call: str
    at: int
    prompts: tuple[int, int]

    def arguments(self, seed: Sequence[int], vocabulary: int, tokens: int) -> JsonObject:
        """Return the arguments of the program's call: fresh random prompts and the number of tokens."""
        count, length = self.prompts
        prompts = [random_prompt((*seed, self.at, i), length, vocabulary) for i in range(count)]
        key: JsonObject = {"prompt": prompts[0]} if self.call == "generate" else {"prompts": prompts}
        return {**key, "tokens": tokens}


def measure(
    folder: Path,
    config: ModelConfig,
    options: BenchOptions,
    *,
    dtype: str,
    programs: Sequence[str],
    nodes: NodeOptions = _ALONE,
    progress: Report = lambda _: None,
) -> Results:
    """Measure a model with one or several programs, interleaved: round by round, run by run, program by program.

    Over several `nodes`, memory is rank 0's, and its work isn't counted.
    """
    depths = options.depths(config.max_position_embeddings)
    workloads = [Workload("generate", depth, (1, depth)) for depth in depths]
    workloads += [Workload("batch", size, (size, options.batch_length)) for size in options.sizes()]
    results = Results(str(folder), {**asdict(options), "lengths": list(depths), "dtype": dtype})
    spread = asdict(nodes) if nodes.nodes > 1 else {}
    results.settings |= spread
    results.machine = machine_facts()
    needs = estimate(config, dtype)
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(name)) for name in programs]
        for worker in workers:
            progress(f"loading with {worker.name}")
            loaded = worker.call("load", folder=str(folder), dtype=dtype, **spread)
            worker.call("generate", prompt=random_prompt((options.seed,), 8, config.vocab_size), tokens=2)
            counted = {} if spread else worker.call("count", depth=depths[-1])
            results.facts[worker.name] = {
                **loaded,
                "kv_bytes_per_token": needs.kv_bytes_per_token,
                "count_depth": depths[-1],
                **counted,
            }
        for number in range(options.rounds):
            for workload in workloads:
                seed = (options.seed, number)
                for worker in workers if number % 2 == 0 else reversed(workers):
                    progress(f"round {number + 1} of {options.rounds}: {_named(workload)}, {worker.name}")
                    arguments = workload.arguments(seed, config.vocab_size, options.tokens)
                    _collect(results, workload, worker.name, worker.call(workload.call, **arguments))
    return results


def _collect(results: Results, workload: Workload, program: str, values: Result) -> None:
    kinds = {"batch_per_second": "batch", "peak_bytes": "batch peak"}
    if workload.call == "generate":
        kinds = {"prefill_per_second": "prefill", "decode_per_second": "decode", "peak_bytes": "peak"}
    for key, what in kinds.items():
        figure = next((one for one in results.figures if (one.what, one.at) == (what, workload.at)), None)
        if figure is None:
            figure = Figure(what, workload.at)
            results.figures.append(figure)
        if key in values:
            figure.add(program, values[key])


def _named(workload: Workload) -> str:
    return f"a prompt of {workload.at:,}" if workload.call == "generate" else f"a batch of {workload.at}"
