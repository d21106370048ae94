"""The results as rows for a table: what was measured, each program's figure, the ratio."""

from .results import Figure, Results

_TITLES = {
    "prefill": "prefill of {at:,} tokens, tokens/s",
    "decode": "decode at depth {at:,}, tokens/s",
    "batch": "batch of {at:,}, tokens/s",
    "peak": "peak memory, prompt of {at:,}",
    "batch peak": "peak memory, batch of {at:,}",
}


def header(results: Results) -> list[str]:
    """Return the columns' names; the ratio is ours to the other program's."""
    return ["", *results.programs, *(["ratio"] if len(results.programs) > 1 else [])]


def rows(results: Results) -> list[list[str]]:
    """Return one row a figure, then the counted ones."""
    made = [_figure_row(results, figure, title) for what, title in _TITLES.items() for figure in results.of(what)]
    return made + _fact_rows(results)


def _figure_row(results: Results, figure: Figure, title: str) -> list[str]:
    write = byte_size if "peak" in figure.what else rate
    medians = [figure.median(program) for program in results.programs]
    return [title.format(at=figure.at), *map(write, medians), *_ratio(medians)]


def _fact_rows(results: Results) -> list[list[str]]:
    facts = [results.facts[program] for program in results.programs]
    depth = int(facts[0]["count_depth"])
    kinds = [
        ("load, seconds", "load_s", lambda value: f"{value:.2f}"),
        ("weights", "weight_bytes", byte_size),
        ("KV cache bytes per token", "kv_bytes_per_token", lambda value: f"{value:,.0f}"),
        (f"operations per decode step at depth {depth:,}", "operations", lambda value: f"{value:,.0f}"),
        ("  kernel launches", "launches", lambda value: f"{value:,.0f}"),
        ("  bytes read of weights and cache", "bytes_read", byte_size),
    ]
    made = [
        [title, *(write(fact[key]) for fact in facts), *_ratio([fact[key] for fact in facts])]
        for title, key, write in kinds
    ]
    shares = [fact["bytes_read"] / fact["weight_bytes"] for fact in facts]
    return [*made, ["  as a multiple of the weights", *(f"{share:.2f}" for share in shares), *_ratio(shares)]]


def _ratio(values: list[float]) -> list[str]:
    return [f"{values[0] / values[1]:.2f}"] if len(values) > 1 else []


def rate(value: float) -> str:
    """Write a rate with three significant digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def byte_size(n_bytes: float) -> str:
    """Write bytes in GB or MB."""
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.1f} MB"
