"""What kind of type an annotation is."""

import types
import typing
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Union, get_args, get_origin


def is_pydantic(kind: Any) -> bool:
    """Return whether a type is a pydantic model, without importing pydantic."""
    return isinstance(kind, type) and hasattr(kind, "model_json_schema") and hasattr(kind, "model_validate")


def unwrapped(kind: Any) -> Any:
    """Return the type behind Annotated, NewType and `type` aliases."""
    while True:
        if get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        elif hasattr(kind, "__supertype__"):
            kind = kind.__supertype__
        elif type(kind).__name__ == "TypeAliasType":
            kind = kind.__value__
        else:
            return kind


def is_union(kind: Any) -> bool:
    """Return whether a type is `A | B` or `Optional[A]`."""
    return get_origin(kind) in (Union, types.UnionType)


def is_mapping(kind: Any) -> bool:
    """Return whether a type is a dict or another mapping, with or without the types of its contents."""
    origin = get_origin(kind) or kind
    return isinstance(origin, type) and issubclass(origin, Mapping) and not typing.is_typeddict(kind)


def is_named_tuple(kind: Any) -> bool:
    """Return whether a type is a NamedTuple."""
    return isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_field_defaults")


def is_collection(kind: Any) -> bool:
    """Return whether a type is a list, tuple, set or another collection."""
    origin = get_origin(kind) or kind
    return isinstance(origin, type) and issubclass(origin, Collection) and not issubclass(origin, str | bytes | Mapping)
