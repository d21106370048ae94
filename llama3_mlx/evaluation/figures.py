"""What benchmarks gave: figures of tasks and groups, the published ones beside them, and differences of two models."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from ..json_types import JsonMapping, JsonObject
from .benchmarks import Benchmark
from .estimates import Estimate, mean

# Metrics between 0 and 1 that are shown in per cent.
_SHARES = {"acc", "acc_norm", "acc_mutual_info", "exact_match", "em", "f1", "pass@1", "math_verify", "exact"}


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric of a task or a group."""

    task: str
    metric: str
    """As the harness writes it: the name and the filter of answers, "exact_match,strict_match"."""
    value: float
    error: float | None
    """Standard error, where the harness gives one."""
    n: int
    """Questions."""
    shots: int
    depth: int = 0
    """How deep in groups the task lies."""

    def __str__(self) -> str:
        factor = 100 if self.is_share else 1
        return shown(self.value * factor, None if self.error is None else self.error * factor)

    @property
    def is_share(self) -> bool:
        """Whether the figure is shown in per cent."""
        return _is_share(self.metric, self.value)

    @property
    def percent(self) -> float:
        """The value in per cent, for one that is so by itself as it is."""
        return self.value * 100 if self.is_share else self.value


@dataclass(frozen=True, slots=True)
class Difference:
    """How far a model's figure is above another's on the same questions."""

    task: str
    metric: str
    value: float
    error: float | None
    """Standard error of the paired difference, where each question has a figure of its own."""
    depth: int = 0

    @property
    def is_share(self) -> bool:
        """Whether the difference is shown in per cent."""
        return _is_share(self.metric, abs(self.value))


# Of each task and metric: each question's own figure, by its number.
Samples = Mapping[tuple[str, str], Mapping[int, float]]


@dataclass(frozen=True)
class Outcome:
    """What one benchmark gave, or why it could not run."""

    benchmark: Benchmark
    figures: Sequence[Figure] = ()
    samples: Samples = field(default_factory=dict)
    problem: str | None = None

    @property
    def main(self) -> Figure | None:
        """The figure to set beside the published one; None where there is none."""
        if self.benchmark.macro:
            return self._macro()
        return next((figure for figure in self.figures if self._is_main(figure)), None)

    def _is_main(self, figure: Figure) -> bool:
        return figure.task == self.benchmark.task and figure.metric == (self.benchmark.metric or figure.metric)

    def _macro(self) -> Figure | None:
        leaves = [each for each in self.leaves() if each.metric == self.benchmark.metric]
        if not leaves or self.benchmark.task is None or self.benchmark.metric is None:
            return None
        errors = [each.error for each in leaves if each.error is not None]
        error = math.sqrt(sum(each**2 for each in errors)) / len(leaves) if len(errors) == len(leaves) else None
        value = sum(each.value for each in leaves) / len(leaves)
        shots = max(each.shots for each in leaves)
        return Figure(self.benchmark.task, self.benchmark.metric, value, error, sum(each.n for each in leaves), shots)

    def leaves(self) -> Iterator[Figure]:
        """Yield the figures of tasks that are no groups."""
        for at, figure in enumerate(self.figures):
            following = self.figures[at + 1 : at + 2]
            if not any(other.depth > figure.depth for other in following):
                yield figure


@dataclass(frozen=True)
class Evaluation:
    """What a model reached on benchmarks."""

    model: str
    outcomes: Sequence[Outcome]

    def to_dict(self) -> JsonObject:
        """Return the figures as JSON, without those of single questions."""
        return {
            "model": self.model,
            "benchmarks": [
                {
                    **asdict(outcome.benchmark),
                    "problem": outcome.problem,
                    "result": asdict(outcome.main) if outcome.main else None,
                    "figures": [asdict(figure) for figure in outcome.figures],
                }
                for outcome in self.outcomes
            ],
        }


def read_figures(results: JsonMapping) -> list[Figure]:
    """Return the figures of a run of the harness: groups, then what is in them."""
    groups: Mapping[str, Sequence[str]] = {
        name: members for name, members in results.get("group_subtasks", {}).items() if members
    }
    inner = {member for members in groups.values() for member in members}
    found: list[Figure] = []

    def add(name: str, depth: int) -> None:
        found.extend(_figures_of(name, results, depth))
        for member in groups.get(name, ()):
            add(member, depth + 1)

    for name in results["results"]:
        if name not in inner:
            add(name, 0)
    return found


def _figures_of(name: str, results: JsonMapping, depth: int) -> Iterator[Figure]:
    values = results["results"].get(name, {})
    for key, value in values.items():
        metric, comma, kind = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = values.get(f"{metric}_stderr,{kind}")
        error = float(error) if isinstance(error, int | float) else None
        shots = results.get("n-shot", {}).get(name, 0)
        yield Figure(name, key, float(value), error, int(values.get("sample_len", 0)), int(shots or 0), depth)


def read_samples(results: JsonMapping) -> Samples:
    """Return each question's own figures of a run of the harness."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for task, samples in results.get("samples", {}).items():
        for sample in samples:
            for metric in sample.get("metrics", ()):
                value = sample.get(metric)
                if isinstance(value, bool | int | float):
                    of_metric = found.setdefault((task, f"{metric},{sample['filter']}"), {})
                    of_metric[sample["doc_id"]] = float(value)
    return found


def differences(one: Outcome, other: Outcome) -> list[Difference]:
    """Return how far one model is above another, for each figure that both have.

    A group's error follows from those of its tasks, weighted as the harness weights them: by their questions.
    """
    others = {(figure.task, figure.metric): figure for figure in other.figures}
    found: list[Difference] = []
    for at, figure in enumerate(one.figures):
        theirs = others.get((figure.task, figure.metric))
        if theirs is None:
            continue
        paired = _paired(one.samples, other.samples, figure)
        error = paired.error if paired is not None else _group_error(one, other, at)
        found.append(Difference(figure.task, figure.metric, figure.value - theirs.value, error, figure.depth))
    return found


def _paired(one: Samples, other: Samples, figure: Figure) -> Estimate | None:
    """Return the mean difference over the questions that both have; None where the figure isn't their mean."""
    mine, theirs = (samples.get((figure.task, figure.metric), {}) for samples in (one, other))
    shared = sorted(set(mine) & set(theirs))
    if not shared or not math.isclose(sum(mine.values()) / len(mine), figure.value, rel_tol=1e-6, abs_tol=1e-9):
        return None
    return mean(np.array([mine[number] - theirs[number] for number in shared]))


def _group_error(one: Outcome, other: Outcome, at: int) -> float | None:
    group = one.figures[at]
    members = []
    for figure in one.figures[at + 1 :]:
        if figure.depth <= group.depth:
            break
        if figure.metric == group.metric and (figure.task, figure.metric) in one.samples:
            members.append(figure)
    estimates = [_paired(one.samples, other.samples, figure) for figure in members]
    whole = sum(figure.n for figure in members)
    if not members or any(each is None for each in estimates):
        return None
    squares = [(figure.n / whole * each.error) ** 2 for figure, each in zip(members, estimates, strict=True) if each]
    return math.sqrt(sum(squares))


def _is_share(metric: str, value: float) -> bool:
    return metric.partition(",")[0] in _SHARES and 0 <= value <= 1


def shown(value: float, error: float | None) -> str:
    """Return a figure with its error, two digits behind the point."""
    return f"{value:.2f}" if error is None or math.isnan(error) else f"{value:.2f} ± {error:.2f}"
