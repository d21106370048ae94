"""What a random model takes on each of some processes, and what they send, beside what `llama3-mlx plan` says.

Local processes over MLX's ring: memory and traffic are those of several machines, times are not. With --batch, how much
faster a pipeline of SmolLM2 decodes so many sequences in groups than all together.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import mlx.core as mx

from benchmarks.random_model import SHAPES, make_model
from benchmarks.tables import parser, publish
from llama3_mlx import Llama
from llama3_mlx.checkpoint.folder import ModelFolder
from llama3_mlx.distributed import loading
from llama3_mlx.distributed.loading import Nodes, lead, load_split_model, release
from llama3_mlx.distributed.planning import bytes_per_token, messages_per_token, share_bytes
from tests.support.smollm2 import save_smollm2

_TOKENS, _ROUNDS = 48, 4
WAYS = (("tensor", False), ("tensor", True), ("pipeline", False))


def loaded(folder: Path, nodes: Nodes, split: str, *, split_head: bool, run: bool) -> Iterator[list[str]]:
    """Load a model one way, and run it if asked to; yield a row of each process."""
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    opened = ModelFolder(folder)
    model = load_split_model(opened, nodes, split=split, dtype="bfloat16", split_head=split_head)
    held = {0: (mx.get_active_memory() - before, mx.get_peak_memory() - before), **nodes.loaded}
    own = model.exchange
    start = own.messages, own.sent_bytes
    if run:
        mx.eval(model(mx.array([[1]])))
    sent = own.messages - start[0], own.sent_bytes - start[1]
    for share in nodes.shares:
        planned, (active, peak) = share_bytes(opened.config, share, 2), held[share.rank]
        messages = messages_per_token(opened.config, share) // (len(nodes.shares) if split == "pipeline" else 1)
        told = f"{messages}, {bytes_per_token(opened.config, share, 2) // (share.size if split == 'pipeline' else 1):,}"
        yield [
            split + (", head split" if split_head else ""),
            str(share.rank),
            f"{planned / 1e6:,.1f}",
            f"{active / 1e6:,.1f}",
            f"{(active / planned - 1) * 100:+.2f}%",
            f"{peak / 1e6:,.1f}",
            told if share.rank == 0 else "",
            f"{sent[0]}, {sent[1]:,}" if run and share.rank == 0 else "",
        ]


def decode_rates(folder: Path, n_nodes: int, batch: int) -> dict[str, float]:
    """Return the tokens a second of a pipeline in groups and all together, the best of alternating rounds."""
    prompts = [f"{number} green bottles hanging on the wall" for number in range(2, 2 + batch)]
    settings: dict[str, Any] = {"max_tokens": _TOKENS, "temperature": 0, "ignore_eos": True, "speculate": False}
    rates = {"in groups": 0.0, "together": 0.0}
    for name in list(rates) * _ROUNDS:
        pays = mock.patch.object(loading, "groups_pay", return_value=name == "in groups")
        with pays, Llama.load(folder, nodes=n_nodes, split="pipeline", disk_cache=False) as llama:
            done = llama.generate_batch(prompts, **settings)
        rates[name] = max(rates[name], sum(each.tokens_per_second for each in done))
    return rates


def compare_groups(n_nodes: int, batch: int, *, write: bool) -> None:
    """Measure and print the gain of decoding in groups."""
    with tempfile.TemporaryDirectory() as name:
        rates = decode_rates(save_smollm2(Path(name)), n_nodes, batch)
    rows = [[str(batch), str(n_nodes), f"{rates['in groups'] / rates['together']:.2f}"]]
    note = (
        "How much faster a pipeline decodes in groups, of which each process works on another one, than all sequences "
        f"together. SmolLM2-135M in float32; the best of {_ROUNDS} alternating rounds of {_TOKENS} tokens. It "
        "needs as many free processors as processes, as machines have: where they share them, groups lose."
    )
    publish("A pipeline's groups", ["sequences", "processes", "tokens/s, ratio"], rows, note, write)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--batch", type=int, help="compare the rates of so many sequences in groups and together")
    arguments.add_argument("--size", choices=SHAPES, default="1b")
    arguments.add_argument("--bits", type=int, choices=(4, 8), help="default: bfloat16")
    arguments.add_argument("--nodes", type=int, default=2)
    arguments.add_argument("--load-only", action="store_true", help="send nothing: a large model's pass takes minutes")
    args = arguments.parse_args()
    if args.batch:
        compare_groups(args.nodes, args.batch, write=args.write)
        return
    nodes = lead(args.nodes)
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = make_model(Path(name) / args.size, args.size, args.bits)
        for split, split_head in WAYS:
            rows += loaded(folder, nodes, split, split_head=split_head, run=not args.load_only)
            release(nodes)
    kind = f"{args.bits} bits" if args.bits else "bfloat16"
    header = ["split", "rank", "planned, MB", "held, MB", "difference", "most while loading, MB",
              "planned messages, bytes a token", "sent"]  # fmt: skip
    note = (
        f"A random {args.size.upper()} in {kind} over {args.nodes} processes: the weights that each holds, and what "
        "rank 0 sends for a token."
    )
    publish(f"Over {args.nodes} processes: {args.size.upper()} in {kind}", header, rows, note, args.write)


if __name__ == "__main__":
    main()
