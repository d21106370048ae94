"""Counts and times for Prometheus, in its text format.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/ (text format 0.0.4).
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
PREFIX = "llama3_mlx_"


class Counter:
    """A sum that only grows, one for each combination of label values."""

    kind = "counter"

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        self.name, self.text, self._labels = PREFIX + name, text, tuple(labels)
        self._lock = threading.Lock()
        self._sums: dict[tuple[str, ...], float] = {} if labels else {(): 0.0}

    def add(self, amount: float = 1, **labels: str) -> None:
        """Add to the sum of these label values."""
        key = tuple(labels[name] for name in self._labels)
        with self._lock:
            self._sums[key] = self._sums.get(key, 0.0) + amount

    def value(self, **labels: str) -> float:
        """Return the sum of these label values."""
        return self._sums.get(tuple(labels[name] for name in self._labels), 0.0)

    def lines(self) -> Iterator[str]:
        """Yield the samples."""
        with self._lock:
            sums = dict(self._sums)
        for key, value in sorted(sums.items()):
            yield _sample(self.name, dict(zip(self._labels, key, strict=True)), value)


class Gauge:
    """Values computed when the metrics are read: label values to number."""

    kind = "gauge"

    def __init__(self, name: str, text: str, label: str | None, read: Callable[[], Mapping[str, float]]) -> None:
        self.name, self.text, self._label, self._read = PREFIX + name, text, label, read

    def lines(self) -> Iterator[str]:
        """Yield the samples."""
        for key, value in sorted(self._read().items()):
            yield _sample(self.name, {self._label: key} if self._label else {}, value)


class Histogram:
    """Times in seconds, counted in buckets."""

    kind = "histogram"

    def __init__(self, name: str, text: str, bounds: Sequence[float] = SECONDS) -> None:
        self.name, self.text, self._bounds = PREFIX + name, text, tuple(bounds)
        self._lock = threading.Lock()
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        place = next((i for i, bound in enumerate(self._bounds) if value <= bound), len(self._bounds))
        with self._lock:
            self._counts[place] += 1
            self._sum += value

    def lines(self) -> Iterator[str]:
        """Yield the samples."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        running = 0
        for bound, count in zip([*map(str, self._bounds), "+Inf"], counts, strict=True):
            running += count
            yield _sample(f"{self.name}_bucket", {"le": bound}, running)
        yield _sample(f"{self.name}_sum", {}, total)
        yield _sample(f"{self.name}_count", {}, running)


Metric = Counter | Gauge | Histogram


class Metrics:
    """Everything that the server counts."""

    def __init__(self) -> None:
        self.requests = Counter("requests_total", "Requests answered", ("path", "status"))
        self.prompt_tokens = Counter("prompt_tokens_total", "Tokens of prompts", ("model",))
        self.cached_tokens = Counter(
            "cached_prompt_tokens_total", "Prompt tokens found in the prefix cache", ("model",)
        )
        self.written_tokens = Counter("generated_tokens_total", "Tokens written", ("model",))
        self.passes = Counter("forward_passes_total", "Forward passes that wrote tokens, by answer", ("model",))
        self.passes_off = Counter(
            "forward_passes_without_drafts_total", "Of these, with the draft model or head switched off", ("model",)
        )
        by_position = ("model", "source", "position")
        self.drafted = Counter("draft_tokens_total", "Draft tokens by source and place in the draft", by_position)
        self.accepted = Counter("accepted_draft_tokens_total", "Of these, those that were accepted", by_position)
        self.cancelled = Counter("cancelled_total", "Requests whose client went away")
        self.refused = Counter("refused_total", "Requests refused because the queue was full")
        self.loads = Counter("model_loads_total", "Models loaded into memory", ("model",))
        self.first_token = Histogram("time_to_first_token_seconds", "From a request's arrival to its first text")
        self.duration = Histogram("request_duration_seconds", "From a request's arrival to its last byte")
        self.guard_checks = Counter("guard_checks_total", "Judgements by the guard", ("on", "verdict"))
        self.guard_check = Histogram("guard_check_seconds", "What the guard takes for one judgement")
        self.guard_wait = Histogram("guard_wait_seconds", "What judging adds to a request")
        self.shield_scans = Counter("shield_scans_total", "Blocks of code that were scanned", ("status",))
        self.shield_scan = Histogram("shield_scan_seconds", "What the shield takes for the code that a piece ends")
        self.gauges: list[Gauge] = []

    def text(self) -> str:
        """Return all metrics in Prometheus's text format."""
        metrics: tuple[Metric, ...] = (
            self.requests,
            self.prompt_tokens,
            self.cached_tokens,
            self.written_tokens,
            self.passes,
            self.passes_off,
            self.drafted,
            self.accepted,
            self.cancelled,
            self.refused,
            self.loads,
            self.first_token,
            self.duration,
            self.guard_checks,
            self.guard_check,
            self.guard_wait,
            self.shield_scans,
            self.shield_scan,
            *self.gauges,
        )
        lines: list[str] = []
        for metric in metrics:
            lines += [f"# HELP {metric.name} {metric.text}", f"# TYPE {metric.name} {metric.kind}", *metric.lines()]
        return "\n".join(lines) + "\n"


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    shown = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    number = int(value) if value == int(value) else value
    return f"{name}{{{shown}}} {number}" if shown else f"{name} {number}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
