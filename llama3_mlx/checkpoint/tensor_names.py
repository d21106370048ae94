"""Brings the names of a checkpoint's tensors to the model's: prefixes of wrappers off, a missing `model.` on."""

from collections.abc import Callable, Iterable

# torch.compile's, DataParallel's and PEFT's.
_COMPILED, _WRAPPERS = "_orig_mod.", ("module.", "base_model.model.")
_INNER = ("layers.", "embed_tokens.", "norm.")
EMBEDDING, HEAD = "model.embed_tokens", "lm_head"


def model_names(names: Iterable[str], note: Callable[[str], None]) -> dict[str, str]:
    """Return the model's name of each stored one; notes what was changed. Names that would collide stay."""
    stored = list(names)
    bare = {name: _without_wrappers(name) for name in stored}
    taken_off = sorted({prefix for name in stored for prefix in (_COMPILED, *_WRAPPERS) if prefix in name})
    found = {name: f"model.{inner}" if inner.startswith(_INNER) else inner for name, inner in bare.items()}
    if len(set(found.values())) < len(found):
        return {name: name for name in stored}
    if any(bare[name] != name for name in stored):
        note(f"the tensors' names are read without {', '.join(map(repr, taken_off))}")
    if any(found[name] != bare[name] for name in stored):
        note("the tensors' names are read with 'model.' before them")
    return found


def _without_wrappers(name: str) -> str:
    name = name.replace(_COMPILED, "")
    prefix = next((prefix for prefix in _WRAPPERS if name.startswith(prefix)), None)
    return _without_wrappers(name[len(prefix) :]) if prefix else name
