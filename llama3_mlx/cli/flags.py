"""Command-line flags out of declared settings, so that a setting is written once."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_origin

from ..json_types import JsonObject
from ..settings import Setting, make, settings_of

T = TypeVar("T")
Values = JsonObject
"""Values by name: settings, or an object of JSON."""
_OWN_NAMES: Mapping[str, str] = {}


def add_flags(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,
    kind: type,
    title: str | None = None,
    names: Mapping[str, str] = _OWN_NAMES,
) -> None:
    """Add a flag for each setting of the dataclass `kind`: its name with dashes or that of `names`, type, help."""
    group = parser.add_argument_group(title) if title else parser
    for declared in settings_of(kind).values():
        if declared.flag:
            _add_flag(group, declared, names.get(declared.name) or "--" + declared.name.replace("_", "-"))


def given_values(args: argparse.Namespace, kind: type) -> Values:
    """Return the settings of `kind` that were given as flags, by name."""
    values = {name: getattr(args, name, None) for name in settings_of(kind)}
    pairs = {name for name, declared in settings_of(kind).items() if get_origin(declared.kind) is Mapping}
    return {name: dict(value) if name in pairs else value for name, value in values.items() if value is not None}


def from_flags(args: argparse.Namespace, kind: type[T]) -> T:
    """Build the dataclass from parsed flags; flags that weren't given keep the field's default."""
    return make(kind, given_values(args, kind))


def _add_flag(group: argparse.ArgumentParser | argparse._ArgumentGroup, declared: Setting, name: str) -> None:
    flags = [*([declared.short] if declared.short else []), name]
    text = declared.help
    if declared.default not in (None, (), "", False, {}) and "default" not in text:
        text += f" (default: {'on' if declared.default is True else declared.default})"
    if declared.kind is bool:
        group.add_argument(*flags, action=argparse.BooleanOptionalAction, default=None, help=text)
        return
    if get_origin(declared.kind) is Mapping:
        group.add_argument(*flags, action="append", type=_pair, default=None, metavar="NAME=VALUE", help=text)
        return
    item = declared.item or declared.kind
    choices = declared.choices or None
    metavar = None if choices else declared.metavar or _METAVARS[item]
    action = "append" if declared.item else "store"
    group.add_argument(*flags, action=action, type=item, default=None, metavar=metavar, choices=choices, help=text)


def _pair(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE, where the value is JSON, or text where it isn't."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, not {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


_METAVARS = {int: "N", float: "X", str: "TEXT", Path: "FILE"}


def positive(text: str) -> int:
    """Read a positive whole number, for argparse's `type`."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value
