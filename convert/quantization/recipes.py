"""Which module gets which bits: mixed recipes, a rule file, embedding and head bits."""

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ...errors import ConfigError, ConversionError
from ...json_types import JsonMapping
from ...model.config import ModelConfig
from ...model.quantization import Quantization, Scheme
from ..options import ConversionOptions, mixed_bits
from ..plan import matrices

_RULE_KEYS = ("modules", "layers", "bits", "group_size", "mode", "keep")


@dataclass(frozen=True)
class Rule:
    """A scheme (None: not quantized) for the modules that match a pattern within a range of layers."""

    patterns: tuple[str, ...]
    layers: range | None
    scheme: Scheme | None

    def matches(self, path: str) -> bool:
        """Return whether the rule is for the module at `path`. In a pattern `*` matches any text."""
        if self.layers is not None:
            parts = path.split(".")
            if parts[1] != "layers" or int(parts[2]) not in self.layers:
                return False
        return any(fnmatchcase(path, pattern) for pattern in self.patterns)


def make_quantization(config: ModelConfig, options: ConversionOptions) -> Quantization | None:
    """Return every module's scheme, None if nothing is quantized.

    The first rule of the rule file that matches a module wins, then embedding and head bits, then the mixed recipe,
    then the bits for all. Raises ConversionError or ConfigError.
    """
    default = options.default_scheme()
    modules: dict[str, Scheme | None] = {}
    if options.mixed is not None and default is not None:
        high = Scheme(mixed_bits(options.mixed)[1], default.group_size)
        modules |= dict.fromkeys(_sensitive(config), high)
    modules |= _set_apart(config, options, default)
    if options.rules is not None:
        modules |= _ruled(config, load_rules(options.rules, default), options.rules)
    kept = {path: modules.get(path, default) for path in matrices(config)}
    quantized = [scheme for scheme in kept.values() if scheme]
    if not quantized:
        return None
    # Something must stand as the default in config.json, even where only rules name schemes.
    chosen = default or quantized[0]
    return Quantization(chosen, {path: scheme for path, scheme in kept.items() if scheme != chosen})


def head_path(config: ModelConfig) -> str:
    """Return the path of the module that makes the logits."""
    return "model.embed_tokens" if config.tie_word_embeddings else "lm_head"


def _sensitive(config: ModelConfig) -> Iterator[str]:
    """Yield what a mixed recipe gives its high bits: the head, v_proj and down_proj of half of the layers.

    A tied embedding is the head, too. Source: mlx-lm `convert.py` (mixed_quant_predicate_builder), whose layers are
    those of llama.cpp's `use_more_bits`.
    """
    yield head_path(config)
    yield from (path for path in matrices(config) if gets_more_bits(path, config.num_hidden_layers))


def gets_more_bits(path: str, n: int) -> bool:
    """Return whether a matrix of a model with `n` layers is v_proj or down_proj in the half that is more sensitive."""
    if not path.endswith(("self_attn.v_proj", "mlp.down_proj")):
        return False
    layer = int(path.split(".")[2])
    return layer < n // 8 or layer >= 7 * n // 8 or (layer - n // 8) % 3 == 2


def _set_apart(config: ModelConfig, options: ConversionOptions, default: Scheme | None) -> dict[str, Scheme | None]:
    group_size = options.group_size or (default.group_size if default and default.mode == "affine" else 64)
    chosen: dict[str, Scheme | None] = {}
    if options.head_bits is not None:
        if config.tie_word_embeddings:
            raise ConversionError("this model's head is its embedding: set embedding_bits in place of head_bits")
        chosen["lm_head"] = Scheme(options.head_bits, group_size) if options.head_bits else None
    if options.embedding_bits is not None:
        bits = options.embedding_bits
        chosen["model.embed_tokens"] = Scheme(bits, group_size) if bits else None
    return chosen


def _ruled(config: ModelConfig, rules: list[Rule], file: Path) -> dict[str, Scheme | None]:
    paths = matrices(config)
    unmatched = [", ".join(rule.patterns) for rule in rules if not any(map(rule.matches, paths))]
    if unmatched:
        raise ConversionError(
            f"{file}: no module matches {'; '.join(unmatched)}; modules are named like {paths[1]}, and * matches "
            "any text"
        )
    first = {path: next((rule for rule in rules if rule.matches(path)), None) for path in paths}
    return {path: rule.scheme for path, rule in first.items() if rule}


def load_rules(file: Path, default: Scheme | None = None) -> list[Rule]:
    """Read a rule file: `{"rules": [{"modules": "*.down_proj", "layers": [0, 3], "bits": 6}, …]}` in JSON or TOML.

    `modules` is a pattern or a list of them, `layers` a first and a last one (both count), `keep: true` leaves the
    modules unquantized; group size and mode are those of `default` where a rule doesn't say.
    """
    try:
        text = file.read_text(encoding="utf-8")
        content = tomllib.loads(text) if file.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise ConversionError(f"{file} can't be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ConversionError(f"{file} can't be read: {error}") from None
    entries = content.get("rules") if isinstance(content, dict) and set(content) == {"rules"} else None
    if not isinstance(entries, list):
        raise ConversionError(f"{file} must hold an object with one list, rules")
    return [_rule(f"{file}: rule {n}", entry, default) for n, entry in enumerate(entries, start=1)]


def _rule(where: str, entry: Any, default: Scheme | None) -> Rule:
    if not isinstance(entry, Mapping) or set(entry) - set(_RULE_KEYS):
        raise ConversionError(f"{where} must be an object with keys of {', '.join(_RULE_KEYS)}, not {entry!r}")
    patterns = entry.get("modules", "*")
    patterns = [patterns] if isinstance(patterns, str) else patterns
    if not isinstance(patterns, list) or not patterns or not all(isinstance(text, str) for text in patterns):
        raise ConversionError(f"{where}: modules must be a pattern or a list of patterns, not {patterns!r}")
    return Rule(tuple(patterns), _layers(where, entry.get("layers")), _scheme(where, entry, default))


def _layers(where: str, value: Any) -> range | None:
    if value is None:
        return None
    valid = isinstance(value, list) and len(value) == 2 and all(isinstance(n, int) and n >= 0 for n in value)
    if not valid or value[0] > value[1]:
        raise ConversionError(f"{where}: layers must be a first and a last layer such as [0, 3], not {value!r}")
    return range(value[0], value[1] + 1)


def _scheme(where: str, entry: JsonMapping, default: Scheme | None) -> Scheme | None:
    named = [key for key in ("bits", "group_size", "mode") if key in entry]
    if "keep" in entry:
        if entry["keep"] is not True or named:
            raise ConversionError(f"{where}: keep must be true, without bits, group_size or mode")
        return None
    values = {**(default.to_dict() if default and "mode" not in entry else {}), **{key: entry[key] for key in named}}
    try:
        return Quantization.from_dict(values).default
    except (ConfigError, TypeError) as error:
        raise ConversionError(f"{where}: {error}") from None
