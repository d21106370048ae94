"""`llama3-mlx plan`: how a model would lie on several machines, from its config.json alone."""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from ..checkpoint.folder import ModelFolder
from ..device import working_memory_bytes
from ..distributed.hostfile import read_hostfile
from ..distributed.planning import BANDWIDTH, LINKS, Link, Node, Plan, best_plan, make_plan
from ..library.resolver import resolve_config
from ..model.config import ModelConfig
from ..model.quantization import AFFINE_BITS, Quantization, Scheme
from ..units import size_text
from .flags import Values, positive
from .model_choice import MODEL_HELP
from .terminal import show

_MOST_NODES = 8


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `plan`."""
    parser.add_argument("model", metavar="MODEL", help=f"{MODEL_HELP}; of the Hub's, config.json alone is fetched")
    parser.add_argument("--nodes", type=positive, metavar="N", help="machines (default: 1 to 8, a line each)")
    parser.add_argument("--hostfile", type=Path, metavar="FILE", help="the hostfile of mlx.launch: its machines")
    parser.add_argument("--memory-gb", type=float, metavar="X", help="memory of each for models (default: this one's)")
    parser.add_argument(
        "--bandwidth",
        type=float,
        metavar="X",
        default=BANDWIDTH / 1e9,
        help="memory bandwidth of each in GB/s (default: %(default)g)",
    )
    parser.add_argument("--link", choices=LINKS, help="what joins them (default: the hostfile's, else thunderbolt)")
    parser.add_argument("--split", choices=("tensor", "pipeline"), help="way of splitting (default: the better one)")
    parser.add_argument("--context", type=positive, metavar="N", default=8192, help="context in tokens (default: 8192)")
    parser.add_argument("--bits", type=int, choices=AFFINE_BITS, help="plan for these bits in place of the config's")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the plan, or a table of plans."""
    config = ModelFolder(resolve_config(args.model)).config
    if args.bits:
        config = replace(config, quantization=Quantization(Scheme(args.bits)))
    hosts = read_hostfile(args.hostfile) if args.hostfile else []
    memory = int(args.memory_gb * 1e9) if args.memory_gb else working_memory_bytes()
    nodes = [Node(h.name, h.memory_bytes or memory, h.bandwidth or args.bandwidth * 1e9) for h in hosts]
    link = LINKS[args.link or ("rdma" if hosts and all(host.has_rdma for host in hosts) else "thunderbolt")]
    counts = [args.nodes] if args.nodes else [len(nodes)] if nodes else list(range(1, _MOST_NODES + 1))
    nodes += [Node(f"machine {n}", memory, args.bandwidth * 1e9) for n in range(len(nodes), max(counts))]
    found = [_plan(config, nodes[:count], link, args) for count in counts]
    if args.json:
        values = [_values(plan, why) for plan, why in found]
        sys.stdout.write(json.dumps({"model": args.model, "context": args.context, "plans": values}, indent=2) + "\n")
    elif len(found) == 1:
        _print(*found[0], args.context)
    else:
        _print_table([plan for plan, _ in found], args.context)
    return 0


def _plan(config: ModelConfig, nodes: list[Node], link: Link, args: argparse.Namespace) -> tuple[Plan, str]:
    dtype = config.dtype or "bfloat16"
    if args.split:
        return make_plan(config, nodes, link, args.split, args.context, dtype), "as requested"
    return best_plan(config, nodes, link, args.context, dtype)


def _values(plan: Plan, why: str) -> Values:
    return {
        "machines": len(plan.nodes),
        "split": plan.split if len(plan.nodes) > 1 else None,
        "why": why,
        "even": plan.even,
        "fits": plan.fits,
        "splits_head": plan.splits_head,
        "messages_per_token": plan.messages_per_token,
        "bytes_per_token": plan.bytes_per_token,
        "estimated_tokens_per_second": round(plan.tokens_per_second, 2),
        "nodes": [
            {
                "name": held.node.name,
                "memory_bytes": held.node.memory_bytes,
                "layers": list(held.share.layers),
                "heads": list(held.share.heads),
                "kv_heads": list(held.share.kv_heads),
                "weight_bytes": held.weight_bytes,
                "kv_bytes": held.kv_bytes,
                "head_room_bytes": held.head_room,
            }
            for held in plan.nodes
        ],
    }


def _print(plan: Plan, why: str, context: int) -> None:
    one = len(plan.nodes) == 1
    show(f"split: {'none' if one else plan.split}: {why}")
    if not plan.even:
        show("heads don't divide evenly: the machine with most of them sets the pace")
    for held in plan.nodes:
        first, last = held.share.layers
        part = f"layers {first} to {last - 1}, heads {held.share.heads[0]} to {held.share.heads[1] - 1}"
        room = (
            f"{size_text(held.head_room)} left" if held.head_room >= 0 else f"{size_text(-held.head_room)} too little"
        )
        show(
            f"{held.node.name}: {part}; weights {size_text(held.weight_bytes)}, KV cache at {context:,} tokens "
            f"{size_text(held.kv_bytes)}, {room} of {size_text(held.node.memory_bytes)}"
        )
    if plan.split == "tensor" and not one:
        which = "split: each machine has the rows of some tokens" if plan.splits_head else "whole, on the first machine"
        show(f"head: {which}")
    if not one:
        show(f"sent a token: {plan.messages_per_token} messages, {size_text(plan.bytes_per_token)}")
    show(f"estimated rate: at most {plan.tokens_per_second:.1f} tokens/s for one sequence (not measured)")
    if not plan.fits:
        show("it doesn't fit: take more machines, fewer bits (--bits 4) or a shorter context (--context)")


def _print_table(plans: list[Plan], context: int) -> None:
    show(f"{'machines':>8}  {'split':<8}  {'most weights':>12}  {f'KV at {context:,}':>12}  {'with KV':>10}  "
         f"{'fits':<4}  {'estimated tokens/s':>18}")  # fmt: skip
    for plan in plans:
        most = max(plan.nodes, key=lambda held: held.weight_bytes + held.kv_bytes)
        needs = most.node.memory_bytes * 0.85 - most.head_room
        show(
            f"{len(plan.nodes):>8}  {plan.split if len(plan.nodes) > 1 else '-':<8}  "
            f"{size_text(most.weight_bytes):>12}  {size_text(most.kv_bytes):>12}  {size_text(needs):>10}  "
            f"{'yes' if plan.fits else 'no':<4}  {plan.tokens_per_second:>18.1f}"
        )
