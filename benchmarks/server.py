"""The server against mlx_lm.server in one run, on SmolLM2 in float32: 8 clients at once, and a repeated system prompt.

Each round runs both programs one after the other, each alone on the machine; the median round counts.
"""

import asyncio
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.server_process import Streamed, at_once, serving
from benchmarks.tables import parser, publish
from tests.support.smollm2 import save_smollm2

TOPICS = ["a fox", "the sea", "a train", "winter", "bread", "a clock", "the moon", "a letter"]
WORDS = "The library opens at nine and closes at five, except on the days when the river floods the lower street. "


def rate(url: str, tokens: int, clients: int) -> float:
    """Return the tokens per second of all clients together, each with a story of its own."""
    dialogs = [[{"role": "user", "content": f"Tell a long story about {topic}."}] for topic in TOPICS[:clients]]
    results, wall_s = asyncio.run(at_once(url, dialogs, max_tokens=tokens, temperature=0.0))
    return sum(result.tokens or len(result.times_s) for result in results) / wall_s


def first_token(url: str, question: str, system: str) -> Streamed:
    """Ask one short question under a long system prompt."""
    dialog: list[Any] = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    [result], _ = asyncio.run(at_once(url, [dialog], max_tokens=4, temperature=0.0))
    return result


def commands(folder: Path, home: Path) -> dict[str, tuple[list[str], str, dict[str, str]]]:
    """Return each program's command, the path that tells that it is up, and its environment."""
    theirs = [sys.executable, "-m", "benchmarks.peer", "mlx_lm.server", "--model", str(folder), "--host", "127.0.0.1"]
    ours = ["llama3-mlx", "serve", "-m", str(folder)]
    return {"ours": (ours, "/health", {"LLAMA3_MLX_HOME": str(home)}), "theirs": (theirs, "/health", {})}


def rates(folder: Path, home: Path, tokens: int, rounds: int) -> dict[str, dict[int, list[float]]]:
    """Return tokens per second by program and number of clients."""
    found: dict[str, dict[int, list[float]]] = {"ours": {1: [], 8: []}, "theirs": {1: [], 8: []}}
    for _ in range(rounds):
        for name, (command, health, environment) in commands(folder, home).items():
            with serving(command, health, **environment) as server:
                rate(server.url, 4, 1)
                for clients, values in found[name].items():
                    values.append(rate(server.url, tokens, clients))
    return found


def repeated_prompt(folder: Path, home: Path) -> tuple[float, float, float]:
    """Return the times to the first token: cold, with the prompt repeated, and after a restart."""
    command, health, environment = commands(folder, home)["ours"]
    system = WORDS * 65
    with serving(command, health, **environment) as server:
        first_token(server.url, "Hello?", "Be brief.")
        cold = first_token(server.url, "When does it open?", system).first_s
        warm = first_token(server.url, "When does it close?", system).first_s
    with serving(command, health, **environment) as server:
        first_token(server.url, "Hello?", "Be brief.")
        return cold, warm, first_token(server.url, "Which street is flooded?", system).first_s


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--tokens", type=int, default=48)
    arguments.add_argument("--rounds", type=int, default=3)
    args = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, home = save_smollm2(Path(name) / "smollm2"), Path(name) / "home"
        found = rates(folder, home, args.tokens, args.rounds)
        cold, warm, restarted = repeated_prompt(folder, home)
    rows = []
    for clients in (1, 8):
        ours, theirs = (statistics.median(found[program][clients]) for program in ("ours", "theirs"))
        rows.append([f"tokens/s, {clients} clients", f"{ours:.1f}", f"{theirs:.1f}", f"{ours / theirs:.2f}"])
    for label, value in (("repeated", warm), ("after a restart", restarted)):
        what = f"first token under a 1,500-token system prompt, {label}, to the first time"
        rows.append([what, f"{value:.3f} s", f"{cold:.3f} s", f"{value / cold:.2f}"])
    note = (
        f"SmolLM2-135M in float32, greedy, {args.tokens} tokens an answer, streamed over HTTP, median of {args.rounds} "
        "rounds. The last two rows compare this server with itself."
    )
    publish("Server", ["", "llama3-mlx", "mlx_lm.server / first", "ratio"], rows, note, args.write)


if __name__ == "__main__":
    main()
