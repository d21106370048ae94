"""Which model a command means: -m, LLAMA3_MLX_MODEL, the embedded model of scripts/demo, or a default Hub model."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..dtypes import DTYPES
from ..errors import HubError
from ..kv_cache.options import CacheOptions
from ..library.home import EMBEDDED_MODEL, models_folder
from .flags import add_flags, from_flags

if TYPE_CHECKING:
    from ..llama import Llama

DEFAULT_HUB_MODEL = "mlx-community/Llama-3.2-3B-Instruct-4bit"
VARIABLE = "LLAMA3_MLX_MODEL"


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Add what chooses and loads a model: -m, --adapter, --draft, --dtype, memory and KV cache."""
    parser.add_argument(
        "-m", "--model", metavar="MODEL", help=f"folder or Hub id of the model (default: ${VARIABLE}, see README)"
    )
    parser.add_argument("--adapter", metavar="FOLDER", help="LoRA adapter to apply")
    parser.add_argument("--draft", metavar="MODEL", help="smaller model of the same tokenizer that drafts tokens")
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


def load_llama(args: argparse.Namespace, folder: Path) -> "Llama":
    """Load the model as the flags of `add_model_flags` say."""
    from ..llama import Llama

    return Llama.load(
        folder,
        adapter=args.adapter,
        draft=args.draft,
        dtype=args.dtype,
        cache=from_flags(args, CacheOptions),
        disk_cache=args.disk_cache,
        memory_gb=args.memory_gb,
    )


def choose_model(requested: str | None) -> Path:
    """Return the folder of the requested model, or of the default one, which is named on stderr."""
    from ..library.hub import resolve_model

    named = requested or os.environ.get(VARIABLE)
    if named:
        return resolve_model(named, progress=True)
    embedded = models_folder() / EMBEDDED_MODEL
    if (embedded / "config.json").exists():
        sys.stderr.write(f"using the embedded {EMBEDDED_MODEL}; choose a Llama 3 with -m MODEL or ${VARIABLE}\n")
        return embedded
    sys.stderr.write(f"using {DEFAULT_HUB_MODEL}; choose another with -m MODEL or ${VARIABLE}\n")
    try:
        return resolve_model(DEFAULT_HUB_MODEL, progress=True)
    except HubError as error:
        raise HubError(
            f"no model was named and the default is unavailable ({error}). Three ways to one: name a folder or Hub id "
            f"with -m MODEL; set {VARIABLE}; or run scripts/demo, which makes a small embedded model"
        ) from None
