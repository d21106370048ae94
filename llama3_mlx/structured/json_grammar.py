"""JSON schemas as llguidance compiles them, and what it can't hold of them."""

import json
from functools import lru_cache

from ..errors import RequestError
from ..json_types import JsonMapping, JsonObject, JsonValue
from ..schema.constrainable import Constrainable
from .explain import explained

# As models write and indent JSON. Without a bound a weak model can go on with white space for ever. Alternatives that
# may both fit are generated as any of them, and checked afterwards.
OPTIONS: JsonMapping = {"whitespace_pattern": r"[ \t]{1,2}|\r?\n[ \t]{0,40}", "coerce_one_of": True}


def constrainable() -> Constrainable:
    """Return what collects schemas for one grammar."""
    return Constrainable(lambda schema: problem(schema) is None)


def with_options(schema: JsonMapping, definitions: JsonMapping) -> JsonObject:
    """Return a schema document as llguidance takes it."""
    return {"x-guidance": dict(OPTIONS), **schema, **({"$defs": dict(definitions)} if definitions else {})}


def check_compiles(what: str, schema: JsonMapping, definitions: JsonMapping) -> None:
    """Raise RequestError, with the reason, where llguidance can't compile a schema."""
    said = _problem(json.dumps(with_options(schema, definitions)))
    if said is not None:
        raise RequestError(f"{what} can't be compiled: {explained(said)}")


def problem(schema: JsonValue) -> str | None:
    """Return what llguidance says against a schema, None if it knows how to compile it, even to nothing."""
    said = _problem(json.dumps(schema))
    return None if said is None or said.startswith("Unsatisfiable") else said


@lru_cache(maxsize=1024)
def _problem(text: str) -> str | None:
    from llguidance import LLMatcher, LLParserLimits

    try:
        grammar = LLMatcher.grammar_from_json_schema(text, defaults=dict(OPTIONS))
    except (TypeError, ValueError) as error:
        return str(error)
    failed, messages = LLMatcher.validate_grammar_with_warnings(
        grammar, None, limits=LLParserLimits(verbose_errors=False)
    )
    return str(messages[0]) if failed else None
