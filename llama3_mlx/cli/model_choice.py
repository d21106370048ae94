"""Which model a command means: -m, LLAMA3_MLX_MODEL, the embedded model of scripts/demo, or a default Hub model."""

import argparse
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..distributed.membership import membership
from ..distributed.settings import NodeOptions
from ..dtypes import DTYPES
from ..errors import CheckpointError, HubError
from ..kv_cache.options import CacheOptions
from ..library.catalogue import Catalogue
from ..library.download_bar import download_bar
from ..library.home import EMBEDDED_MODEL, models_folder
from ..library.hub import HubId
from ..library.resolver import base_of_adapter, resolve_adapter, resolve_local, resolve_model
from ..settings import make
from .flags import add_flags, from_flags
from .terminal import tell

if TYPE_CHECKING:
    from ..llama import Llama

DEFAULT_HUB_MODEL = "mlx-community/Llama-3.2-3B-Instruct-4bit"
VARIABLE = "LLAMA3_MLX_MODEL"
# In a clone alone.
_DEMO = Path(__file__).parents[2] / "scripts" / "demo"
_SHOWN = 5
BASE_HELP = "the adapter's base: folder, name or Hub id (default: the one that the adapter names)"
MODEL_HELP = "model: folder, name that `models` lists, or Hub id"


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Add what chooses and loads a model: -m, --adapter, --draft, --dtype, memory and KV cache."""
    parser.add_argument("-m", "--model", metavar="MODEL", help=f"{MODEL_HELP} (default: ${VARIABLE}, see README)")
    parser.add_argument("--adapter", metavar="ADAPTER", help="LoRA adapter to apply: folder, name or Hub id")
    parser.add_argument(
        "--draft", metavar="MODEL", help="smaller model of the same tokenizer, or EAGLE-3 head, that drafts tokens"
    )
    parser.add_argument("--dtype", choices=DTYPES, help="dtype to compute in (default: what suits the device)")
    group = parser.add_argument_group("memory")
    group.add_argument("--memory-gb", type=float, metavar="X", help="memory limit for weights and KV cache")
    group.add_argument(
        "--disk-cache",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep the prefix cache of long prompts on disk (see llama3-mlx cache)",
    )
    add_flags(group, CacheOptions)
    add_node_flags(parser)


def load_llama(args: argparse.Namespace) -> "Llama":
    """Choose and load the model as the flags of `add_model_flags` say."""
    adapter = None if args.adapter is None else resolve_adapter(args.adapter)
    options = node_options(args)
    folder = choose_model(args.model, adapter=adapter, weights=options.nodes == 1)
    from ..llama import Llama

    llama = Llama.load(
        folder,
        adapter=adapter,
        draft=args.draft,
        dtype=args.dtype,
        cache=from_flags(args, CacheOptions),
        disk_cache=args.disk_cache,
        memory_gb=args.memory_gb,
        nodes=options.nodes,
        split=options.split,
    )
    write_notes(llama.notes)
    return llama


def add_node_flags(parser: argparse.ArgumentParser, *, split: str = "--split") -> None:
    """Add --nodes and --split; the latter under another name where a command has its own."""
    add_flags(parser, NodeOptions, "several processes", {"split": split})


def node_options(args: argparse.Namespace, split: str = "split") -> NodeOptions:
    """Return over which processes the model lies: what the flags say, else all that a launcher started.

    `split` is the name under which `args` has the way of splitting.
    """
    found = {"nodes": getattr(args, "nodes", None), "split": getattr(args, split, None)}
    given = {name: value for name, value in found.items() if value is not None}
    member = membership()
    return make(NodeOptions, {"nodes": member.size, **given} if member is not None else given)


def write_notes(notes: Iterable[str]) -> None:
    """Write what was decided about a model's contradictory files, a line each, to stderr."""
    for note in notes:
        tell(f"note: {note}")


def choose_model(requested: str | None, *, adapter: Path | None = None, weights: bool = True) -> Path:
    """Return the folder of the requested model, of an adapter's base, or of the default, which is named on stderr.

    Without `weights`, the Hub's come when it is loaded.
    """
    base = base_of_adapter(adapter) if adapter is not None and not requested else None
    if base is not None and (resolve_local(base) or HubId.parse(base)):
        tell(f"using {base}, the base that the adapter names; choose another with -m MODEL")
        return downloaded(base, weights=weights)
    named = requested or os.environ.get(VARIABLE)
    if named:
        return downloaded(named, weights=weights)
    if base is not None:
        raise CheckpointError(f"the adapter's base {base} isn't on this machine: name its folder with -m MODEL")
    embedded = models_folder() / EMBEDDED_MODEL
    if (embedded / "config.json").exists():
        tell(f"using the embedded {EMBEDDED_MODEL}; choose a Llama 3 with -m MODEL or ${VARIABLE}")
        return embedded
    tell(f"using {DEFAULT_HUB_MODEL}; choose another with -m MODEL or ${VARIABLE}")
    try:
        return downloaded(DEFAULT_HUB_MODEL, weights=weights)
    except HubError as error:
        raise HubError("\n".join([f"no model was named, and the default is unavailable: {error}", *_ways()])) from None


def _ways() -> Iterator[str]:
    """Yield the ways to a model, a line each."""
    here = list(Catalogue({}, {}).models())
    if here:
        more = f" and {len(here) - _SHOWN} more (llama3-mlx models)" if len(here) > _SHOWN else ""
        yield f"- name one that is here with -m MODEL or ${VARIABLE}: {', '.join(here[:_SHOWN])}{more}"
    else:
        yield f"- name a folder or a Hub id with -m MODEL or ${VARIABLE}"
    yield "- get one: llama3-mlx pull OWNER/NAME"
    if _DEMO.is_file():
        yield "- run scripts/demo, which makes a small embedded model"


def has_default() -> bool:
    """Return whether a model is meant where none is named, without a download."""
    return bool(os.environ.get(VARIABLE)) or (models_folder() / EMBEDDED_MODEL / "config.json").exists()


def choose_base(requested: str | None, adapter: Path) -> Path:
    """Return the folder of an adapter's base on this machine, for what only looks at it; nothing is downloaded."""
    named = requested or base_of_adapter(adapter) or os.environ.get(VARIABLE)
    folder = resolve_local(named) if named else None
    if folder is None:
        what = f"the base {named}" if named else "its base, which it doesn't name,"
        raise CheckpointError(
            f"{adapter}: {what} isn't on this machine: name its folder with -m MODEL, or get it with llama3-mlx pull"
        )
    return folder


def downloaded(name: str, *, weights: bool = True) -> Path:
    """Return the folder of a model by folder, name or Hub id; a download shows a bar."""
    with download_bar(name) as report:
        return resolve_model(name, report=report, weights=weights)
