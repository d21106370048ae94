"""Benchmarks: tasks of lm-evaluation-harness, and the two tables of the Llama 3 release with what was published.

Source of the figures: https://github.com/meta-llama/llama3 (MODEL_CARD.md, eval_details.md).
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import RequestError
from .options import EvalOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A task or group of the harness, how it is asked, and what is taken from it."""

    title: str
    task: str | None
    """None: the harness has no such task."""
    metric: str | None = None
    """As the harness writes it, "acc,none"; None: the first that the task has."""
    shots: int | None = None
    """None: as the task says."""
    macro: bool = False
    """The mean over subtasks, each counting the same; else over questions."""
    chat: bool = False
    unsafe: bool = False
    """Programs that the model writes are run."""
    published: tuple[float, float] | None = None
    """Per cent, of the 8B and the 70B model."""
    note: str = ""
    """How the task differs from what was published."""


def _base(
    title: str, task: str | None, metric: str, shots: int, published: tuple[float, float], **more: Any
) -> Benchmark:
    return Benchmark(title=title, task=task, metric=metric, shots=shots, published=published, **more)


_LETTERS = "published with letters to choose from, the task scores the answers' texts"
_LIKELIHOOD = "published with a chain of thought, the task scores the letters"
PRESETS: dict[str, tuple[Benchmark, ...]] = {
    "llama3-base": (
        _base("MMLU", "mmlu", "acc,none", 5, (66.6, 79.5), macro=True),
        _base("AGIEval English", "agieval_en", "acc,none", 3, (45.9, 63.0), macro=True, note="published with 3 to 5"),
        _base("CommonSenseQA", "commonsense_qa", "acc,none", 7, (72.6, 83.8), note=_LIKELIHOOD),
        _base("Winogrande", "winogrande", "acc,none", 5, (76.1, 83.1)),
        _base("BIG-Bench Hard", "bbh_cot_fewshot", "exact_match,get-answer", 3, (61.1, 81.3)),
        _base("ARC-Challenge", "arc_challenge", "acc_norm,none", 25, (78.6, 93.0), note=_LETTERS),
        _base("TriviaQA-Wiki", "triviaqa", "exact_match,remove_whitespace", 5, (78.5, 89.7)),
        _base("SQuAD v2", "squadv2", "exact,none", 1, (76.4, 85.6)),
        _base("QuAC", None, "", 1, (44.4, 51.1)),
        _base("BoolQ", "boolq", "acc,none", 0, (75.7, 79.0)),
        _base("DROP", "drop", "f1,none", 3, (58.4, 79.7)),
    ),
    "llama3-instruct": (
        _base("MMLU", "mmlu_llama", "exact_match,strict_match", 5, (68.4, 82.0), macro=True, chat=True),
        _base(
            "GPQA main",
            "gpqa_main_zeroshot",
            "acc,none",
            0,
            (34.2, 39.5),
            chat=True,
            note="published as written, the task scores the letters",
        ),
        _base("HumanEval", "humaneval_instruct", "pass@1,create_test", 0, (62.2, 81.7), chat=True, unsafe=True),
        _base("GSM8K", "gsm8k_llama", "exact_match,strict_match", 8, (79.6, 93.0), chat=True),
        _base("MATH", "minerva_math", "exact_match,none", 4, (30.0, 50.4), chat=True),
    ),
}


def benchmarks_of(names: Iterable[str], options: EvalOptions) -> list[Benchmark]:
    """Return the benchmarks of presets and tasks, asked as the options say where these say anything.

    Raises RequestError where no name is given.
    """
    found: list[Benchmark] = []
    for name in dict.fromkeys(name.strip() for name in names):
        if name:
            found += PRESETS.get(name) or (Benchmark(title=name, task=name),)
    if not found:
        raise RequestError(f"name tasks of lm-evaluation-harness, or {' or '.join(PRESETS)}")
    changes: dict[str, Any] = {}
    if options.shots is not None:
        changes["shots"] = options.shots
    if options.chat is not None:
        changes["chat"] = options.chat
    return [replace(benchmark, **changes) for benchmark in found]


def check_names(benchmarks: Sequence[Benchmark], known: Sequence[str]) -> None:
    """Raise RequestError for a task that the harness doesn't know, with those that are called much the same."""
    for benchmark in benchmarks:
        if benchmark.task is not None and benchmark.task not in known:
            close = difflib.get_close_matches(benchmark.task, [*known, *PRESETS], 3)
            meant = f"; did you mean {', '.join(close)}?" if close else ""
            raise RequestError(
                f"there is no task {benchmark.task!r}{meant} (presets are {', '.join(PRESETS)}; `lm-eval ls tasks` "
                "lists the harness' own, --tasks-folder adds yours)"
            )
