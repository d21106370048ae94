"""`llama3-mlx cache`: the prefix cache on disk, which later processes reuse."""

import argparse
import json
import sys
import time
from collections import defaultdict

from ..errors import RequestError
from ..library.home import prefix_cache_bytes, prefix_folder
from ..prefix_cache.disk import BlockStore, StoredBlock
from ..units import size_text
from .flags import Values


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `cache`."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="list it by model")
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(action=_list)
    clearing = actions.add_parser("clear", help="clear it for one model or for all")
    clearing.add_argument("model", nargs="?", metavar="MODEL", help="name of the model as `cache list` shows it")
    clearing.add_argument("--older-than", type=float, metavar="DAYS", help="only what was not used for this many days")
    clearing.set_defaults(action=_clear)
    actions.add_parser("path", help="print the folder").set_defaults(action=_path)


def run(args: argparse.Namespace) -> int:
    """Run the chosen action."""
    return int(args.action(args, BlockStore(prefix_folder(), prefix_cache_bytes())))


def _list(args: argparse.Namespace, disk: BlockStore) -> int:
    by_model: dict[str, list[StoredBlock]] = defaultdict(list)
    for entry in disk.blocks():
        by_model[entry.model].append(entry)
    rows = [
        {
            "model": model,
            "tokens": sum(entry.tokens for entry in entries),
            "bytes": sum(entry.nbytes for entry in entries),
            "used": time.strftime("%Y-%m-%d %H:%M", time.localtime(max(entry.used_s for entry in entries))),
        }
        for model, entries in sorted(by_model.items())
    ]
    if args.json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    elif not rows:
        sys.stdout.write(f"the prefix cache in {disk.folder} is empty\n")
    else:
        sys.stdout.write(_table(rows, disk))
    return 0


def _table(rows: list[Values], disk: BlockStore) -> str:
    width = max(5, *(len(row["model"]) for row in rows))
    lines = [f"{'model':<{width}}  {'tokens':>9}  {'size':>9}  last used"]
    lines += [
        f"{row['model']:<{width}}  {row['tokens']:>9,}  {size_text(row['bytes']):>9}  {row['used']}" for row in rows
    ]
    total = sum(row["bytes"] for row in rows)
    return "\n".join([*lines, f"{size_text(total)} of {size_text(disk.limit_bytes)} in {disk.folder}"]) + "\n"


def _clear(args: argparse.Namespace, disk: BlockStore) -> int:
    models = sorted({entry.model for entry in disk.blocks()})
    if args.model is not None and args.model not in models:
        raise RequestError(
            f"nothing of a model {args.model!r} is in {disk.folder}; there is of {', '.join(models) or 'none'}"
        )
    since = None if args.older_than is None else time.time() - args.older_than * 86400
    sys.stdout.write(f"freed {size_text(disk.clear(args.model, unused_since_s=since))}\n")
    return 0


def _path(_: argparse.Namespace, disk: BlockStore) -> int:
    sys.stdout.write(f"{disk.folder}\n")
    return 0
