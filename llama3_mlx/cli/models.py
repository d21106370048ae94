"""`llama3-mlx models` and `pull`: list, remove and download models."""

import argparse
import json
import sys
import time
from collections.abc import Sequence

from ..errors import ConfigError, RequestError
from ..library.catalogue import Catalogue, ModelEntry
from ..library.storage import remove_model
from ..units import parameters_text, size_text
from .flags import Values
from .model_choice import downloaded
from .remote import loaded_models, server_url


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `models` or `pull`."""
    if parser.get_default("command") == "pull":
        parser.add_argument("model", metavar="OWNER/NAME", help="Hub id, optionally with @REVISION")
        parser.add_argument("--json", action="store_true", help="print the folder as JSON")
        return
    parser.add_argument(
        "action",
        nargs="?",
        choices=("list", "remove", "running"),
        default="list",
        help="list (default), remove, or running: what the server holds in memory",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="models to remove")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """List, remove or download."""
    if args.command == "pull":
        return _pull(args)
    if args.action == "running":
        return _running(as_json=args.json)
    catalogue = Catalogue({}, {}, with_damaged=True)
    if args.action == "remove":
        return _remove(catalogue, args.names)
    if args.names:
        raise RequestError("a list takes no names; to remove models: llama3-mlx models remove NAME")
    entries = [_described(model) for model in catalogue.models().values()]
    if args.json:
        sys.stdout.write(json.dumps(entries, indent=2) + "\n")
    elif not entries:
        sys.stderr.write("there are no models yet; get one with: llama3-mlx pull OWNER/NAME\n")
    else:
        _print(entries)
    return 0


def _running(*, as_json: bool) -> int:
    url = server_url()
    models = loaded_models(url)
    if as_json:
        sys.stdout.write(json.dumps(models, indent=2) + "\n")
    elif not models:
        sys.stderr.write(f"the server at {url} holds no model in memory\n")
    else:
        rows = [(str(model["name"]), size_text(model["size"]), str(model["expires_at"])[:16]) for model in models]
        _write_table(("NAME", "MEMORY", "UNTIL"), rows)
    return 0


def _pull(args: argparse.Namespace) -> int:
    folder = downloaded(args.model)
    sys.stdout.write(json.dumps({"model": args.model, "folder": str(folder)}) if args.json else str(folder))
    sys.stdout.write("\n")
    return 0


def _remove(catalogue: Catalogue, names: list[str]) -> int:
    if not names:
        raise RequestError("name the models to remove; llama3-mlx models lists them")
    chosen = [catalogue.choose(name).model for name in names]
    for model in chosen:
        freed = remove_model(model)
        sys.stderr.write(f"removed {model.name} ({size_text(freed)})\n")
    return 0


def _described(model: ModelEntry) -> Values:
    described = {
        "name": model.name,
        "size_bytes": model.size_bytes,
        "modified": time.strftime("%Y-%m-%d", time.localtime(model.modified_s)),
        "folder": str(model.folder),
    }
    try:
        return {**described, "parameters": model.needs.parameters, "quantization": model.quantization_level}
    except ConfigError as error:
        return {**described, "parameters": None, "quantization": None, "problem": str(error)}


def _print(entries: list[Values]) -> None:
    rows = [
        (
            entry["name"],
            size_text(entry["size_bytes"]),
            parameters_text(entry["parameters"]) if entry["parameters"] else "?",
            entry["quantization"] or "?",
            entry["modified"],
        )
        for entry in entries
    ]
    _write_table(("NAME", "DISK", "PARAMETERS", "WEIGHTS", "MODIFIED"), rows)


def _write_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, *rows):
        sys.stdout.write("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() + "\n")
