"""Folders whose tokenizer files contradict one another or the embedding, made by changing a small whole one."""

import json
import random
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .contradictions import CONFIG, V

SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
TEMPLATE = """{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>

{{ m.content | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>

{% endif %}"""
OTHER = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}"


@dataclass
class TokenizerFiles:
    """The content of a folder's files; those that are None aren't written."""

    tokenizer: Any
    settings: Any
    config: dict[str, Any]
    texts: dict[str, str | bytes] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """Write all of them."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        files = {"tokenizer.json": self.tokenizer, "tokenizer_config.json": self.settings, "config.json": self.config}
        for name, content in files.items():
            if content is not None:
                (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
        for name, text in self.texts.items():
            (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
        return folder


@dataclass(frozen=True)
class TokenizerChange:
    """One contradiction; `words` is what a refusal must name, `loads` says that alone it has to load."""

    name: str
    apply: Callable[[TokenizerFiles], Any]
    words: str
    loads: bool = True


def whole() -> TokenizerFiles:
    """A byte-level BPE of 256 bytes, some merges and Llama 3's control tokens, and its settings."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "t"), ("Ġt", "he"), ("i", "s")]
    vocab = {piece: at for at, piece in enumerate([*alphabet, *(one + two for one, two in merges)])}
    backend = Tokenizer(models.BPE(vocab, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(SPECIAL))
    bos = backend.token_to_id(SPECIAL[0])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{SPECIAL[0]} $A", pair=f"{SPECIAL[0]} $A {SPECIAL[0]} $B", special_tokens=[(SPECIAL[0], bos)]
    )
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL[0],
        "eos_token": SPECIAL[4],
        "chat_template": TEMPLATE,
    }
    return TokenizerFiles(json.loads(backend.to_str()), settings, deepcopy(CONFIG))


def _token(content: str, number: int, special: bool = False, **flags: bool) -> dict[str, Any]:
    values = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": content, "special": special, **values, **flags}


def add(content: str, number: int, special: bool = False, **flags: bool) -> Callable[[TokenizerFiles], None]:
    return lambda made: made.tokenizer["added_tokens"].append(_token(content, number, special, **flags))


def settings(**values: Any) -> Callable[[TokenizerFiles], None]:
    return lambda made: made.settings.update(values)


def part(**values: Any) -> Callable[[TokenizerFiles], None]:
    return lambda made: made.tokenizer.update(values)


def texts(**values: str | bytes) -> Callable[[TokenizerFiles], None]:
    return lambda made: made.texts.update({name.replace("__", "."): text for name, text in values.items()})


def cut(made: TokenizerFiles) -> None:
    made.tokenizer = json.dumps(made.tokenizer)[:2000]


def gone(name: str) -> Callable[[TokenizerFiles], None]:
    return lambda made: setattr(made, name, None)


NAMED = [{"name": "default", "template": TEMPLATE}, {"name": "tool_use", "template": OTHER}]
UNIGRAM = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]], "byte_fallback": False}
CHANGES = [
    TokenizerChange("nothing", lambda _: None, "nothing"),
    TokenizerChange("a word in the embedding", add("<note>", V - 1), "note"),
    TokenizerChange("a word beyond the embedding", add("<note>", V), f"<note>.*{V}.*{V} rows"),
    TokenizerChange("a control token beyond the embedding", add("<|pad|>", V + 3, special=True), "pad"),
    TokenizerChange("a word that takes white space", add("<note>", 290, lstrip=True, rstrip=True), "note"),
    TokenizerChange("a single word", add("<note>", 290, single_word=True), "note"),
    TokenizerChange(
        "truncation left on",
        part(truncation={**{"direction": "Right", "max_length": 3}, "strategy": "LongestFirst", "stride": 0}),
        "truncation",
    ),
    TokenizerChange(
        "padding left on",
        part(
            padding={
                "strategy": {"Fixed": 32},
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "!",
            }
        ),
        "padding",
    ),
    TokenizerChange("a lower-casing normalizer", part(normalizer={"type": "Lowercase"}), "normalizer"),
    TokenizerChange("no post-processor", part(post_processor=None), "bos"),
    TokenizerChange("tokenizer.json cut short", cut, "tokenizer.json", loads=False),
    TokenizerChange("a Unigram model", part(model=UNIGRAM), "Unigram", loads=False),
    TokenizerChange("no tokenizer.json", gone("tokenizer"), "tokenizer", loads=False),
    TokenizerChange("no settings", gone("settings"), "bos|template"),
    TokenizerChange("a SentencePiece file beside", texts(tokenizer__model=b"\x0a\x05<unk>"), "tokenizer.model"),
    TokenizerChange("bos as an object", settings(bos_token={"__type": "AddedToken", **_token(SPECIAL[0], 0)}), "bos"),
    TokenizerChange("a bos that isn't in the vocabulary", settings(bos_token="<s>"), "bos|<s>", loads=False),
    TokenizerChange("another bos than the post-processor's", settings(bos_token=SPECIAL[1]), "bos"),
    TokenizerChange("no bos", settings(bos_token=None), "bos"),
    TokenizerChange("an eos that isn't in the vocabulary", settings(eos_token="</s>"), "eos|</s>"),
    TokenizerChange(
        "another special_tokens_map", texts(special_tokens_map__json=json.dumps({"eos_token": SPECIAL[1]})), "eos"
    ),
    TokenizerChange("eos of the config elsewhere", lambda made: made.config.update(eos_token_id=[7, 9999]), "eos"),
    TokenizerChange("a template in a file", texts(chat_template__jinja=OTHER), "template"),
    TokenizerChange(
        "a template in a processor's file", texts(chat_template__json=json.dumps({"chat_template": OTHER})), "template"
    ),
    TokenizerChange("named templates", settings(chat_template=NAMED), "template"),
    TokenizerChange("no template", settings(chat_template=None), "template"),
    TokenizerChange("a template that is cut short", settings(chat_template=TEMPLATE[:90]), "template", loads=False),
    TokenizerChange("a template that drops users", settings(chat_template="{{ bos_token }}x"), "template", loads=False),
    TokenizerChange(
        "a template for parts",
        settings(chat_template=TEMPLATE.replace("m.content | trim", "m.content[0].text | trim")),
        "template",
    ),
]


def pairs(count: int, seed: int = 0) -> list[tuple[TokenizerChange, ...]]:
    """Every change alone, then pairs of them up to `count`."""
    found: list[tuple[TokenizerChange, ...]] = [(change,) for change in CHANGES]
    loading = [(one, two) for one in CHANGES for two in CHANGES if one is not two and one.loads]
    return found + random.Random(seed).sample(loading, count - len(found))
