"""The ways of splitting text before the merges that GGUF names, as steps of tokenizer.json; both directions use them.

Source of names, patterns and flags: llama.cpp `src/llama-vocab.cpp` (llm_tokenizer_bpe, llama_vocab::impl::load) and
`convert_hf_to_gguf_update.py`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import CheckpointError, ConversionError
from ...json_types import JsonMapping, JsonObject
from ...tokenizer.byte_level import to_bytes
from ...tokenizer.llama3 import N_ORDINARY, SPLIT_PATTERN, VOCABULARY_SHA256, vocabulary_digest

_GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
# What a model of tokenizer.json may have that llama.cpp has not.
_FOREIGN = ("continuing_subword_prefix", "end_of_word_suffix", "dropout", "byte_fallback")
# Of the tokens of SmolLM2, a line each.
_SMOLLM_SHA256 = "d1f2ce856b324081b621d9e2e8dbd22879f462329f3fd4aa39fa758dddb2ce55"


def _split(pattern: str) -> JsonObject:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


@dataclass(frozen=True)
class PreTokenizer:
    """`names` in GGUF, the first of them written; `steps` before the byte-level one.

    Without a Split among the steps GPT-2's own pattern follows. `ignore_merges`: a word that is a token isn't merged.
    """

    names: tuple[str, ...]
    steps: tuple[JsonMapping, ...]
    ignore_merges: bool = False
    adds_bos: bool = False

    @property
    def uses_gpt2_pattern(self) -> bool:
        """Whether the byte-level step splits by GPT-2's pattern."""
        return not any(step["type"] == "Split" for step in self.steps)


_LLAMA_3 = PreTokenizer(
    ("llama-bpe", "llama3", "llama-v3", "falcon3", "midm-2.0", "lfm2"), (_split(SPLIT_PATTERN),), True, True
)
_SMOLLM = PreTokenizer(
    ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"),
    ({"type": "Digits", "individual_digits": True},),
)
_DEFAULT = PreTokenizer(
    ("default",), (_split(r"[\p{P}\$\+<=>\^~\|]+"), _split(_GPT2_PATTERN), _split(r"\p{N}+"), _split("[0-9][0-9][0-9]"))
)
_KNOWN = (
    _LLAMA_3,
    PreTokenizer(("smaug-bpe", "dbrx"), (_split(SPLIT_PATTERN),)),
    PreTokenizer(("qwen2", "deepseek-r1-qwen"), (_split(SPLIT_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")),)),
    _SMOLLM,
    PreTokenizer(("gpt-2", "phi-2", "mpt", "olmo", "jais"), ()),
    _DEFAULT,
)


def find_pre_tokenizer(name: str | None, tokens: Sequence[str]) -> tuple[PreTokenizer, str | None]:
    """Return the pre-tokenizer of a GGUF file and a note about it, if there is something to say.

    A file without a name is recognized by its vocabulary; else, as in llama.cpp, the default applies.
    """
    if not name:
        found = _by_vocabulary(tokens)
        if found is not None:
            return found, f"the GGUF file names no pre-tokenizer; its vocabulary is that of {found.names[0]}"
        return _DEFAULT, (
            "the GGUF file names no pre-tokenizer and its vocabulary is not known: text is split by llama.cpp's "
            "default, which may not be how the model was trained; the original weights have its tokenizer"
        )
    for known in _KNOWN:
        if name in known.names:
            return known, None
    accepted = ", ".join(name for known in _KNOWN for name in known.names)
    raise CheckpointError(f"the GGUF file's pre-tokenizer is {name!r}; accepted are {accepted}")


def _by_vocabulary(tokens: Sequence[str]) -> PreTokenizer | None:
    if hashlib.sha256("\n".join(tokens).encode("utf-8", "replace")).hexdigest() == _SMOLLM_SHA256:
        return _SMOLLM
    if len(tokens) < N_ORDINARY:
        return None
    try:
        ranks = {to_bytes(text): rank for rank, text in enumerate(tokens[:N_ORDINARY])}
    except (KeyError, ValueError):
        return None
    return _LLAMA_3 if vocabulary_digest(ranks) == VOCABULARY_SHA256 else None


def name_pre_tokenizer(content: JsonMapping) -> str:
    """Return GGUF's name of the way that a tokenizer.json splits text; raises ConversionError unless one is exact."""
    model = content["model"]
    *steps, last = _flat(content.get("pre_tokenizer") or {})
    odd = next(
        (name for name in ("continuing_subword_prefix", "end_of_word_suffix", "dropout") if model.get(name)), None
    )
    if model.get("type") != "BPE" or content.get("normalizer") or last.get("type") != "ByteLevel":
        raise _unknown("it isn't a byte-level BPE without a normalizer")
    if odd:
        raise _unknown(f"its model has {odd}")
    if last.get("add_prefix_space"):
        raise _unknown("it puts a space before each text (add_prefix_space)")
    facts = [_comparable(step) for step in steps], last.get("use_regex", True), bool(model.get("ignore_merges"))
    for known in _KNOWN:
        if facts == ([*map(_comparable, known.steps)], known.uses_gpt2_pattern, known.ignore_merges):
            return known.names[0]
    raise _unknown("its pre-tokenizer is none of Llama 3, SmolLM, Qwen 2 and GPT-2")


def _unknown(reason: str) -> ConversionError:
    return ConversionError(
        f"the tokenizer splits text in a way that GGUF export doesn't know: {reason}; llama.cpp would make other tokens"
    )


def _flat(step: JsonMapping) -> list[JsonMapping]:
    """Return the steps of a pre-tokenizer, those of sequences in their place; at least one."""
    inner = [each for part in step.get("pretokenizers") or [] for each in _flat(part)]
    return inner or [step]


def _comparable(step: JsonMapping) -> JsonMapping:
    """Return a step with what it leaves out filled in."""
    return {"invert": False, **step} if step.get("type") == "Split" else step
