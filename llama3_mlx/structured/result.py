"""The schema that an answer must have, given as a dict, JSON or a type, and the answer's text as a checked object."""

import json
from collections.abc import Mapping

from ..errors import RequestError, StructureError
from ..json_types import JsonValue
from ..schema.from_types import type_schema
from ..schema.to_types import typed_value
from ..tools.call import without_surrogates


def json_schema(schema: JsonValue) -> JsonValue:
    """Return a JSON schema: of a dict or JSON text, the same; of a dataclass, pydantic model or type hint, its own.

    Raises RequestError for what is none of them.
    """
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError as error:
            raise RequestError(f"the schema isn't valid JSON: {error}") from None
        if not isinstance(schema, Mapping | bool):
            raise RequestError(f"the schema must be a JSON object, not {schema!r:.80}")
    if schema is None:
        raise RequestError("the schema is None: give a dict, JSON text, a dataclass, a pydantic model or a type")
    if isinstance(schema, Mapping | bool):
        return dict(schema) if isinstance(schema, Mapping) else schema
    return type_schema(schema)


def parse_result(schema: JsonValue, text: str) -> JsonValue:
    """Return the answer as the schema's object: JSON's value for a dict, an instance for a dataclass or model.

    Raises StructureError, which carries the text, where it isn't valid JSON, as when max_tokens cut it off, or doesn't
    fit the schema.
    """
    try:
        value = without_surrogates(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise StructureError(
            f"the answer isn't valid JSON ({error}); if max_tokens cut it off, raise it: {text!r:.80}", text
        ) from None
    from ..schema.check import check_json

    try:
        if isinstance(schema, Mapping | str | bool):
            check_json(json_schema(schema), value)
            return value
        return typed_value(schema, value)
    except RequestError as error:
        raise StructureError(str(error), text) from None
