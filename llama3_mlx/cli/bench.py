"""`llama3-mlx bench`: prefill, decoding, batches and memory of a model on this machine."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..bench.options import BenchOptions
from ..dtypes import DTYPES
from ..errors import RequestError
from .flags import add_flags, from_flags
from .model_choice import MODEL_HELP, add_node_flags, choose_model, node_options

if TYPE_CHECKING:
    from ..bench.results import Results
    from ..model.config import ModelConfig

_PEERS = ("mlx-lm", "llama.cpp")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `bench`."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("-m", "--model", dest="named", metavar="MODEL", help="the same as a flag")
    parser.add_argument("--dtype", choices=DTYPES, help="dtype to compute in (default: what suits the device)")
    parser.add_argument("--compare", choices=_PEERS, help="measure this program too, on the same model and dtype")
    parser.add_argument(
        "--draft", metavar="MODEL", help="decode free text without and with this draft model or EAGLE-3 head, too"
    )
    parser.add_argument("--json", metavar="FILE", help="write every round's figures here (-: to stdout, no table)")
    parser.add_argument("--plot", metavar="FILE.svg", help="draw the figures into this file")
    parser.add_argument(
        "--suite",
        action="store_true",
        help="measure all that matters on this machine, beside the peers that are installed",
    )
    parser.add_argument("--short", action="store_true", help="with --suite: few lengths, one round")
    parser.add_argument(
        "-o", "--out", metavar="FOLDER", help="with --suite: write suite.json and suite.md here (default: bench-suite)"
    )
    add_flags(parser, BenchOptions, "what to measure, without --suite")
    add_node_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    options, nodes = from_flags(args, BenchOptions), node_options(args)
    if nodes.nodes > 1 and (args.suite or args.compare):
        raise RequestError(
            "--suite and --compare start programs that each hold the whole model: leave out --nodes and the launcher, "
            "with a model that fits one machine"
        )
    if args.draft and nodes.nodes > 1:
        raise RequestError("--draft is measured on one machine: leave out --nodes and the launcher")
    if args.draft and args.suite:
        raise RequestError("--draft is measured beside the usual figures: leave out --suite")
    if args.plot and Path(args.plot).suffix != ".svg":
        raise RequestError(f"plots are written as SVG: give --plot a name that ends in .svg, not {args.plot!r}")
    if (args.short or args.out) and not args.suite:
        raise RequestError("--short and --out belong to --suite")
    folder = choose_model(args.model or args.named, weights=nodes.nodes == 1)
    from ..bench.drafts import measure_drafts
    from ..bench.measure import measure
    from ..device import compute_dtype_name
    from ..distributed.share_files import open_unfetched
    from ..library.resolver import resolve_draft

    draft = resolve_draft(args.draft) if args.draft else None
    config = open_unfetched(folder).config
    dtype = compute_dtype_name(config.dtype, args.dtype)
    if args.suite:
        return _suite(folder, config, dtype, Path(args.out or "bench-suite"), short=args.short)
    with _progress() as progress:
        results = measure(
            folder,
            config,
            options,
            dtype=dtype,
            nodes=nodes,
            programs=["llama3-mlx", *([args.compare] if args.compare else [])],
            progress=progress,
        )
        if draft is not None:
            results.drafts = measure_drafts(folder, draft, options, dtype=dtype, progress=progress)
    _report(results, args.json, args.plot)
    return 0


def _suite(folder: Path, config: "ModelConfig", dtype: str, out: Path, *, short: bool) -> int:
    """Run the suite; write its two files and print the page."""
    from ..bench.suite import installed_peers, run_suite, suite_options
    from ..bench.suite_report import markdown
    from ..device import working_memory_bytes
    from ..files import save_json, save_text

    options = suite_options(config, dtype, working_memory_bytes(), short=short)
    out.mkdir(parents=True, exist_ok=True)
    with _progress() as progress:
        suite = run_suite(folder, config, options, dtype=dtype, peers=installed_peers(), progress=progress)
    save_json(out / "suite.json", suite.to_dict())
    page = markdown(suite)
    save_text(out / "suite.md", page)
    sys.stdout.write(page)
    sys.stderr.write(f"written: {out / 'suite.json'} and {out / 'suite.md'}\n")
    return 0


def _report(results: "Results", json_path: str | None, plot_path: str | None) -> None:
    import json

    from ..bench.plot import svg
    from ..files import save_json, save_text

    if json_path == "-":
        sys.stdout.write(json.dumps(results.to_dict(), indent=2) + "\n")
    else:
        _print(results)
    if json_path and json_path != "-":
        save_json(Path(json_path), results.to_dict())
    if plot_path:
        save_text(Path(plot_path), svg(results))


def _print(results: "Results") -> None:
    from rich.console import Console
    from rich.table import Table

    from ..bench.table import header, rows

    title = f"{results.model}, {results.settings['dtype']}"
    if results.settings.get("nodes"):
        title += (
            f", over {results.settings['nodes']} processes (split: {results.settings['split']}); memory is rank 0's"
        )
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    for index, name in enumerate(header(results)):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    for row in rows(results):
        table.add_row(*row)
    Console().print(table, soft_wrap=True)


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Show what is running, on a terminal alone: a log would be filled by it."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True).status("") as status:
        yield status.update
