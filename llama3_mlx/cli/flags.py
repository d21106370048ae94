"""Command-line flags out of dataclass fields, so that a setting is written once."""

import argparse
import types
from dataclasses import MISSING, Field, fields
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def add_flags(parser: argparse.ArgumentParser | argparse._ArgumentGroup, kind: type, title: str | None = None) -> None:
    """Add a flag for each field of the dataclass `kind`: its name with dashes, its type, its `help` metadata."""
    group = parser.add_argument_group(title) if title else parser
    hints = get_type_hints(kind)
    for entry in fields(kind):
        if entry.metadata.get("flag", True):
            _add_flag(group, entry, hints[entry.name])


def from_flags(args: argparse.Namespace, kind: type[T]) -> T:
    """Build the dataclass from parsed flags; flags that weren't given keep the field's default."""
    given = {entry.name: getattr(args, entry.name, None) for entry in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in given.items() if value is not None})


def _add_flag(group: Any, entry: Field[Any], hint: Any) -> None:
    flag, text = "--" + entry.name.replace("_", "-"), entry.metadata.get("help", "")
    inner = _without_none(hint)
    default = None if entry.default is MISSING else entry.default
    if default not in (None, (), "", False) and "default" not in text:
        text += f" (default: {default})"
    choices = entry.metadata.get("choices")
    flags = [entry.metadata["short"], flag] if "short" in entry.metadata else [flag]
    if inner is bool:
        group.add_argument(*flags, action=argparse.BooleanOptionalAction, default=None, help=text)
    elif get_origin(inner) is tuple:
        item = get_args(inner)[0]
        group.add_argument(*flags, action="append", type=item, default=None, metavar=_metavar(item), help=text)
    else:
        metavar = None if choices else entry.metadata.get("metavar", _metavar(inner))
        group.add_argument(*flags, type=inner, default=None, metavar=metavar, choices=choices, help=text)


def _without_none(hint: Any) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        return kinds[0]
    return hint


def _metavar(kind: Any) -> str:
    return {int: "N", float: "X", str: "TEXT"}.get(kind, "VALUE")


def positive(text: str) -> int:
    """Read a positive whole number, for argparse's `type`."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value
