"""Draws modules' KL divergence by layer as an SVG: a stacked bar for each layer, one for embedding and head each."""

from collections.abc import Sequence
from html import escape
from math import ceil

from ...charts import round_step, rule, text
from .divergence import MODULES, ModuleDistance

_COLORS = ("#4477aa", "#66ccee", "#228833", "#ccbb44", "#ee6677", "#aa3377", "#bbbbbb", "#333333", "#994455")
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 960, 380, 70, 50, 40


def sensitivity_picture(modules: Sequence[ModuleDistance]) -> str:
    """Return the picture of modules in the model's order."""
    bars: dict[str, list[tuple[str, float]]] = {}
    for module in modules:
        bar, kind = _place(module.path)
        bars.setdefault(bar, []).append((kind, max(module.kl, 0.0)))
    highest = max((sum(kl for _, kl in bar) for bar in bars.values()), default=0.0) or 1.0
    step = round_step(highest / 4)
    top = step * ceil(highest / step)
    kinds = list(dict.fromkeys(kind for bar in bars.values() for kind, _ in bar))
    colors = dict(zip(kinds, _COLORS, strict=False))
    parts = [*_legend(kinds, colors), *_axis(top, step), *_bars(bars, top, colors)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        'font-family="sans-serif" font-size="11">\n<rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _place(path: str) -> tuple[str, str]:
    """Return a module's bar and its kind."""
    layer, name = path.split(".", 3)[2:] if path.startswith("model.layers.") else ("", path)
    short = path.rpartition(".")[2]
    return (layer, short) if name in MODULES else ({"embed_tokens": "emb", "lm_head": "head"}.get(short, short), short)


def _bars(bars: dict[str, list[tuple[str, float]]], top: float, colors: dict[str, str]) -> list[str]:
    space = (_WIDTH - _LEFT - 10) / max(1, len(bars))
    drawn = []
    for number, (label, bar) in enumerate(bars.items()):
        x, y = _LEFT + number * space, float(_HEIGHT - _BOTTOM)
        for kind, kl in bar:
            height = kl / top * (_HEIGHT - _TOP - _BOTTOM)
            y -= height
            drawn.append(
                f'<rect x="{x + 1:.1f}" y="{y:.2f}" width="{max(1.0, space - 2):.1f}" height="{height:.2f}" '
                f'fill="{colors[kind]}"><title>{escape(label)} {escape(kind)}: {kl:.3g}</title></rect>'
            )
        every = max(1, len(bars) // 40)
        # The head's label stands over those of layers that would touch it.
        shown = "head" not in bars or number + every < len(bars)
        if label == "head" or (number % every == 0 and shown):
            middle = x + space / 2
            drawn.append(text(middle, _HEIGHT - 24, label))
    drawn.append(text(_WIDTH / 2, _HEIGHT - 6, "layer"))
    return drawn


def _axis(top: float, step: float) -> list[str]:
    drawn = [f'<text x="{_LEFT}" y="16">KL divergence of each module quantized alone, nats a token</text>']
    for number in range(round(top / step) + 1):
        y = _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * number * step / top
        drawn += [rule(_LEFT, _WIDTH - 10, y), text(_LEFT - 6, y + 4, f"{number * step:.3g}", "end")]
    return drawn


def _legend(kinds: Sequence[str], colors: dict[str, str]) -> list[str]:
    drawn = []
    for number, kind in enumerate(kinds):
        x = _LEFT + number * 97
        drawn.append(f'<rect x="{x}" y="24" width="11" height="11" fill="{colors[kind]}"/>')
        drawn.append(f'<text x="{x + 15}" y="34">{escape(kind)}</text>')
    return drawn
