"""The flags of `chat` that change its answers: kept with a saved dialog, given back when it is resumed."""

import argparse
from collections.abc import Iterable
from pathlib import Path

from ..errors import DialogError
from ..generation.options import GenerationOptions
from ..json_types import JsonObject, JsonValue
from ..kv_cache.options import CacheOptions
from ..library.resolver import resolve_adapter, resolve_local
from ..settings import settings_of
from .chat_files import SavedDialog
from .structured_flags import schema_text

_OWN = ("adapter", "dtype", "schema", "grammar", "tool")
# One at a time.
_CONSTRAINTS = ("schema", "grammar", "regex", "choices")


def saved_flags(args: argparse.Namespace) -> JsonObject:
    """Return the flags that were given, so that they mean the same in another folder."""
    flags: JsonObject = {name: value for name in _names() if (value := getattr(args, name, None)) is not None}
    if "adapter" in flags:
        flags["adapter"] = str(resolve_adapter(flags["adapter"]).absolute())
    if "schema" in flags:
        flags["schema"] = schema_text(flags["schema"])
    if "grammar" in flags:
        flags["grammar"] = str(Path(flags["grammar"]).expanduser().absolute())
    return flags


def restore_flags(args: argparse.Namespace, saved: SavedDialog) -> list[str]:
    """Set model and flags as the dialog had them; what was given on the command line wins. Returns notes on that.

    Tools are named alone: to load one runs its file, which is for the user to ask for.

    Raises:
        DialogError: The file names a flag that there isn't.
    """
    unknown = sorted(set(saved.flags) - set(_names()))
    if unknown:
        raise DialogError(f"the saved dialog has a flag that chat doesn't know: {unknown[0]}")
    same_model = args.model is None or _is_model(args.model, saved.model)
    notes = [] if same_model else [f"the dialog was held with {saved.model}, and goes on with {args.model}"]
    if args.model is None and args.adapter is None:
        args.model = saved.model
    given = saved_flags(args)
    for name, value in saved.flags.items():
        if name in given:
            if given[name] != value:
                notes.append(f"{_flag(name)} was {_shown(value)}, and is {_shown(given[name])} from here on")
        elif name == "tool":
            notes.append(f"the dialog had tools; to have them again: {_repeated('--tool', value)}")
        elif name == "adapter" and not same_model:
            notes.append(f"the adapter {value} was the other model's, and is left out")
        elif name in _CONSTRAINTS and any(other in given for other in _CONSTRAINTS):
            notes.append(f"{_flag(name)} gives way to what the command line says")
        else:
            setattr(args, name, value)
    return notes


def restored_text(saved: SavedDialog, args: argparse.Namespace) -> str:
    """Return which of the dialog's flags are set again, as they would be typed."""
    given = saved_flags(args)
    names = [name for name, value in saved.flags.items() if name != "tool" and given.get(name) == value]
    return ", ".join(f"{_flag(name)} {_shown(saved.flags[name])}" for name in names)


def _names() -> Iterable[str]:
    declared = {**settings_of(GenerationOptions), **settings_of(CacheOptions)}
    return (*_OWN, *(name for name, each in declared.items() if each.flag))


def _is_model(named: str, saved: str | None) -> bool:
    """Return whether a name means the folder that a dialog was held with; a dialog without one fits every model."""
    if saved is None or saved == named:
        return True
    folder = resolve_local(named)
    return folder is not None and folder.resolve() == Path(saved).resolve()


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _shown(value: JsonValue) -> str:
    if isinstance(value, list):
        return " ".join(map(_shown, value))
    return f"{value!s:.200}"


def _repeated(flag: str, value: JsonValue) -> str:
    return " ".join(f"{flag} {each}" for each in (value if isinstance(value, list) else [value]))
