"""Tables of figures, as rows of text: the first row is the head."""

from collections.abc import Sequence

from .figures import Difference, Figure, Outcome, shown


def outcome_rows(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """Return one row for each benchmark, with the published figures where there are any."""
    published = any(outcome.benchmark.published for outcome in outcomes)
    rows = [["benchmark", "task", "shots", "metric", "n", "result", *(["8B", "70B"] if published else []), ""]]
    for outcome in outcomes:
        benchmark, main = outcome.benchmark, outcome.main
        facts = [str(main.shots), main.metric, str(main.n), str(main)] if main else ["", "", "", "—"]
        theirs = [f"{value:.1f}" for value in benchmark.published or ()] or ["", ""]
        notes = "; ".join(note for note in (outcome.problem and f"not run: {outcome.problem}", benchmark.note) if note)
        mean = ", mean of subtasks" if benchmark.macro and main else ""
        facts[1:2] = [f"{facts[1]}{mean}"]
        rows.append([benchmark.title, benchmark.task or "", *facts, *(theirs if published else []), notes])
    return rows


def figure_rows(figures: Sequence[Figure]) -> list[list[str]]:
    """Return one row for each figure, groups with what is in them indented below."""
    rows = [["task", "metric", "n", "result"]]
    rows += [[f"{'  ' * each.depth}{each.task}", each.metric, str(each.n), str(each)] for each in figures]
    return rows


def difference_rows(found: Sequence[Difference]) -> list[list[str]]:
    """Return one row for each difference, and whether it is beyond twice its standard error."""
    rows = [["task", "metric", "difference", ""]]
    for each in found:
        factor = 100 if each.is_share else 1
        error = None if each.error is None else each.error * factor
        clear = (
            "" if error is None else "beyond 2 standard errors" if abs(each.value * factor) > 2 * error else "within 2"
        )
        rows.append([f"{'  ' * each.depth}{each.task}", each.metric, shown(each.value * factor, error), clear])
    return rows
