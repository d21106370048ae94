"""The results as rows for a table: what was measured, each program's figure, the ratio."""

import math
from collections.abc import Sequence

from ..units import size_text
from .results import Figure, Results

_TITLES = {
    "prefill": "prefill of {at:,} tokens, tokens/s",
    "decode": "decode at depth {at:,}, tokens/s",
    "batch": "batch of {at:,}, tokens/s",
    "peak": "peak memory, prompt of {at:,}",
    "batch peak": "peak memory, batch of {at:,}",
}


def header(results: Results) -> list[str]:
    """Return the columns' names; ratios are ours to the other programs'."""
    others = results.programs[1:]
    return ["", *results.programs, *(["ratio"] if len(others) == 1 else [f"to {name}" for name in others])]


def rows(results: Results) -> list[list[str]]:
    """Return one row a figure, then the counted ones."""
    made = [_figure_row(results, figure, title) for what, title in _TITLES.items() for figure in results.of(what)]
    made += _fact_rows(results)
    empty = [""] * (len(header(results)) - 2)
    return made + [[title, shown, *empty] for title, shown in (results.drafts.rows() if results.drafts else ())]


def _figure_row(results: Results, figure: Figure, title: str) -> list[str]:
    write = size_text if "peak" in figure.what else rate
    medians = [figure.median(program) for program in results.programs]
    shown = ("" if math.isnan(median) else write(median) for median in medians)
    return [title.format(at=figure.at), *shown, *_ratio(medians)]


def _fact_rows(results: Results) -> list[list[str]]:
    facts = [results.facts[program] for program in results.programs]
    depth = int(facts[0]["count_depth"])
    kinds = [
        ("load, seconds", "load_s", lambda value: f"{value:.2f}"),
        ("weights", "weight_bytes", size_text),
        ("KV cache bytes per token", "kv_bytes_per_token", lambda value: f"{value:,.0f}"),
        (f"operations per decode step at depth {depth:,}", "operations", lambda value: f"{value:,.0f}"),
        ("  kernel launches", "launches", lambda value: f"{value:,.0f}"),
        ("  bytes read of weights and cache", "bytes_read", size_text),
    ]
    made = [
        [
            title,
            *(write(fact[key]) if key in fact else "" for fact in facts),
            *_ratio([fact.get(key) for fact in facts]),
        ]
        for title, key, write in kinds
    ]
    shares = [fact["bytes_read"] / fact["weight_bytes"] if "bytes_read" in fact else None for fact in facts]
    shown = ("" if share is None else f"{share:.2f}" for share in shares)
    return [*made, ["  as a multiple of the weights", *shown, *_ratio(shares)]]


def _ratio(values: Sequence[float | None]) -> list[str]:
    """Return ours to each of the others, empty where one doesn't give the figure."""
    ours = values[0]
    return [f"{ours / value:.2f}" if ours and value and not math.isnan(value) else "" for value in values[1:]]


def rate(value: float) -> str:
    """Write a rate with three significant digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
