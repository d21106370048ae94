"""report.html: what a run did, in one file that needs nothing else; report.png where matplotlib is installed."""

import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from html import escape
from pathlib import Path
from typing import Any

from ...charts import Curve, html_page, line_chart
from ...errors import MissingExtraError
from ...files import save_text, save_whole
from ...json_types import JsonMapping
from .advice import advice
from .callbacks import StepReport
from .run_folder import read_metrics, read_run

_COLORS = ("#2563eb", "#dc2626", "#16a34a", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4b5563")
HTML, PNG = "report.html", "report.png"


@dataclass(frozen=True)
class Chart:
    """The curves of one quantity over the steps."""

    title: str
    curves: list[Curve]
    unit: str = ""


def write_report(folder: Path, result: JsonMapping, samples: Sequence[Mapping[str, str]] = ()) -> Path:
    """Write report.html from a run's folder; `samples` have prompt, expected, before and after."""
    lines = read_metrics(folder)
    steps = [line for line in lines if line["kind"] == "step"]
    checks = [line for line in lines if line["kind"] == "validation"]
    run = read_run(folder)
    settings = {name: value for name, value in run["settings"].items() if value not in (None, [], ())}
    facts = {**result, "model": Path(str(run["model"])).name, "kind": run["kind"]}
    if not checks:
        facts.pop("best_step", None)
    parts = [
        f"<h1>{escape(folder.resolve().name)}</h1>",
        _table({name: value for name, value in facts.items() if value is not None}),
        _next(advice(folder, run, result, steps, checks)),
        *(line_chart(c.title, c.curves, x_title="step", y_title=c.unit) for c in charts(steps, checks)),
        _samples(samples),
        "<h2>Settings</h2>",
        _table(settings),
    ]
    save_text(folder / HTML, html_page("Training report", parts))
    return folder / HTML


def charts(steps: Sequence[JsonMapping], checks: Sequence[JsonMapping]) -> list[Chart]:
    """Return the charts of a run."""

    def curve(name: str, key: str, scale: float = 1.0, color: str = "#2563eb") -> Curve:
        return Curve(name, [(line["step"], line[key] * scale) for line in steps if line.get(key) is not None], color)

    def checked(key: str) -> Curve:
        points = [(line["step"], line[key]) for line in checks if line.get(key) is not None]
        return Curve("validation", points, "#dc2626")

    known = {"kind", *(entry.name for entry in fields(StepReport))}
    more = sorted({key for line in (*steps, *checks) for key in line} - known - {"best"})
    numbered = {stem: keys for stem in map(_stem, more) if len(keys := [key for key in more if _stem(key) == stem]) > 1}
    single = [key for key in more if _stem(key) not in numbered]
    return [
        Chart("Loss", [curve("training", "loss"), checked("loss")], "loss"),
        *(Chart(key.capitalize(), [curve("training", key), checked(key)], key) for key in single),
        *(Chart(stem.capitalize(), _together(keys, checks or steps), stem) for stem, keys in numbered.items()),
        Chart("Learning rate", [curve("rate", "learning_rate")], "learning rate"),
        Chart("Gradient norm", [curve("norm", "gradient_norm")], "norm before clipping"),
        Chart("Speed", [curve("speed", "tokens_per_second")], "tokens a second"),
        Chart("Memory", [curve("peak", "peak_bytes", 1e-9), curve("held", "active_bytes", 1e-9, "#16a34a")], "GB"),
    ]


def _stem(key: str) -> str:
    """Return a name without the number at its end."""
    return key.rstrip("0123456789").rstrip()


def _together(keys: Sequence[str], lines: Sequence[JsonMapping]) -> list[Curve]:
    """Return a curve for each of several numbered figures, on what was held out if anything was."""
    ordered = sorted(keys, key=lambda key: int(key.removeprefix(_stem(key))))
    return [
        Curve(
            key, [(line["step"], line[key]) for line in lines if line.get(key) is not None], _COLORS[n % len(_COLORS)]
        )
        for n, key in enumerate(ordered)
    ]


def _next(found: Sequence[tuple[str, str]]) -> str:
    items = "".join(
        f"<li>{escape(words)}{f'<pre>{escape(command)}</pre>' if command else ''}</li>" for words, command in found
    )
    return f"<h2>What to do next</h2><ul>{items}</ul>"


def _table(values: JsonMapping) -> str:
    rows = "".join(
        f"<tr><td>{escape(str(name).replace('_', ' '))}</td><td>{escape(_shown(value))}</td></tr>"
        for name, value in values.items()
    )
    return f"<table>{rows}</table>"


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def _samples(samples: Sequence[Mapping[str, str]]) -> str:
    if not samples:
        return ""
    names = {"prompt": "Prompt", "expected": "In the data", "before": "Before", "after": "After"}
    blocks = [
        "".join(f"{name}<pre>{escape(sample[key])}</pre>" for key, name in names.items() if sample.get(key))
        for sample in samples
    ]
    return "<h2>Before and after</h2>" + "<hr>".join(blocks)


def check_png() -> None:
    """Raise MissingExtraError where a picture can't be written."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError.of("report.png needs matplotlib", "report")


def write_png(folder: Path) -> Path:
    """Write the curves as report.png; raises MissingExtraError without matplotlib."""
    check_png()
    from matplotlib.figure import Figure  # type: ignore[import-not-found, unused-ignore]

    lines = read_metrics(folder)
    found = charts(*([line for line in lines if line["kind"] == kind] for kind in ("step", "validation")))
    figure = Figure(figsize=(8, 2.6 * len(found)), layout="constrained")
    for axes, chart in zip(figure.subplots(len(found), squeeze=False)[:, 0], found, strict=True):
        for curve in chart.curves:
            points = zip(*curve.points, strict=True) if curve.points else ((), ())
            axes.plot(*points, label=curve.name, color=curve.color)
        axes.set_title(chart.title)
        axes.set_xlabel("step")
        axes.set_ylabel(chart.unit)
    save_whole(folder / PNG, lambda path: figure.savefig(path))
    return folder / PNG
