"""evaluation.html and evaluation.json: benchmarks of a model, with a picture, in files that need nothing else."""

from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path

from ..charts import Bar, bar_chart, html_page
from ..files import save_json, save_text
from ..json_types import JsonObject
from .figures import Difference, Evaluation, Outcome, differences
from .table import difference_rows, figure_rows, outcome_rows

HTML, JSON = "evaluation.html", "evaluation.json"
_OURS, _OTHER, _8B, _70B = "#2563eb", "#16a34a", "#9ca3af", "#d1d5db"


def write_evaluation(folder: Path, found: Evaluation, other: Evaluation | None = None) -> Path:
    """Write both files, of one model or of two on the same benchmarks; return the path of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    save_json(folder / JSON, to_dict(found, other))
    title = found.model if other is None else f"{found.model} beside {other.model}"
    parts = [f"<h1>{escape(title)}</h1>", _picture(found, other), _html(outcome_rows(found.outcomes))]
    if other is not None:
        parts += ["<h2>Differences</h2>", _html(difference_rows(compared(found, other)))]
    for outcome in found.outcomes:
        if len(outcome.figures) > 1:
            parts += [f"<h2>{escape(outcome.benchmark.title)}</h2>", _html(figure_rows(outcome.figures))]
    save_text(folder / HTML, html_page(f"Evaluation of {title}", parts))
    return folder / HTML


def to_dict(found: Evaluation, other: Evaluation | None = None) -> JsonObject:
    """Return the figures of one model, or of two with their differences, as JSON."""
    if other is None:
        return found.to_dict()
    listed = [asdict(each) for each in compared(found, other)]
    return {**found.to_dict(), "compared": other.to_dict(), "differences": listed}


def compared(found: Evaluation, other: Evaluation) -> list[Difference]:
    """Return the differences of two models on all benchmarks."""
    return [each for one, two in zip(found.outcomes, other.outcomes, strict=True) for each in differences(one, two)]


def _picture(found: Evaluation, other: Evaluation | None) -> str:
    names = [(found.model, _OURS)]
    others: Sequence[Outcome | None] = [None] * len(found.outcomes)
    if other is not None:
        names.append((other.model, _OTHER))
        others = other.outcomes
    rows = []
    for outcome, beside in zip(found.outcomes, others, strict=True):
        bars = [*_bars(outcome, _OURS), *(_bars(beside, _OTHER) if beside else [])]
        if bars and outcome.benchmark.published:
            bars += [Bar(value, color) for value, color in zip(outcome.benchmark.published, (_8B, _70B), strict=True)]
        if bars:
            rows.append((outcome.benchmark.title, bars))
    if any(outcome.benchmark.published for outcome in found.outcomes):
        names += [("published, 8B", _8B), ("published, 70B", _70B)]
    return bar_chart("Per cent", rows, names)


def _bars(outcome: Outcome, color: str) -> list[Bar]:
    main = outcome.main
    if main is None or not (main.is_share or outcome.benchmark.published):
        return []
    factor = 100 if main.is_share else 1
    return [Bar(main.percent, color, None if main.error is None else main.error * factor)]


def _html(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = ["".join(f"<th align=left>{escape(cell)}</th>" for cell in head)]
    lines += ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in body]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
