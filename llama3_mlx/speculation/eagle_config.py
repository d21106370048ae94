"""What an EAGLE-3 draft head is, by either public form of its config.json.

Sources: SafeAILab/EAGLE `eagle/model/cnets.py` and `eagle/traineagle3/config.json` for the flat form;
vllm-project/speculators `models/eagle3/config.py` for the nested one, which is also what this package writes;
vLLM `transformers_utils/configs/speculators/base.py` for the fields that it insists on; sglang
`set_eagle3_layers_to_capture` for how `eagle_config` counts layers; vllm-project/vllm#36545 for `norm_before_fc` and
vllm-project/speculators#610 for `norm_output`, which heads of EAGLE 3.1 have.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..errors import ConfigError
from ..json_types import JsonMapping, JsonObject, JsonValue
from ..model.config import ModelConfig

# Tokens of a draft where another engine takes the number from the config.
_PROPOSED = 5
# Variants of the head that compute something else.
_UNSUPPORTED = ("fc_norm", "parallel_drafting")


@dataclass(frozen=True)
class HeadConfig:
    """Hyperparameters of a draft head. `layer` are those of its one layer, with the target's vocabulary."""

    layer: ModelConfig
    draft_vocab_size: int
    target_hidden_size: int
    norm_before_residual: bool = False
    norm_before_fc: bool = False
    """Whether the hidden states, side by side, are normed before they are fused."""
    norm_output: bool = False
    """Whether the next step's feature is the normed output in place of the output."""
    depths: tuple[int, ...] | None = None
    """Depths of the target's hidden states, see `FeatureTap`; None where the target's number of layers decides."""
    target: str | None = None
    """Name of the model it was trained for, where the config has it."""
    own_embedding: bool = False
    """Whether it has an embedding of its own; otherwise it takes the target's."""

    @classmethod
    def from_dict(cls, values: JsonMapping) -> "HeadConfig":
        """Read a config.json's content; raises ConfigError with what can't be run."""
        nested = values.get("transformer_layer_config")
        inner: JsonMapping = nested if isinstance(nested, Mapping) else values
        if inner.get("model_type", "llama") != "llama":
            raise ConfigError(f"the draft head has a layer of type {inner['model_type']!r}; accepted is 'llama'")
        beside = values.get("eagle_config")
        options = {**beside, **values} if isinstance(beside, Mapping) else values
        changed = [name for name in _UNSUPPORTED if options.get(name)]
        changed += ["use_aux_hidden_state false"] if options.get("use_aux_hidden_state") is False else []
        if changed:
            raise ConfigError(f"draft heads with {', '.join(changed)} aren't supported: take an EAGLE-3 or 3.1 head")
        # What quantizes the head stands beside the layer's fields in the nested form.
        layer = ModelConfig.from_dict({**inner, "model_type": "llama", "quantization": values.get("quantization")})
        if layer.num_hidden_layers != 1:
            raise ConfigError(f"a draft head has one layer, not {layer.num_hidden_layers}")
        return cls(
            layer=layer,
            draft_vocab_size=_whole(values, "draft_vocab_size", layer.vocab_size),
            target_hidden_size=_whole(values, "target_hidden_size", layer.hidden_size),
            norm_before_residual=bool(options.get("norm_before_residual")),
            norm_before_fc=bool(options.get("norm_before_fc")),
            norm_output=bool(options.get("norm_output")),
            depths=_depths(values),
            target=_target(values),
        )

    def depths_in(self, n_layers: int) -> tuple[int, ...]:
        """Return the depths in a target of so many layers; raises ConfigError if it isn't as deep."""
        depths = self.depths or (2, n_layers // 2, n_layers - 3)
        if not all(0 <= depth <= n_layers for depth in depths):
            shown = ", ".join(map(str, depths))
            raise ConfigError(
                f"the draft head reads hidden states at depths {shown}, and the model has {n_layers} layers"
            )
        return depths

    @property
    def n_features(self) -> int:
        """Hidden states of the target that are read for each position."""
        return len(self.depths or (0, 0, 0))

    def to_dict(self) -> JsonObject:
        """Return the content of config.json in the nested form."""
        values: JsonObject = {
            "architectures": ["Eagle3Speculator"],
            "speculators_model_type": "eagle3",
            "draft_vocab_size": self.draft_vocab_size,
            "target_hidden_size": self.target_hidden_size,
            "norm_before_residual": self.norm_before_residual,
            "norm_before_fc": self.norm_before_fc,
            "norm_output": self.norm_output,
            "transformer_layer_config": replace(self.layer, quantization=None).to_dict(),
            "speculators_config": {
                "algorithm": "eagle3",
                "default_proposal_method": "greedy",
                "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": _PROPOSED}],
                "verifier": {"name_or_path": self.target, "architectures": ["LlamaForCausalLM"]},
            },
        }
        if self.depths is not None:
            values["eagle_aux_hidden_state_layer_ids"] = list(self.depths)
        if self.layer.quantization is not None:
            values["quantization"] = self.layer.quantization.to_dict()
        return values


def _whole(values: JsonMapping, name: str, default: int) -> int:
    value = values.get(name)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} must be a positive whole number, not {value!r}")
    return value


def _depths(values: JsonMapping) -> tuple[int, ...] | None:
    name = "eagle_aux_hidden_state_layer_ids"
    entry = values.get("eagle_config")
    # There a layer's number means its output, in the other place what enters it.
    beside = entry.get(name) if isinstance(entry, Mapping) else None
    found: JsonValue = values.get(name) or [_after(layer) for layer in _listed(beside, name)]
    return tuple(_listed(found, name)) or None


def _after(layer: int) -> int:
    return layer + 1


def _listed(value: JsonValue, name: str) -> list[int]:
    entries = [] if value is None else value
    if not isinstance(entries, list):
        raise ConfigError(f"{name} must be a list of layers, not {value!r}")
    found = [entry for entry in entries if isinstance(entry, int) and not isinstance(entry, bool) and entry >= 0]
    if len(found) != len(entries) or len(set(found)) != len(found):
        raise ConfigError(f"{name} must be a list of different layers, not {value!r}")
    return found


def _target(values: JsonMapping) -> str | None:
    config = values.get("speculators_config")
    verifier = config.get("verifier") if isinstance(config, Mapping) else None
    name = verifier.get("name_or_path") if isinstance(verifier, Mapping) else None
    return name if isinstance(name, str) and name else None
