"""`llama3-mlx adapter`: show an adapter, or turn it into another program's form."""

import argparse
import json
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..library.resolver import resolve_adapter
from ..units import count_text
from .model_choice import BASE_HELP, choose_base
from .terminal import show, tell

if TYPE_CHECKING:
    import mlx.core as mx

    from ..adapters.rescaling import AdapterBase

_FORMS = ("peft", "gguf", "mlx-lm")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands of `adapter`."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    info = actions.add_parser("info", help="show what an adapter changes", description="Show what an adapter changes.")
    info.add_argument("adapter", metavar="ADAPTER", help="folder, name or Hub id")
    info.add_argument("--json", action="store_true", help="print one JSON object")
    info.set_defaults(action=_info)
    export = actions.add_parser("export", help="write an adapter for PEFT, llama.cpp or mlx-lm")
    export.add_argument("adapter", metavar="ADAPTER", help="folder, name or Hub id")
    export.add_argument("out", metavar="OUT", help="folder, or a .gguf file")
    export.add_argument("-f", "--format", choices=_FORMS, help="form to write (default: gguf for .gguf, else peft)")
    export.set_defaults(action=_export)
    import_ = actions.add_parser("import", help="turn a PEFT adapter into one in mlx-lm's layout")
    import_.add_argument("adapter", metavar="ADAPTER", help="PEFT's adapter folder, or its Hub id")
    import_.add_argument("out", metavar="OUT", help="adapter folder to write")
    import_.set_defaults(action=_import)
    merge = actions.add_parser("merge", help="make one adapter of several, as their weighted sum")
    merge.add_argument(
        "adapters", metavar="ADAPTER[=WEIGHT]", nargs="+", help="adapters and their weights (default: 1)"
    )
    merge.add_argument("-o", "--out", metavar="OUT", required=True, help="adapter folder to write")
    merge.set_defaults(action=_merge)
    for action in (info, export, import_, merge):
        action.add_argument("-m", "--model", metavar="MODEL", help=BASE_HELP)


def run(args: argparse.Namespace) -> int:
    """Run the chosen action."""
    return int(args.action(args))


def _info(args: argparse.Namespace) -> int:
    from ..adapters.mlx_lm_format import adapter_facts, read_adapter

    folder = resolve_adapter(args.adapter)
    facts = adapter_facts(read_adapter(folder, _base(args, folder), for_source=True))
    if args.json:
        sys.stdout.write(json.dumps(facts) + "\n")
        return 0
    for name, value in facts.items():
        if isinstance(value, list) and not value:
            continue
        shown = _ranges(value) if name == "blocks" else ", ".join(map(str, value)) if isinstance(value, list) else value
        shown = f"{shown:,}" if isinstance(shown, int) else shown
        show(f"{name.replace('_', ' '):<16}{shown}", indent=16)
    return 0


def _ranges(numbers: list[int]) -> str:
    """Return sorted numbers with those in a row as a range: `0 to 3, 5`."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{part[0]} to {part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


def _export(args: argparse.Namespace) -> int:
    from ..adapters.gguf_format import save_gguf_adapter
    from ..adapters.mlx_lm_format import read_adapter, save_adapter
    from ..adapters.peft_format import save_peft

    out = Path(args.out).expanduser()
    form = args.format or ("gguf" if out.suffix == ".gguf" else "peft")
    folder = resolve_adapter(args.adapter)
    base = _base(args, folder)
    # mlx-lm applies an adapter to this very model; the others know none but the source.
    adapter = read_adapter(folder, base, for_source=form != "mlx-lm")
    if form == "gguf":
        save_gguf_adapter(out, adapter, base.config)
    else:
        (save_peft if form == "peft" else save_adapter)(out, adapter, base.config)
    show(f"{out}: {adapter.parameters:,} values for {form}")
    if form == "gguf":
        _write_modelfile(out, base)
    return 0


def _write_modelfile(out: Path, base: "AdapterBase") -> None:
    """Write what `ollama create NAME -f` takes: the base and this adapter."""
    from ..files import save_text

    plain = base.config.quantization is None and base.folder is not None
    # Ollama reads Hugging Face's folders and GGUF files, but not MLX's quantized folders.
    source = str(base.folder.absolute()) if plain and base.folder else "./base.gguf"
    modelfile = out.with_suffix(".Modelfile")
    place = out.parent / "base.gguf"
    convert = shlex.join(["llama3-mlx", "convert", str(base.folder or "MODEL"), str(place)])
    note = "" if plain else f"# base.gguf: the base as GGUF, by {convert}\n"
    save_text(modelfile, f"{note}FROM {source}\nADAPTER ./{out.name}\n")
    create = shlex.join(["ollama", "create", "NAME", "-f", str(modelfile)])
    if plain:
        tell(f"for Ollama: {create}")
    elif place.exists():
        tell(f"for Ollama: {create} (it takes {place} as the base)")
    else:
        sys.stderr.write(f"for Ollama, first the base, then both:\n  {convert}\n  {create}\n")


def _import(args: argparse.Namespace) -> int:
    from ..adapters.mlx_lm_format import read_adapter, save_adapter

    out = Path(args.out).expanduser()
    folder = resolve_adapter(args.adapter)
    base = _base(args, folder)
    adapter = read_adapter(folder, base)
    save_adapter(out, adapter, base.config)
    show(f"{out}: {adapter.parameters:,} values on {count_text(len(adapter.parts), 'layer')}")
    return 0


def _merge(args: argparse.Namespace) -> int:
    from ..adapters.merging import merged
    from ..adapters.mlx_lm_format import read_adapter, save_adapter

    found = [_weighted(text) for text in args.adapters]
    base = _base(args, found[0][0])
    weighted = [(read_adapter(folder, base), weight) for folder, weight in found]
    adapter = merged(weighted)
    save_adapter(Path(args.out).expanduser(), adapter, base.config)
    ranks = sorted({part.rank for part in adapter.parts.values()})
    sys.stdout.write(f"{args.out}: {len(weighted)} adapters as one of rank {', '.join(map(str, ranks))}\n")
    return 0


def _weighted(text: str) -> tuple[Path, float]:
    """Read ADAPTER or ADAPTER=WEIGHT."""
    from ..errors import RequestError

    name, equals, weight = text.rpartition("=")
    if Path(text).expanduser().is_dir() or not equals:
        return resolve_adapter(text), 1.0
    try:
        return resolve_adapter(name), float(weight)
    except ValueError:
        raise RequestError(f"the weight of an adapter must be a number, not {weight!r}") from None


def _base(args: argparse.Namespace, adapter: Path) -> "AdapterBase":
    """Return the model's folder as a base; of its weights only what an adapter's fitting needs is read."""
    from ..adapters.rescaling import AdapterBase
    from ..checkpoint.folder import load_config
    from ..model.channel_scales import load_scales

    folder = choose_base(args.model, adapter)
    config = load_config(folder)
    return AdapterBase(config, load_scales(folder, config), folder, partial(_matrix, folder))


def _matrix(folder: Path, path: str) -> "mx.array":
    """Return the weight of a layer, float32."""
    from ..convert.quantization.layer_reader import LayerReader
    from ..convert.sources.huggingface import HFSource

    source = HFSource(folder)
    try:
        return LayerReader(source).tensor(f"{path}.weight")
    finally:
        source.close()
