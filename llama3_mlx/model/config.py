"""The model's hyperparameters, read from Hugging Face's config.json in its 4.x and its 5.x form, and written as 4.x.

config.json carries much that belongs to other tools: config_fields.py tells what of it matters.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..dtypes import config_dtype
from ..errors import ConfigError
from ..json_types import JsonMapping, JsonObject, JsonValue
from .config_fields import check_fields
from .quantization import CONVERTIBLE, Quantization
from .rope import RopeScaling

ROPE_TYPES = ("default", "linear", "dynamic", "llama3")
# Reads a number of an object by its name, with a default.
Number = Callable[[str, float, JsonMapping], float]
_REQUIRED = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


@dataclass(frozen=True)
class ModelConfig:
    """Hyperparameters of a Llama-family model under their Hugging Face names; defaults are transformers' own."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling = field(default_factory=RopeScaling)
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    dtype: str | None = None
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    quantization: Quantization | None = None
    # SHA-256 of the scales that the channels have, None for those they were trained with (see channel_scales.py).
    channel_scales: str | None = None

    @classmethod
    def from_dict(cls, values: JsonMapping, note: Callable[[str], None] = lambda _: None) -> "ModelConfig":
        """Read a config.json's content; raises ConfigError with every problem found.

        `note` is given a line for each field that is read in another way than it may be meant.
        """
        _check_family(values)
        check_fields(values, note)
        problems: list[str] = []

        def whole(name: str, default: int | None = None) -> int:
            value = values.get(name)
            value = default if value is None else value
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                problems.append(f"{name} must be a positive whole number, not {value!r}")
                return 1
            return value

        def number(name: str, default: float, source: JsonMapping = values) -> float:
            value = source.get(name)
            value = default if value is None else value
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                problems.append(f"{name} must be a positive number, not {value!r}")
                return default
            return float(value)

        def flag(name: str) -> bool:
            value = values.get(name)
            if not isinstance(value, bool | None):
                problems.append(f"{name} must be true or false, not {value!r}")
            return bool(value)

        missing = [name for name in _REQUIRED if values.get(name) is None]
        if missing:
            raise ConfigError(f"config.json lacks {', '.join(missing)}")
        n_heads, hidden_size = whole("num_attention_heads"), whole("hidden_size")
        max_positions = whole("max_position_embeddings", 2048)
        rope_theta, rope_scaling = _rope(values, max_positions, number)
        config = cls(
            hidden_size=hidden_size,
            intermediate_size=whole("intermediate_size"),
            num_hidden_layers=whole("num_hidden_layers"),
            num_attention_heads=n_heads,
            num_key_value_heads=whole("num_key_value_heads", n_heads),
            head_dim=whole("head_dim", hidden_size // n_heads or None),
            vocab_size=whole("vocab_size"),
            max_position_embeddings=max_positions,
            rms_norm_eps=number("rms_norm_eps", 1e-6),
            rope_theta=rope_theta,
            rope_scaling=rope_scaling,
            tie_word_embeddings=flag("tie_word_embeddings"),
            attention_bias=flag("attention_bias"),
            mlp_bias=flag("mlp_bias"),
            dtype=config_dtype(values.get("dtype") or values.get("torch_dtype")),
            bos_token_id=_first(token_ids(values.get("bos_token_id"))),
            eos_token_ids=token_ids(values.get("eos_token_id")),
            quantization=_quantization(values),
            channel_scales=_text(values, "channel_scales"),
        )
        problems += config._inconsistencies()
        if problems:
            raise ConfigError("config.json: " + "; ".join(problems))
        return config

    def _inconsistencies(self) -> list[str]:
        problems = []
        if self.num_attention_heads % self.num_key_value_heads:
            problems.append(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            problems.append(f"head_dim must be even, not {self.head_dim}")
        return problems

    def to_dict(self) -> JsonObject:
        """Return the content of config.json in the 4.x form, which mlx-lm, Ollama and Swift MLX read."""
        values: JsonObject = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu"}
        values |= asdict(self)
        values["rope_scaling"] = _rope_scaling_to_dict(self.rope_scaling)
        eos = values.pop("eos_token_ids")
        values["eos_token_id"] = eos[0] if len(eos) == 1 else list(eos) or None
        values["torch_dtype"] = values.pop("dtype")
        del values["quantization"]
        if self.quantization:
            values["quantization"] = values["quantization_config"] = self.quantization.to_dict()
        return {name: value for name, value in values.items() if value is not None}


def load_json_object(path: Path) -> JsonObject:
    """Read a JSON file that holds an object; raises ConfigError naming the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path.parent} has no {path.name}: is it the folder of a model?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} can't be read: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path} must hold a JSON object, not a {type(value).__name__}")
    return value


def token_ids(value: JsonValue) -> tuple[int, ...]:
    """Return the ids of a config entry that is an id, a list of ids, or null."""
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if any(isinstance(token, bool) or not isinstance(token, int) for token in ids):
        raise ConfigError(f"token ids must be whole numbers, not {value!r}")
    return tuple(token for token in ids if token >= 0)


def _text(values: JsonMapping, name: str) -> str | None:
    value = values.get(name)
    if not isinstance(value, str | None):
        raise ConfigError(f"{name} must be a text, not {value!r}")
    return value


def _first(ids: tuple[int, ...]) -> int | None:
    return ids[0] if ids else None


def _check_family(values: JsonMapping) -> None:
    model_type = values.get("model_type")
    if model_type != "llama":
        raise ConfigError(
            f"model_type is {model_type!r}, which this package does not run; accepted is 'llama' "
            "(Llama 2, 3, 3.1, 3.2 text, 3.3, Llama Guard, SmolLM2 and other checkpoints of that type)"
        )
    activation = values.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise ConfigError(f"hidden_act is {activation!r}; accepted is 'silu'")


def _rope(values: JsonMapping, max_positions: int, number: Number) -> tuple[float, RopeScaling]:
    """Return theta and scaling by `rope_parameters` (5.x) or `rope_scaling` (4.x); both must say the same."""
    found = []
    for name in ("rope_parameters", "rope_scaling"):
        entry = values.get(name) or {}
        if not isinstance(entry, Mapping):
            raise ConfigError(f"{name} in config.json must be an object, not {entry!r}")
        if entry or name == "rope_scaling":
            theta = number("rope_theta", 10000.0, entry if entry.get("rope_theta") is not None else values)
            found.append((theta, _rope_scaling(entry, values, max_positions, number)))
    if values.get("rope_scaling") and found[0] != found[-1]:
        raise ConfigError(
            "config.json has rope_parameters and rope_scaling, and they say different things: keep the one that the "
            "model was trained with"
        )
    return found[0]


def _rope_scaling(rope: JsonMapping, values: JsonMapping, max_positions: int, number: Number) -> RopeScaling:
    rope_type = rope.get("rope_type") or rope.get("type") or "default"
    if rope_type not in ROPE_TYPES:
        raise ConfigError(f"rope_type is {rope_type!r}; accepted are {', '.join(ROPE_TYPES)}")
    if rope_type == "default":
        return RopeScaling()
    needed = ("factor", "low_freq_factor", "high_freq_factor") if rope_type == "llama3" else ("factor",)
    missing = [name for name in needed if rope.get(name) is None]
    if missing:
        raise ConfigError(f"rope_type {rope_type!r} needs {', '.join(missing)}")
    factor = number("factor", 1.0, rope)
    if rope_type != "llama3":
        return RopeScaling(rope_type, factor, original_max_position_embeddings=max_positions)
    low, high = number("low_freq_factor", 1.0, rope), number("high_freq_factor", 4.0, rope)
    if not high > low:
        raise ConfigError(f"high_freq_factor {high} must be greater than low_freq_factor {low}")
    # As transformers has it (`standardize_rope_params`): beside the rope settings it goes first.
    holder = values if values.get("original_max_position_embeddings") is not None else rope
    return RopeScaling(
        "llama3", factor, low, high, int(number("original_max_position_embeddings", max_positions, holder))
    )


def _rope_scaling_to_dict(scaling: RopeScaling) -> JsonObject | None:
    if scaling.rope_type == "default":
        return None
    if scaling.rope_type == "llama3":
        return asdict(scaling)
    return {"rope_type": scaling.rope_type, "type": scaling.rope_type, "factor": scaling.factor}


def _quantization(values: JsonMapping) -> Quantization | None:
    entry = values.get("quantization") or values.get("quantization_config")
    if not entry:
        return None
    if not isinstance(entry, Mapping):
        raise ConfigError(f"quantization must be an object, not {entry!r}")
    if "bits" not in entry or entry.get("quant_method"):
        method = entry.get("quant_method", "an unknown method")
        way = "convert them with llama3-mlx convert, or " if method in CONVERTIBLE else ""
        raise ConfigError(f"weights quantized by {method!r} can't be run: {way}take the original or an MLX folder")
    return Quantization.from_dict(entry)
