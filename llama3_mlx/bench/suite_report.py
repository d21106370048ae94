"""The suite as one Markdown page: the machine, the table of all programs, what is ours alone."""

from ..json_types import JsonMapping
from ..units import size_text
from .suite import Suite
from .table import header, rate, rows


def markdown(suite: Suite) -> str:
    """Return the page."""
    results = suite.results
    lines = [f"# {results.model.rpartition('/')[2]}, {results.settings['dtype']}", "", *_machine(suite), ""]
    lines += [f"Medians of {results.settings['rounds']} alternating rounds; peaks are of MLX's allocator.", ""]
    lines += _table(header(results), rows(results))
    if "llama.cpp" in results.programs:
        lines += ["", "llama.cpp runs a GGUF file made of the model, in the type nearest to its bits."]
    for name, reason in suite.skipped.items():
        lines += ["", f"{name} is left out: {reason}"]
    lines += ["", "## Share of the memory's bandwidth", "", *_bandwidth(suite)]
    lines += ["", "## llama3-mlx alone", ""]
    lines += _table(["", "median", "unit"], [[one.name, rate(one.median), one.unit] for one in suite.singles])
    return "\n".join(lines) + "\n"


def _machine(suite: Suite) -> list[str]:
    machine = suite.results.machine
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items() if number)
    found = [
        f"- machine: {machine['chip'] or machine['device']}, {size_text(machine['memory_bytes'])} for models",
        f"- system: {machine['system']}; BLAS: {machine['blas']}",
        f"- versions: {versions}",
    ]
    for when, values in suite.conditions.items():
        if values:
            found.append(f"- {when}: {_condition(values)}")
    return found


def _condition(values: JsonMapping) -> str:
    words = [str(values["power"] or "power unknown")]
    words += ["low power mode"] if values["low_power_mode"] else []
    limit = values["cpu_speed_limit_percent"]
    words += [f"slowed down to {limit}% by heat"] if limit is not None and limit < 100 else ["not slowed down by heat"]
    return ", ".join(words)


def _bandwidth(suite: Suite) -> list[str]:
    """Return how much of what the memory can deliver decoding reads: bytes a step times steps a second."""
    results = suite.results
    rows = []
    depth = int(results.facts["llama3-mlx"]["count_depth"])
    figure = next(one for one in results.of("decode") if one.at == depth)
    for program in results.programs:
        read = results.facts[program].get("bytes_read")
        if read is None:
            continue
        used = read * figure.median(program)
        ceilings = (suite.bandwidth["measured"], suite.bandwidth["published"])
        shares = [f"{used / ceiling:.0%}" if ceiling else "" for ceiling in ceilings]
        rows.append([program, f"{used / 1e9:.1f} GB/s", *shares])
    measured, published = suite.bandwidth["measured"] or 0.0, suite.bandwidth["published"]
    names = [f"of {measured / 1e9:.0f} GB/s, a copy", f"of {published / 1e9:.0f} GB/s, published" if published else ""]
    return _table([f"decode at depth {depth:,}", "reads", *names], rows)


def _table(names: list[str], rows: list[list[str]]) -> list[str]:
    made = [f"| {' | '.join(names)} |", f"| {' | '.join('---' for _ in names)} |"]
    return [*made, *(f"| {' | '.join(cell.strip() for cell in row)} |" for row in rows)]
