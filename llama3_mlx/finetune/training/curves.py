"""Curves as inline SVG, without a plotting library."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 640, 220, 72, 28, 12


@dataclass(frozen=True)
class Curve:
    """One line of a chart: points (x, y) and how it is called."""

    name: str
    points: Sequence[tuple[float, float]]
    color: str = "#2563eb"


def chart(title: str, curves: Sequence[Curve], unit: str = "") -> str:
    """Return one chart as HTML; nothing for curves without points."""
    curves = [curve for curve in curves if curve.points]
    points = [point for curve in curves for point in curve.points]
    if not points:
        return ""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    left, right, low, high = min(xs), max(xs), min(0.0, *ys) if min(ys) < 0 else min(ys), max(ys)
    right, high = (right if right > left else left + 1), (high if high > low else low + abs(low) * 0.1 + 1e-9)

    def place(x: float, y: float) -> str:
        across = _LEFT + (x - left) / (right - left) * (_WIDTH - _LEFT - 8)
        up = _TOP + (high - y) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)
        return f"{across:.1f},{up:.1f}"

    lines = "".join(
        f'<polyline fill="none" stroke="{curve.color}" stroke-width="1.5" '
        f'points="{" ".join(place(x, y) for x, y in thinned(curve.points))}"/>'
        for curve in curves
    )
    grid = "".join(_grid_line(low + (high - low) * n / 4, place, left, right) for n in range(5))
    ticks = "".join(
        f'<text x="{place(x, low).split(",")[0]}" y="{_HEIGHT - 8}" text-anchor="{anchor}">{x:g}</text>'
        for x, anchor in ((left, "start"), (right, "end"))
    )
    names = " ".join(f'<span style="color:{curve.color}">{escape(curve.name)}</span>' for curve in curves)
    heading = f"<h3>{escape(title)}{f' ({escape(unit)})' if unit else ''} <small>{names}</small></h3>"
    return f'{heading}<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{grid}{ticks}{lines}</svg>'


def _grid_line(value: float, place: Callable[[float, float], str], left: float, right: float) -> str:
    height = place(left, value).split(",")[1]
    end = place(right, value).split(",")[0]
    return (
        f'<line x1="{_LEFT}" x2="{end}" y1="{height}" y2="{height}" stroke="#ddd"/>'
        f'<text x="{_LEFT - 6}" y="{float(height) + 4:.1f}" text-anchor="end">{value:.4g}</text>'
    )


def thinned(points: Sequence[tuple[float, float]], max_points: int = 1000) -> list[tuple[float, float]]:
    """Return at most `max_points` points: means of neighbors where there are more."""
    size = max(1, -(-len(points) // max_points))
    groups = [points[at : at + size] for at in range(0, len(points), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]
