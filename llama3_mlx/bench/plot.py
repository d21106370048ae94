"""Draws the results as one SVG: a panel each for prefill, decode, batches and memory, a line a program."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from ..charts import polyline, rule, text
from ..units import size_text
from .results import Figure, Results

_PANELS = (
    ("prefill", "prefill, tokens/s", "prompt tokens"),
    ("decode", "decode, tokens/s", "tokens in context"),
    ("batch", "batches, tokens/s", "requests together"),
    ("peak", "peak memory", "prompt tokens"),
)
_COLORS = ("#1f6feb", "#d1600a", "#2f8f4e")
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM, _RIGHT = 380, 260, 64, 34, 44, 16


@dataclass(frozen=True)
class _Frame:
    """Maps sizes (logarithmic) and figures (from 0) to a panel's pixels."""

    sizes: tuple[int, ...]
    top: float

    def x(self, at: int) -> float:
        low, high = math.log(self.sizes[0]), math.log(self.sizes[-1])
        share = (math.log(at) - low) / (high - low) if high > low else 0.5
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - value / self.top * (_HEIGHT - _TOP - _BOTTOM)


def svg(results: Results) -> str:
    """Return the drawing; medians as points, every round as a faint one."""
    panels = [(what, title, below) for what, title, below in _PANELS if results.of(what)]
    columns = min(2, max(1, len(panels)))
    lines = -(-len(panels) // columns)
    width, height = columns * _WIDTH, lines * _HEIGHT + 50
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#333">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="16" y="20" font-size="14" font-weight="600">{escape(_caption(results))}</text>',
        *_legend(results.programs),
    ]
    for index, (what, title, below) in enumerate(panels):
        left, top = index % columns * _WIDTH, index // columns * _HEIGHT + 50
        drawn = _panel(results.of(what), results.programs, title, below, size_text if what == "peak" else _number)
        parts.append(f'<g transform="translate({left},{top})">{"".join(drawn)}</g>')
    return "\n".join([*parts, "</svg>", ""])


def _caption(results: Results) -> str:
    name = results.model.rstrip("/").rsplit("/", 1)[-1]
    return f"{name}, {results.settings['dtype']}, {results.machine.get('device', '')}".rstrip(", ")


def _legend(programs: Sequence[str]) -> list[str]:
    parts = []
    for index, program in enumerate(programs):
        x = 16 + 110 * index
        parts.append(f'<circle cx="{x + 4}" cy="36" r="4" fill="{_COLORS[index % len(_COLORS)]}"/>')
        parts.append(f'<text x="{x + 14}" y="40">{escape(program)}</text>')
    return parts


def _panel(
    figures: list[Figure], programs: Sequence[str], title: str, below: str, write: Callable[[float], str]
) -> list[str]:
    values = [value for figure in figures for rounds in figure.rounds.values() for value in rounds]
    frame = _Frame(tuple(figure.at for figure in figures), _round_up(max(values)))
    parts = [f'<text x="{_LEFT}" y="18" font-weight="600">{escape(title)}</text>', *_grid(frame, below, write)]
    for index, program in enumerate(programs):
        color = _COLORS[index % len(_COLORS)]
        points = [(frame.x(figure.at), frame.y(figure.median(program))) for figure in figures]
        parts.append(polyline(points, color, 2))
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{color}"/>' for x, y in points]
        parts += [
            f'<circle cx="{frame.x(figure.at):.1f}" cy="{frame.y(value):.1f}" r="2" fill="{color}" opacity="0.3"/>'
            for figure in figures
            for value in figure.rounds[program]
        ]
    return parts


def _grid(frame: _Frame, below: str, write: Callable[[float], str]) -> list[str]:
    parts, right = [], _WIDTH - _RIGHT
    for step in range(5):
        value = frame.top * step / 4
        y = frame.y(value)
        parts += [rule(_LEFT, right, y), text(_LEFT - 6, y + 4, write(value) if value else "0", "end")]
    for at in frame.sizes:
        x = frame.x(at)
        parts.append(text(x, _HEIGHT - _BOTTOM + 16, f"{at:,}"))
    middle = (_LEFT + right) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 10}" text-anchor="middle" fill="#777">{escape(below)}</text>')
    return parts


def _round_up(value: float) -> float:
    """Return the next of 1, 2, 4, 5, 8 or 10 times a power of ten, so that quarters of it read well."""
    if value <= 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value))
    return next(unit * n for n in (1, 2, 4, 5, 8, 10) if unit * n >= value)


def _number(value: float) -> str:
    return f"{value:,g}"
