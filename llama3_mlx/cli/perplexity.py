"""`llama3-mlx perplexity`: perplexity of a text, and how far a model's predictions are from another's."""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..distributed.settings import NodeOptions
from ..dtypes import DTYPES
from ..errors import DataError, RequestError
from ..evaluation.windows import PerplexityOptions
from ..units import count_text
from .flags import add_flags, from_flags
from .model_choice import MODEL_HELP, add_node_flags, choose_model, node_options, write_notes

if TYPE_CHECKING:
    from ..evaluation import Comparison, Perplexity, Spread
    from ..llama import Llama

_ALONE = NodeOptions()


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `perplexity`."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("-m", "--model", dest="named", metavar="MODEL", help="the same as a flag")
    text = parser.add_mutually_exclusive_group()
    text.add_argument("--text", metavar="FILE", help="text to predict, UTF-8 (-: stdin; default: a short built-in one)")
    text.add_argument(
        "--dataset",
        metavar="NAME",
        help="data set of the Hub to predict: owner/name:CONFIG, as in Salesforce/wikitext:wikitext-2-raw-v1",
    )
    parser.add_argument("--split", default="test", metavar="NAME", help="split of the data set (default: %(default)s)")
    parser.add_argument("--column", default="text", metavar="NAME", help="its column (default: %(default)s)")
    parser.add_argument(
        "--against", metavar="OTHER", help="another model of the same tokenizer, the base, to measure the distance from"
    )
    parser.add_argument("--adapter", metavar="ADAPTER", help="LoRA adapter to apply to MODEL: folder, name or Hub id")
    parser.add_argument("--dtype", choices=DTYPES, help="dtype to compute in (default: what suits the device)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_flags(parser, PerplexityOptions, "windows")
    add_node_flags(parser, split="--node-split")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    options, nodes = from_flags(args, PerplexityOptions), node_options(args, "node_split")
    text = _text(args)
    from ..library.resolver import resolve_adapter

    adapter = None if args.adapter is None else resolve_adapter(args.adapter)
    folder = choose_model(args.model or args.named, adapter=adapter, weights=nodes.nodes == 1)
    other = None if args.against is None else choose_model(args.against)
    from ..evaluation import compare_predictions, measure_perplexity

    with _loaded(folder, args.dtype, adapter, nodes) as llama, _progress() as progress:
        found: Perplexity | Comparison
        if other is None:
            found = measure_perplexity(llama, text, options, progress)
        else:
            # On rank 0 alone, while the other nodes wait: they hold one model at a time.
            with _loaded(other, args.dtype) as base:
                found = compare_predictions(llama, base, text, options, progress)
    if args.json:
        names = {"model": folder.name, **({"against": other.name} if other else {})}
        sys.stdout.write(json.dumps({**names, **found.to_dict()}, indent=2) + "\n")
    else:
        lines = list(_lines(found, folder, other))
        width = max(len(name) for name, _ in lines)
        sys.stdout.write("".join(f"{name:{width}}  {value}\n" for name, value in lines))
    return 0


@contextmanager
def _loaded(
    folder: Path, dtype: str | None, adapter: Path | None = None, nodes: NodeOptions = _ALONE
) -> "Iterator[Llama]":
    from ..llama import Llama

    with Llama.load(
        folder, dtype=dtype, adapter=adapter, disk_cache=False, nodes=nodes.nodes, split=nodes.split
    ) as llama:
        write_notes(llama.notes)
        yield llama


def _text(args: argparse.Namespace) -> str:
    if args.dataset is not None:
        return _dataset_text(args.dataset, args.split, args.column)
    if args.text is None:
        from ..convert.quantization.corpus import builtin_texts

        sys.stderr.write(
            "no --text: predicting the built-in text, which is short: fit for comparing, not for publishing\n"
        )
        return "\n".join(builtin_texts("evaluation_text"))
    try:
        return sys.stdin.read() if args.text == "-" else Path(args.text).expanduser().read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{args.text} can't be read: {error}; give a UTF-8 text file") from None


def _dataset_text(name: str, split: str, column: str) -> str:
    from ..finetune.data.hub import read_split

    rows = read_split(name, split)
    texts = [text for row in rows if isinstance(text := row.get(column), str)]
    if not texts or len(texts) < len(rows):
        columns = ", ".join(rows[0]) if rows else "no rows"
        raise RequestError(
            f"{name} has no column {column!r} of texts in its split {split}, but {columns}: see --column"
        )
    return "\n\n".join(texts)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """Show the windows done, on a terminal alone."""
    if not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(unit=" windows", leave=False) as bar:

        def report(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield report


def _lines(found: "Perplexity | Comparison", folder: Path, other: Path | None) -> Iterator[tuple[str, str]]:
    from ..evaluation import Perplexity

    yield "tokens predicted", f"{found.tokens:,} in {count_text(found.windows, 'window')}"
    yield f"perplexity of {folder.name}", str(found.perplexity)
    if isinstance(found, Perplexity):
        return
    yield f"perplexity of {other.name if other else 'the base'}", str(found.base_perplexity)
    yield "ln of their ratio", str(found.log_ratio)
    yield "ratio", str(found.ratio)
    yield "difference", str(found.difference)
    if not math.isnan(found.correlation):
        yield "correlation of ln p", f"{found.correlation:.2%}"
    yield from _spread_lines("KL divergence", found.kl, lambda value: f"{value:.6f}")
    yield from _spread_lines("Δp", found.delta_p, lambda value: f"{value:.3%}")
    yield "RMS Δp", f"{found.rms_delta_p.times(100)} %"
    yield "same top token", f"{found.same_top.times(100)} %"


def _spread_lines(name: str, found: "Spread", shown: Callable[[float], str]) -> Iterator[tuple[str, str]]:
    yield f"{name}, mean", found.mean.shown(shown)
    yield f"{name}, maximum", shown(found.maximum)
    for share, value in found.percentiles.items():
        yield f"{name}, {'median' if share == 50 else f'{share:g}%'}", shown(value)
    yield f"{name}, minimum", shown(found.minimum)
