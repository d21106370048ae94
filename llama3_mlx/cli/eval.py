"""`llama3-mlx eval`: benchmarks of lm-evaluation-harness, and the tables of the Llama 3 release."""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..dtypes import DTYPES
from ..evaluation.options import EvalOptions
from .flags import add_flags, from_flags
from .model_choice import MODEL_HELP, add_node_flags, choose_model, node_options, write_notes

if TYPE_CHECKING:
    from ..evaluation import Evaluation, Outcome

ERROR_CODE = 2


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `eval`."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("-m", "--model", dest="named", metavar="MODEL", help="the same as a flag")
    parser.add_argument(
        "-t",
        "--tasks",
        metavar="NAMES",
        required=True,
        help="tasks and groups of lm-evaluation-harness, with commas; llama3-base and llama3-instruct are the tables "
        "of the Llama 3 release",
    )
    parser.add_argument("--adapter", metavar="ADAPTER", help="LoRA adapter to apply: folder, name or Hub id")
    parser.add_argument("--dtype", choices=DTYPES, help="dtype to compute in (default: what suits the device)")
    parser.add_argument("--memory-gb", type=float, metavar="X", help="memory limit for weights and KV cache")
    parser.add_argument("--compare", metavar="OTHER", help="run another model too, and print the paired differences")
    parser.add_argument(
        "-o", "--out", type=Path, metavar="FOLDER", help="write evaluation.html and evaluation.json here"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_flags(parser, EvalOptions, "tasks")
    add_node_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Run the benchmarks and print what they gave; exit code 2 where one could not run."""
    options = from_flags(args, EvalOptions)
    names = args.tasks.split(",")
    _prepare_environment(options.data, unsafe_code=options.unsafe_code)
    from ..evaluation.benchmarks import benchmarks_of
    from ..evaluation.evaluating import check_harness
    from ..library.resolver import resolve_adapter

    check_harness()
    benchmarks_of(names, options)
    adapter = None if args.adapter is None else resolve_adapter(args.adapter)
    weights = node_options(args).nodes == 1
    folder = choose_model(args.model or args.named, adapter=adapter, weights=weights)
    other_folder = None if args.compare is None else choose_model(args.compare)
    found = _evaluated(folder, names, options, args, adapter)
    other = None if other_folder is None else _evaluated(other_folder, names, options, args, None)
    if args.out is not None:
        from ..evaluation.report import write_evaluation

        sys.stderr.write(f"written: {write_evaluation(args.out.expanduser(), found, other)}\n")
    _print(found, other, as_json=args.json)
    failed = [outcome for outcome in found.outcomes if outcome.problem and outcome.benchmark.task]
    if failed:
        sys.stderr.write(
            f"error: {len(failed)} of {len(found.outcomes)} benchmarks didn't run: "
            f"{'; '.join(f'{outcome.benchmark.title}: {outcome.problem}' for outcome in failed)}\n"
        )
    return ERROR_CODE if failed else 0


def _prepare_environment(data: Path | None, *, unsafe_code: bool) -> None:
    """Set what the Hub's packages read when they are imported, which is from here on."""
    if data is not None:
        os.environ["HF_DATASETS_CACHE"] = str(data.expanduser().absolute())
    if unsafe_code:
        os.environ["HF_ALLOW_CODE_EVAL"] = "1"
    if not sys.stderr.isatty():
        os.environ["TQDM_DISABLE"] = "1"


def _evaluated(
    folder: Path, names: Sequence[str], options: EvalOptions, args: argparse.Namespace, adapter: Path | None
) -> "Evaluation":
    from ..evaluation import evaluate
    from ..llama import Llama

    nodes = node_options(args)
    with (
        Llama.load(
            folder,
            adapter=adapter,
            dtype=args.dtype,
            memory_gb=args.memory_gb,
            disk_cache=False,
            nodes=nodes.nodes,
            split=nodes.split,
        ) as llama,
        _stdout_to_stderr(),
    ):
        write_notes(llama.notes)
        return evaluate(llama, names, options, _report)


def _report(outcome: "Outcome") -> None:
    benchmark = outcome.benchmark
    result = outcome.problem and f"not run: {outcome.problem}"
    sys.stderr.write(f"{benchmark.title}: {result or outcome.main or 'done'}\n")


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Keep what tasks print away from the results."""
    stdout, sys.stdout = sys.stdout, sys.stderr
    try:
        yield
    finally:
        sys.stdout = stdout


def _print(found: "Evaluation", other: "Evaluation | None", *, as_json: bool) -> None:
    from ..evaluation.report import compared, to_dict

    if as_json:
        sys.stdout.write(json.dumps(to_dict(found, other), indent=2) + "\n")
        return
    from ..evaluation.table import difference_rows, figure_rows, outcome_rows

    _write(found.model, outcome_rows(found.outcomes))
    for outcome in found.outcomes:
        if len(outcome.figures) > 1:
            _write(outcome.benchmark.title, figure_rows(outcome.figures))
    if other is not None:
        _write(other.model, outcome_rows(other.outcomes))
        _write(f"{found.model} less {other.model}", difference_rows(compared(found, other)))


def _write(title: str, rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]) - 1)]
    sys.stdout.write(f"{title}\n")
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        sys.stdout.write("  ".join(["", *cells, row[-1]]).rstrip() + "\n")
    sys.stdout.write("\n")
