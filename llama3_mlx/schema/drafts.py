"""Which draft of JSON Schema a schema is written in, and whether it is a schema at all."""

import json
from collections.abc import Callable, Mapping
from functools import lru_cache

from jsonschema import FormatChecker, SchemaError, validators
from jsonschema.protocols import Validator

from ..errors import RequestError
from ..json_types import JsonValue

_DRAFTS: tuple[type[Validator], ...] = (
    validators.Draft202012Validator,
    validators.Draft7Validator,
    validators.Draft4Validator,
)

_TYPES = frozenset(("string", "number", "integer", "boolean", "null", "object", "array"))


def as_json(schema: JsonValue) -> str:
    """Return a schema as JSON; raises RequestError for what has none."""
    try:
        return json.dumps(schema, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise RequestError(f"the schema isn't valid JSON: {error}") from None
    except RecursionError:
        raise RequestError("the schema is nested too deep") from None


def draft_of(schema: JsonValue) -> type[Validator]:
    """Return the draft of a schema: the one it names, else the newest of which it is a valid schema.

    Raises RequestError for a schema that is none of any draft.
    """
    # The package takes milliseconds for a schema, which of fifty tools in a request are felt.
    return _DRAFTS[0] if is_plain(schema) else _checked_draft(as_json(schema))


@lru_cache(maxsize=256)
def _checked_draft(text: str) -> type[Validator]:
    schema = json.loads(text)
    named = validators.validator_for(schema, default=None) if isinstance(schema, Mapping) else None
    reasons = []
    for draft in [named] if named else _DRAFTS:
        try:
            draft.check_schema(schema, format_checker=FormatChecker(formats=()))
        except SchemaError as error:
            reasons.append(_fault(error))
        except RecursionError:
            raise RequestError("the schema is nested too deep") from None
        else:
            return draft
    raise RequestError(f"the schema isn't valid: {reasons[0]}")


def _fault(error: SchemaError) -> str:
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path).lstrip(".")
    if where.rpartition(".")[2] == "type":
        return f"{where} is {shown(error.instance)}, which isn't a type of JSON Schema"
    return f"{where or 'it'} can't be {shown(error.instance)}"


def shown(value: JsonValue) -> str:
    """Return a value as JSON of bearable length."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 80 else text[:77] + "…"


def is_plain(schema: object) -> bool:
    """Return whether a schema surely is one of draft 2020-12: of common keywords, each with what it takes."""
    if isinstance(schema, bool):
        return True
    if not isinstance(schema, dict):
        return False
    return all(key in _TAKEN and _TAKEN[key](value) for key, value in schema.items())


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_switch(value: object) -> bool:
    return isinstance(value, bool)


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _is_anything(_: object) -> bool:
    return True


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value) and len({*value}) == len(value)


def _are_plain(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(map(is_plain, value))


def _are_named_plain(value: object) -> bool:
    return isinstance(value, dict) and all(map(is_plain, value.values()))


def _is_type(value: object) -> bool:
    return (isinstance(value, str) and value in _TYPES) or (
        _are_names(value) and isinstance(value, list) and bool(value) and _TYPES.issuperset(value)
    )


_TAKEN: dict[str, Callable[[object], bool]] = {
    "type": _is_type,
    **dict.fromkeys(("title", "description", "$comment", "pattern", "format", "$ref"), _is_text),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _is_number),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), _is_count),
    **dict.fromkeys(("items", "additionalProperties", "not", "if", "then", "else", "contains"), is_plain),
    **dict.fromkeys(("anyOf", "oneOf", "allOf", "prefixItems"), _are_plain),
    **dict.fromkeys(("properties", "patternProperties", "$defs", "definitions"), _are_named_plain),
    **dict.fromkeys(("uniqueItems", "deprecated", "readOnly", "writeOnly", "nullable"), _is_switch),
    **dict.fromkeys(("const", "default"), _is_anything),
    "multipleOf": lambda value: _is_number(value) and value > 0,  # type: ignore[operator]
    "enum": _is_list,
    "examples": _is_list,
    "required": _are_names,
}
