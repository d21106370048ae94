"""Puts an adapter into the weights, as a model folder of its own, and measures what rounding leaves of its effect.

An adapter moves weights by less than the step of a 4-bit grid. Rounded back to that grid most of it is gone, so fused
matrices are stored finer: all at the base's own bits if that keeps the effect, else at 8 bits, else some of them in
16 bits, those first whose rounding disturbs their output most. The effect is measured on logits: 1 minus the distance
of the fused model from the adapted one over the distance of the adapted one from the base.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from ...adapters.adapter import Adapter
from ...adapters.mlx_lm_format import read_adapter
from ...adapters.rescaling import adapter_base
from ...checkpoint.loading import load_model
from ...convert.targets.destination import check_destination
from ...errors import ConversionError
from ...files import whole_folder
from ...library.resolver import resolve_adapter, resolve_model
from ...model.quantization import Scheme
from ...model.unpacked import unpack_products
from ...tokenizer.loading import load_tokenizer
from .fused_layers import Form
from .precision import KEPT, choose_forms
from .probe_text import TEXT
from .writer import stored_dtype, write_model

_PROBE_TOKENS = 384


@dataclass(frozen=True)
class FuseReport:
    """What was written. `kept` is the share of the adapter's effect that the fused model has, on `measured_on`."""

    folder: Path
    kept: float
    bytes_before: int
    bytes_after: int
    forms: dict[str, int]
    measured_on: str = ""


def fuse(
    model: str | Path,
    adapter: str | Path,
    out: str | Path,
    *,
    bits: str = "auto",
    texts: Sequence[str] = (),
    force: bool = False,
) -> FuseReport:
    """Fuse an adapter into a model and write the folder `out`, which appears atomically.

    With `force` it replaces the folder of a model that is there, in one step at the end.

    `bits` is auto, a number of bits that all fused matrices get whatever it costs, or a dtype's name. `texts` are
    what the effect is measured on (default: the adapter's own data if they are at hand, else a text of ours). Raises
    AdapterError, RequestError, or ConversionError where `out` is taken or can't be written.
    """
    source, target = resolve_model(model), Path(out).expanduser().absolute()
    adapter = resolve_adapter(adapter)
    for needed in (source, adapter):
        check_destination(target, needed, force=force)
    base = load_model(source, join=False)
    unpack_products(base)
    read = read_adapter(adapter, adapter_base(base))
    tokens, measured_on = _probe_tokens(source, adapter, texts)
    layers = {path: layer for path, layer in base.named_modules() if path in _paths(read)}
    forms, kept = choose_forms(base, read, layers, tokens, bits, stored_dtype(source))
    before = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    with _disk_errors(target), whole_folder(target) as folder:
        after = write_model(folder, source, base, read, layers, forms)
    return FuseReport(target, kept, before, after, _counted(forms), measured_on)


@contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    """Turn a failed write into one line."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConversionError(
            f"writing {target} failed: {reason}; what was there before is unchanged: make room or choose another place"
        ) from None


def _paths(adapter: Adapter) -> set[str]:
    return {*adapter.parts, *(name.rpartition(".")[0] for name in adapter.full_tensors)}


def _probe_tokens(source: Path, adapter: Path, texts: Sequence[str]) -> tuple[mx.array, str]:
    """Return the tokens to measure on, (1, n), and what they are."""
    tokenizer = load_tokenizer(source)
    own = [] if texts else _own_data(adapter)
    measured_on = "the text given" if texts else "the adapter's own data" if own else "a text of this package's"
    ids = tokenizer.encode("\n\n".join([*texts] or own or [TEXT]), bos=True)[:_PROBE_TOKENS]
    return mx.array([ids], mx.int32), measured_on


def _own_data(adapter: Path) -> list[str]:
    """Return some texts of the data that the adapter was trained on, if its run says where and they are there."""
    try:
        sources = json.loads((adapter / "run.json").read_text(encoding="utf-8"))["data"]
        lines = [line for source in sources if isinstance(source, str) for line in _first_lines(Path(source))]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [text for line in lines for text in _strings(line)]


def _first_lines(source: Path) -> list[Any]:
    path = source / "train.jsonl" if source.is_dir() else source
    if path.suffix != ".jsonl":
        return []
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line, _ in zip(file, range(16), strict=False)]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            if key != "role":
                yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _counted(forms: dict[str, Form]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for form in forms.values():
        name = f"{form.bits} bits" if isinstance(form, Scheme) else str(form).removeprefix("mlx.core.")
        counts[name] = counts.get(name, 0) + 1
    return counts


__all__ = ["KEPT", "FuseReport", "fuse"]
