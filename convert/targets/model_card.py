"""README.md of a converted folder: base model, license, bits, recipe, what was measured, the command."""

import shlex
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import yaml

from ...dtypes import CONFIG_NAMES
from ...json_types import JsonMapping, JsonObject
from ...model.parameters import expected_tensors
from ...units import size_text
from ...version import __version__
from ..plan import Plan
from ..sources.source import Source

CARD_NAME = "README.md"
_MEASURES = {
    "kl": "KL divergence, nats a token",
    "perplexity": "perplexity",
    "source_perplexity": "perplexity of the source",
    "top1_agreement": "share of tokens with the same most likely token",
    "tokens": "predicted tokens, of text that nothing was calibrated on",
}
# What a card of the source says that holds for what is made of it.
_INHERITED = ("license", "license_name", "license_link", "language", "extra_gated_prompt")


def make_card(source: Source, plan: Plan, record: JsonMapping, form: str) -> str:
    """Return the model card as Markdown with its YAML front matter."""
    inherited = front_matter(source.location / CARD_NAME)
    base = record["base_model"] or _base_model(inherited)
    library = "mlx" if form == "mlx" else "transformers"
    facts = {name: inherited[name] for name in _INHERITED if name in inherited}
    facts |= {"base_model": base} if base else {}
    facts |= {"library_name": library, "pipeline_tag": "text-generation", "tags": ["llama3-mlx", library]}
    # A local fine-tune names its own base; what was converted is the fine-tune.
    name = record["base_model"] or record["source"]
    head = yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)
    described = f"{name} for MLX" if form == "mlx" else name
    loads = "llama3-mlx, mlx-lm, LM Studio and Swift MLX load it" if form == "mlx" else "transformers loads it"
    lines = [
        f"# {described}, {_bits(plan)}",
        f"Converted by [llama3-mlx](https://github.com/llama3-mlx/llama3-mlx) {__version__} from {name}; {loads}.",
        _table(_facts(plan, record)),
        *_measured(record.get("quality")),
        f"```sh\n{command(record)}\n```",
    ]
    return f"---\n{head}---\n\n" + "\n\n".join(lines) + "\n"


def front_matter(card: Path) -> JsonObject:
    """Return the YAML at the head of a model card, nothing where there is none that can be read."""
    try:
        text = card.read_text(encoding="utf-8")
        values = yaml.safe_load(text.split("---\n", 2)[1]) if text.startswith("---\n") else {}
    except (OSError, UnicodeDecodeError, IndexError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}


def command(record: JsonMapping) -> str:
    """Return the command that makes the folder again; the destination stands as DEST."""
    words = ["llama3-mlx", "convert", record["base_model"] or "SOURCE", "DEST"]
    for name, value in record["settings"].items():
        flag = "--" + name.replace("_", "-")
        words += [flag] if value is True else [flag, str(value)]
    return shlex.join(words)


def _base_model(inherited: JsonMapping) -> str | None:
    base = inherited.get("base_model")
    base = base[0] if isinstance(base, list) and base else base
    return base if isinstance(base, str) else None


def _bits(plan: Plan) -> str:
    if not plan.quantization:
        return CONFIG_NAMES[plan.dtype]
    default = plan.quantization.default
    kind = f"{default.bits} bits" if default.mode == "affine" else default.mode
    return f"{'mixed ' if plan.is_mixed else ''}{kind}"


def _facts(plan: Plan, record: JsonMapping) -> list[tuple[str, str]]:
    facts = [
        ("parameters", f"{plan.parameters:,}"),
        ("bits per weight, everything counted", f"{plan.bits_per_weight:.3f}"),
        ("size", size_text(plan.total_bytes)),
        ("quantized by", record["quantizer"] or "not quantized"),
    ]
    shapes, sizes = expected_tensors(plan.config), dict[str, int]()
    for path, scheme in plan.schemes.items():
        kind = f"{scheme.mode}, {scheme.bits} bits, groups of {scheme.group_size}"
        sizes[kind] = sizes.get(kind, 0) + prod(shapes[f"{path}.weight"])
    return facts + [(kind, f"{100 * size / plan.parameters:.1f}% of the weights") for kind, size in sizes.items()]


def _measured(quality: Any) -> list[str]:
    """Return a table of what was measured against the source, if the record has it."""
    if not isinstance(quality, Mapping) or not quality:
        return []
    rows = [(_MEASURES.get(name, str(name)), _number(value)) for name, value in quality.items()]
    return ["Measured against the source:", _table(rows)]


def _number(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _table(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])
