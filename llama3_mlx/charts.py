"""Charts as SVG without a plotting library: the pieces that all pictures are made of, and a chart of lines."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 640, 240, 72, 44, 12, 8
_GRID_LINES = 5

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 760px; margin: 2em auto; padding: 0 1em; color: #222 }
svg { width: 100%; font-size: 11px } h3 small { font-weight: normal; margin-left: 1em }
table { border-collapse: collapse } td { padding: 2px 12px 2px 0; vertical-align: top }
pre { white-space: pre-wrap; background: #f5f5f5; padding: 8px; margin: 4px 0 }
"""


def html_page(title: str, parts: Iterable[str]) -> str:
    """Return a page that needs no other file."""
    head = f'<!doctype html><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    return head + "".join(parts) + "\n"


@dataclass(frozen=True)
class Curve:
    """One line of a chart: points (x, y) and how it is called."""

    name: str
    points: Sequence[tuple[float, float]]
    color: str = "#2563eb"


def line_chart(title: str, curves: Sequence[Curve], *, x_title: str, y_title: str = "") -> str:
    """Return a heading and a chart as HTML, with round numbers on both axes; nothing for curves without points."""
    curves = [curve for curve in curves if curve.points]
    points = [point for curve in curves for point in curve.points]
    if not points:
        return ""
    across = ticks(min(x for x, _ in points), max(x for x, _ in points), whole=True)
    up = ticks(min(y for _, y in points), max(y for _, y in points))

    def x_of(value: float) -> float:
        return _LEFT + (value - across[0]) / (across[-1] - across[0]) * (_WIDTH - _LEFT - _RIGHT)

    def y_of(value: float) -> float:
        return _TOP + (up[-1] - value) / (up[-1] - up[0]) * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    for value in up:
        parts += [
            rule(_LEFT, _WIDTH - _RIGHT, y_of(value)),
            text(_LEFT - 6, y_of(value) + 4, tick_text(value, up), "end"),
        ]
    parts += [text(x_of(value), _HEIGHT - _BOTTOM + 16, tick_text(value, across)) for value in across]
    parts.append(text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, x_title))
    if y_title:
        middle = (_TOP + _HEIGHT - _BOTTOM) / 2
        parts.append(f'<g transform="rotate(-90 12 {middle:.0f})">{text(12, middle + 4, y_title)}</g>')
    parts += [polyline([(x_of(x), y_of(y)) for x, y in thinned(curve.points)], curve.color) for curve in curves]
    names = " ".join(f'<span style="color:{curve.color}">{escape(curve.name)}</span>' for curve in curves)
    heading = f"<h3>{escape(title)} <small>{names}</small></h3>"
    return f'{heading}<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{"".join(parts)}</svg>'


@dataclass(frozen=True)
class Bar:
    """A bar of a chart: how long it is, which color it has, and half the length of the line that shows its error."""

    value: float
    color: str
    error: float | None = None


def bar_chart(title: str, rows: Sequence[tuple[str, Sequence[Bar]]], names: Sequence[tuple[str, str]]) -> str:
    """Return a heading and a chart of horizontal bars as HTML; nothing without rows.

    Each row has a label and its bars, from 0 on; `names` are (what a color means, the color).
    """
    values = [bar.value + (bar.error or 0) for _, bars in rows for bar in bars]
    if not values:
        return ""
    left, thick, gap = 150, 9, 10
    across = ticks(0, max(values))
    height = _TOP + sum(len(bars) * thick + gap for _, bars in rows) + 24

    def x_of(value: float) -> float:
        return left + value / across[-1] * (_WIDTH - left - 24)

    parts = [text(x_of(value), height - 6, tick_text(value, across)) for value in across]
    parts += [_upright(x_of(value), _TOP, height - 20) for value in across]
    y = float(_TOP)
    for label, bars in rows:
        parts.append(text(left - 8, y + len(bars) * thick / 2 + 4, label, "end"))
        for bar in bars:
            width = max(0.0, x_of(bar.value) - left)
            parts.append(f'<rect x="{left}" y="{y:.1f}" width="{width:.1f}" height="{thick - 1}" fill="{bar.color}"/>')
            if bar.error:
                ends = [
                    (x_of(max(0.0, bar.value - bar.error)), y + thick / 2),
                    (x_of(bar.value + bar.error), y + thick / 2),
                ]
                parts.append(polyline(ends, "#222", 1))
            y += thick
        y += gap
    legend = " ".join(f'<span style="color:{color}">{escape(name)}</span>' for name, color in names)
    heading = f"<h3>{escape(title)} <small>{legend}</small></h3>"
    return f'{heading}<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img">{"".join(parts)}</svg>'


def _upright(x: float, top: float, bottom: float) -> str:
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}" stroke="#ddd"/>'


def round_step(least: float) -> float:
    """Return the smallest of 1, 2 and 5 times a power of ten that isn't less."""
    power = 10.0 ** math.floor(math.log10(least))
    # A little less counts, for 0.3 / 3 isn't 0.1.
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Return round numbers, evenly apart, from at or below `low` to at or above `high`; integers with `whole`."""
    if high <= low:
        high = low + (1 if whole else abs(low) * 0.1 or 1.0)
    step = round_step((high - low) / (_GRID_LINES - 1))
    step = max(1.0, step) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def tick_text(value: float, among: Sequence[float]) -> str:
    """Return a number with as many digits as tell it from its neighbors."""
    step = among[1] - among[0] if len(among) > 1 else 1.0
    if max(abs(among[0]), abs(among[-1])) < 1e-3:
        return f"{value:.3g}" if value else "0"
    return f"{value:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


def text(x: float, y: float, words: str, anchor: str = "middle") -> str:
    """Return words at a point."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def rule(left: float, right: float, y: float) -> str:
    """Return a line of the grid."""
    return f'<line x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'


def polyline(points: Sequence[tuple[float, float]], color: str, width: float = 1.5) -> str:
    """Return a line through points."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width}"/>'


def thinned(points: Sequence[tuple[float, float]], max_points: int = 1000) -> list[tuple[float, float]]:
    """Return at most `max_points` points: means of neighbors where there are more."""
    size = max(1, -(-len(points) // max_points))
    groups = [points[at : at + size] for at in range(0, len(points), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]
