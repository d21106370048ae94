"""`llama3-mlx shield`: scans code; exit code 1 where something is insecure, 3 where something could not be checked."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from ..errors import RequestError
from ..safety.shield import Scan, Shield
from ..safety.shield.languages import LANGUAGES, language_named, language_of
from ..safety.shield.many import scan_files
from ..safety.shield.options import ShieldOptions
from .flags import add_flags, from_flags
from .terminal import read_stdin

INSECURE_CODE, UNKNOWN_CODE = 1, 3


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `shield`."""
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="files of code, Markdown with blocks of code, or folders of code; - reads code or Markdown from stdin",
    )
    parser.add_argument(
        "--language", metavar="NAME", help="of the code (default: by the file's suffix; stdin is Markdown)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object for each piece of code")
    add_flags(parser, ShieldOptions)


def run(args: argparse.Namespace) -> int:
    """Scan everything in its order."""
    if args.language is not None and language_named(args.language) is None:
        raise RequestError(f"there are no rules for {args.language[:40]!r}; there are for {', '.join(LANGUAGES)}")
    options = from_flags(args, ShieldOptions)
    # What is missing is said before anything is read.
    shield = Shield(options)
    statuses = set()
    for where, first, scan in _scans(args, shield, options):
        statuses.add(scan.status)
        sys.stdout.write(_as_json(where, first, scan) if args.json else _as_lines(where, first, scan))
        sys.stdout.flush()
    if "insecure" in statuses:
        return INSECURE_CODE
    return UNKNOWN_CODE if "unknown" in statuses or not statuses else 0


def _scans(args: argparse.Namespace, shield: Shield, options: ShieldOptions) -> Iterator[tuple[str, int, Scan]]:
    """Yield the name of each piece of code, the line at which it begins there, and its scan."""
    found = {name: _paths(Path(name)) for name in args.files if name != "-"}
    scanned = scan_files([path for name in args.files for path in found.get(name, ())], options, args.language)
    for name in args.files:
        if name == "-":
            yield from _standard_input(args.language, shield)
            continue
        if not found[name]:
            yield name, 1, Scan("unknown", None, reason="no file of a language with rules is in it")
        for path in found[name]:
            scans = next(scanned)
            yield from ((str(path), first, scan) for first, scan in scans)
            if not scans:
                yield str(path), 1, Scan("unknown", None, reason="it has no block of code")


def _paths(path: Path) -> list[Path]:
    """Return the files of a folder that are in languages with rules, or the file itself."""
    if not path.is_dir():
        return [path]
    return sorted(each for each in path.rglob("*") if each.is_file() and language_of(each))


def _standard_input(language: str | None, shield: Shield) -> Iterator[tuple[str, int, Scan]]:
    text = read_stdin()
    if language is not None:
        yield "-", 1, shield.scan(text, language)
        return
    blocks = shield.scan_fenced(text)
    yield from (("-", fence.line + 1, scan) for fence, scan in blocks)
    if not blocks:
        yield "-", 1, Scan("unknown", None, reason="it has no block of code: name the language with --language")


def _as_json(where: str, first: int, scan: Scan) -> str:
    return json.dumps({"file": where, "first_line": first, **scan.as_json()}, ensure_ascii=False) + "\n"


def _as_lines(where: str, first: int, scan: Scan) -> str:
    """Return a line for the scan and one for each finding, its line counted in the file."""
    place = where if first == 1 else f"{where}:{first}"
    reason = f"  ({scan.reason})" if scan.reason else ""
    lines = [f"{scan.status:8}  {place}{reason}"]
    for finding in scan.findings:
        name = f"CWE-{finding.cwe}" if finding.cwe else finding.rule
        lines.append(f"  {where}:{finding.line + first - 1}  {finding.severity:6}  {name:8}  {finding.message}")
    return "\n".join(lines) + "\n"
