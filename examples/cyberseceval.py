"""The benchmarks of CyberSecEval that need no judge, out of a checkout of PurpleLlama, against a running server.

    llama3-mlx serve -m MODEL --max-tokens 2048
    python -m examples.cyberseceval CHECKOUT --model NAME --out results --cases 50

CHECKOUT is a clone of https://github.com/meta-llama/PurpleLlama, which is used as it is; `--python` is the interpreter
of the environment that has its requirements. `--detector shield` rates the code of instruct and autocomplete by this
package's code shield in place of the checkout's detector: what it can't scan is counted as unknown, never as secure.
`python -m examples.cyberseceval --rate results/instruct.json` rates answers that are there already.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.recipes import described
from llama3_mlx.errors import MissingExtraError
from llama3_mlx.safety.shield import Shield

DATA = {
    "instruct": "instruct/instruct.json",
    "autocomplete": "autocomplete/autocomplete.json",
    "mitre-frr": "mitre_frr/mitre_frr.json",
}
_CODE = ("instruct", "autocomplete")
_FENCE = re.compile(r"```[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)


@dataclass
class Rate:
    """How many answers of a language the shield found insecure or clean, and how many it couldn't scan."""

    insecure: int = 0
    clean: int = 0
    unknown: int = 0

    def __str__(self) -> str:
        known = self.insecure + self.clean
        share = f"{self.insecure / known:.1%} insecure" if known else "nothing scanned"
        return f"{share} ({self.insecure} of {known}; {self.unknown} unknown)"


def command(
    python: str, benchmark: str, checkout: Path, url: str, model: str, out: Path, cases: int, detector: str
) -> list[str]:
    """Return the command that runs one benchmark of the checkout, to be called in its folder."""
    words = [python, "-m", "CybersecurityBenchmarks.benchmark.run", f"--benchmark={benchmark}"]
    words += [
        f"--prompt-path={checkout / 'CybersecurityBenchmarks' / 'datasets' / DATA[benchmark]}",
        f"--response-path={out / f'{benchmark}.json'}",
        f"--stat-path={out / f'{benchmark}-stat.json'}",
        f"--llm-under-test=OPENAI::{model}::key::{url}",
    ]
    words += [f"--num-test-cases={cases}"] if cases else []
    return [*words, "--only-generate-llm-responses"] if detector == "shield" and benchmark in _CODE else words


def code_of(answer: dict[str, Any]) -> tuple[str, str]:
    """Return the code before the answer, for autocomplete, and that of the answer: its first fenced block."""
    text = str(answer["response"])
    fenced = _FENCE.search(text)
    line, origin = answer.get("line_text"), answer.get("origin_code")
    before = ""
    if answer.get("variant") == "autocomplete" and line and origin:
        before = str(origin).partition(str(line))[0]
    return before, fenced[1] if fenced else text


def rate(answers: Iterable[dict[str, Any]], shield: Shield) -> dict[str, Rate]:
    """Scan the code of answers, and count by language; weaknesses of the code before an answer aren't its own."""
    rates: dict[str, Rate] = {}
    for answer in answers:
        before, code = code_of(answer)
        joint = before if not before or before.endswith("\n") else f"{before}\n"
        scan = shield.scan(joint + code, answer["language"])
        own = [finding for finding in scan.findings if finding.line > joint.count("\n")]
        found = rates.setdefault(str(answer["language"]), Rate())
        if own:
            found.insecure += 1
        elif scan.reason is not None or scan.status == "unknown":
            found.unknown += 1
        else:
            found.clean += 1
    return rates


def make_shield() -> Shield:
    """Return the code shield; ends the program with one line where its extra isn't installed."""
    try:
        return Shield()
    except MissingExtraError as error:
        raise SystemExit(f"error: {error}") from None


def read_answers(path: Path) -> list[dict[str, Any]]:
    """Return the answers that a benchmark has written; ends the program with one line where they can't be read."""
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {path} can't be read: {error}") from None
    try:
        answers: list[dict[str, Any]] = [dict(each) for each in found]
    except (TypeError, ValueError):
        answers = [{}]
    if not all({"response", "language"} <= answer.keys() for answer in answers):
        raise SystemExit(f"error: {path} has no answers of instruct or autocomplete: response and language are missing")
    return answers


def print_rates(answers: Sequence[dict[str, Any]], shield: Shield) -> None:
    """Print a line for each language, and one for all."""
    rates = rate(answers, shield)
    total = Rate(*(sum(getattr(each, name) for each in rates.values()) for name in ("insecure", "clean", "unknown")))
    for language, found in [*sorted(rates.items()), ("all", total)]:
        sys.stdout.write(f"{language:12}{found}\n")


def run(args: argparse.Namespace) -> None:
    """Run the chosen benchmarks one after the other."""
    checkout = args.checkout.expanduser().absolute()
    if not (checkout / "CybersecurityBenchmarks" / "benchmark" / "run.py").exists():
        raise SystemExit(f"error: {checkout} is no checkout of PurpleLlama: it has no CybersecurityBenchmarks")
    shield = make_shield() if args.detector == "shield" else None
    out = args.out.expanduser().absolute()
    out.mkdir(parents=True, exist_ok=True)
    for benchmark in args.benchmarks.split(","):
        if benchmark not in DATA:
            raise SystemExit(f"error: there is no benchmark {benchmark!r}; those without a judge are {', '.join(DATA)}")
    for benchmark in args.benchmarks.split(","):
        words = command(args.python, benchmark, checkout, args.url, args.model, out, args.cases, args.detector)
        if subprocess.run(words, cwd=checkout, check=False).returncode:
            raise SystemExit(f"error: {benchmark} failed; see above")
        sys.stdout.write(f"{benchmark}: {out / f'{benchmark}.json'}\n")
        if shield is not None and benchmark in _CODE:
            print_rates(read_answers(out / f"{benchmark}.json"), shield)
        else:
            sys.stdout.write((out / f"{benchmark}-stat.json").read_text(encoding="utf-8") + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=described(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path, nargs="?", metavar="CHECKOUT")
    parser.add_argument("--model", help="the model's name at the server")
    parser.add_argument("--url", default="http://127.0.0.1:8080/v1", help="the server (%(default)s)")
    parser.add_argument("--benchmarks", default=",".join(DATA), help="with commas (%(default)s)")
    parser.add_argument("--cases", type=int, default=0, help="so many of each benchmark, evenly out of all (0: all)")
    parser.add_argument("--out", type=Path, default=Path("cyberseceval"), help="folder of answers (%(default)s)")
    parser.add_argument("--python", default=sys.executable, help="interpreter with the checkout's requirements")
    parser.add_argument("--detector", choices=("codeshield", "shield"), default="codeshield")
    parser.add_argument(
        "--rate", type=Path, metavar="FILE", help="rate the answers of a file by the shield, run nothing"
    )
    args = parser.parse_args()
    if args.rate is not None:
        print_rates(read_answers(args.rate), make_shield())
    elif args.checkout is None or args.model is None:
        parser.error("give CHECKOUT and --model, or --rate FILE")
    else:
        run(args)


if __name__ == "__main__":
    main()
