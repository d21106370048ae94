"""Which fields of a config.json change what a Llama computes, and which are known not to.

Programs write fields of other architectures into configs of model_type "llama"; transformers ignores them. One that
would change the computation is refused by name; one that nobody here knows is named in a note.
"""

from collections.abc import Callable, Mapping, Sequence

from ..errors import ConfigError
from ..json_types import JsonMapping

# Describes how the model was made, stored or is run by other programs.
_HARMLESS = """
_attn_implementation _attn_implementation_autoset _commit_hash _flash_attn_2_enabled _name_or_path add_cross_attention
architectures attention_bias attention_dropout attn_implementation attn_pdrop auto_map bad_words_ids
begin_suppress_tokens bos_token_id channel_scales chunk_size_feed_forward cross_attention_hidden_size custom_pipelines
decoder_start_token_id diversity_penalty do_sample dtype early_stopping embd_pdrop encoder_no_repeat_ngram_size
eos_token_id exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id
generation_config gradient_checkpointing head_dim hidden_act hidden_dropout hidden_size id2label initializer_range
intermediate_size is_decoder is_encoder_decoder is_llama_config keys_to_ignore_at_inference label2id layer_types
length_penalty max_length max_position_embeddings max_sequence_length max_window_layers min_length mlp_bias
model_max_length model_type neuron no_repeat_ngram_size num_attention_heads num_beam_groups num_beams
num_hidden_layers num_key_value_heads num_return_sequences original_max_position_embeddings output_attentions
output_hidden_states output_scores pad_token pad_token_id prefix pretraining_tp problem_type pruned_heads quantization
quantization_config remove_invalid_values repetition_penalty resid_pdrop return_dict return_dict_in_generate
rms_norm_eps rope_interleaved rope_parameters rope_scaling rope_theta sep_token_id sliding_window suppress_tokens
task_specific_params temperature tf_legacy_loss tie_encoder_decoder tie_word_embeddings tokenizer_class top_k top_p
torch_dtype torchscript transformers.js_config transformers_version typical_p unk_token_id unsloth_fixed
unsloth_version use_bfloat16 use_cache use_flash_attention use_sliding_window vocab_size
"""
# Field: the values with which a Llama stays a Llama.
_COMPUTING: dict[str, tuple[object, ...]] = {
    "attention_multiplier": (None, 1.0),
    "attn_logit_softcapping": (None, 0),
    "clip_qkv": (None,),
    "dim_model_base": (None,),
    "embedding_multiplier": (None, 1.0),
    "final_logit_softcapping": (None, 0),
    "is_causal": (None, True),
    "logit_scale": (None, 1.0),
    "logits_scaling": (None, 1.0),
    "no_rope_layers": (None, []),
    "num_experts": (None, 0, 1),
    "num_local_experts": (None, 0, 1),
    "partial_rotary_factor": (None, 1.0),
    "qk_layernorm": (None, False),
    "qk_norm": (None, False),
    "residual_multiplier": (None, 1.0),
    "scale_depth": (None,),
    "scale_emb": (None, 1.0),
    "use_bidirectional_attention": (None, False),
    "use_parallel_residual": (None, False),
    "use_qk_norm": (None, False),
}
_SHOWN = 8


def check_fields(values: JsonMapping, note: Callable[[str], None]) -> None:
    """Raise ConfigError for fields that would change the computation; note those that aren't known."""
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    inner = rope.get("partial_rotary_factor") if isinstance(rope, Mapping) else None
    stated = {**values, **({} if inner is None else {"partial_rotary_factor": inner})}
    changing = [f"{name} {stated[name]!r:.80}" for name, same in _COMPUTING.items() if stated.get(name) not in same]
    kinds = values.get("layer_types")
    if isinstance(kinds, Sequence) and not isinstance(kinds, str):
        others = sorted({str(kind) for kind in kinds} - {"full_attention"})
        changing += [f"layer_types with {', '.join(others)}"] if others else []
    if changing:
        raise ConfigError(
            f"config.json has {'; '.join(changing)}: that is another computation than Llama's; "
            "take the field out if the model was trained without it"
        )
    if values.get("sliding_window") and values.get("use_sliding_window"):
        note("config.json's sliding_window is ignored: no layer_types say which layers have it")
    unknown = sorted(values.keys() - set(_HARMLESS.split()) - _COMPUTING.keys())
    if unknown:
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        note(f"fields of config.json that aren't known are ignored: {', '.join(unknown[:_SHOWN])}{more}")
