"""A soak: many streaming clients for minutes, some of which go away, each of which must get its own number back.

Every prompt asks for its own number, and a grammar of choices lets nothing but a number of the run be written, so an
answer that is lost or mixed up between clients shows. Prints memory before and after, and the times between pieces.
"""

import asyncio
import random
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.server_process import serving, stream_chat
from benchmarks.tables import parser
from tests.support.smollm2 import save_smollm2

DIGITS = 24


@dataclass
class Tally:
    """What all clients saw."""

    whole: int = 0
    left: int = 0
    mixed: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)


def question(number: int, digits: int = DIGITS) -> tuple[list[Any], dict[str, Any]]:
    """Return a dialog that asks for its number back, and the choice that the answer is held to."""
    text = " ".join(random.Random(number).choices("0123456789", k=digits))
    return [{"role": "user", "content": f"Repeat exactly: {text}"}], {"structured_outputs": {"choice": [text]}}


async def client(
    url: str, http: httpx.AsyncClient, index: int, until_s: float, tally: Tally, digits: int = DIGITS
) -> None:
    """Ask for numbers of one's own until the time is over; one request in four goes away early."""
    chance = random.Random(index)
    number = index * 1_000_000
    while time.monotonic() < until_s:
        number += 1
        dialog, settings = question(number, digits)
        leave = chance.randint(1, digits) if chance.random() < 0.25 else None
        try:
            result = await stream_chat(http, url, dialog, leave, temperature=1.0, **settings)
        except (RuntimeError, httpx.HTTPError) as error:
            tally.lost.append(f"client {index}: {error!r}")
            await asyncio.sleep(0.5)
            continue
        expected = settings["structured_outputs"]["choice"][0]
        if not expected.startswith(result.text) or (leave is None and result.text != expected):
            tally.mixed.append(f"client {index} wanted {expected!r} and got {result.text!r}")
        tally.left += leave is not None
        tally.whole += leave is None
        tally.gaps_s += result.gaps_s


async def soak(url: str, clients: int, seconds: float, digits: int = DIGITS) -> Tally:
    """Run all clients."""
    tally, until_s = Tally(), time.monotonic() + seconds
    async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=None)) as http:
        await asyncio.gather(*(client(url, http, index, until_s, tally, digits) for index in range(clients)))
    return tally


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--clients", type=int, default=64)
    arguments.add_argument("--seconds", type=float, default=600)
    args = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = save_smollm2(Path(name) / "smollm2")
        command = ["llama3-mlx", "serve", "-m", str(folder), "--max-queue", "256", "--max-running", "64"]
        # So little that kept prefixes reach their bound while the server warms up.
        command += ["--memory-gb", "3"]
        with serving(command, "/health", LLAMA3_MLX_HOME=str(Path(name) / "home")) as server:
            asyncio.run(soak(server.url, args.clients, min(20.0, args.seconds)))
            time.sleep(5)
            before, active_before = server.memory_bytes, memory(server.url)
            tally = asyncio.run(soak(server.url, args.clients, args.seconds))
            time.sleep(5)
            report(tally, before, server.memory_bytes, active_before, memory(server.url))
            busy = [model for model in httpx.get(f"{server.url}/status").json()["models"] if model["running"]]
            print("generations still running:", busy or "none")
            print("server is up:", httpx.get(f"{server.url}/health").json())


def memory(url: str) -> int:
    """Return the bytes of live arrays in the server's process."""
    return int(httpx.get(f"{url}/status").json()["active_bytes"])


def report(tally: Tally, before: int, after: int, active_before: int, active_after: int) -> None:
    """Print what was seen."""
    ordered = sorted(tally.gaps_s)
    median, p95 = statistics.median(ordered), ordered[int(len(ordered) * 0.95)]
    print(f"whole answers {tally.whole}, left early {tally.left}, pieces {len(ordered)}")
    print(f"lost {len(tally.lost)}, mixed up {len(tally.mixed)}", *tally.lost[:5], *tally.mixed[:5], sep="\n  ")
    print(f"between pieces: p50 {median:.4f} s, p95 {p95:.4f} s, ratio {p95 / median:.2f}")
    print(f"resident memory {before / 1e6:.0f} MB before, {after / 1e6:.0f} MB after ({after / before:.3f})")
    print(f"live arrays {active_before / 1e6:.1f} MB before, {active_after / 1e6:.1f} MB after")


if __name__ == "__main__":
    main()
