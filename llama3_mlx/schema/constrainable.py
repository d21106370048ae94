"""What of a JSON schema a grammar can hold: a schema in llguidance's subset, and the names of what is left to a check.

The result accepts every value that the schema accepts, except that its objects are closed: where a schema lists
properties and doesn't say that there may be others, none are generated, since a model that may invent properties often
goes on doing so to the limit. References of every kind become references to `$defs`.
Source of the subset: https://github.com/guidance-ai/llguidance/blob/main/docs/json_schema.md.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from referencing.exceptions import NoSuchAnchor, PointerToNowhere, Unresolvable, Unretrievable
from referencing.jsonschema import EMPTY_REGISTRY, specification_with

from ..errors import RequestError
from ..json_types import JsonValue
from .closing import HOLD_PROPERTIES, can_be_closed
from .drafts import as_json, draft_of
from .formats import NATIVE, PATTERNS
from .keywords import BOUNDS, CHECKED, PLAIN
from .patterns import compiled, translated

_OLD_DRAFTS = ("draft-03", "draft-04", "draft-06", "draft-07")
# An exclusive bound becomes an inclusive one this much further in, since llguidance lets the bound itself through
# where its decimals are those of the other bound.
_BESIDE_BOUND = 1e-9

Compiles = Callable[[Any], bool]


@dataclass
class Constrainable:
    """Schemas in llguidance's subset that share their `definitions`, and what was left out of each."""

    compiles: Compiles
    """Says whether llguidance knows how to compile a schema."""
    definitions: dict[str, JsonValue] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """By the name under which a schema was added, keywords and places of what only a check can hold."""

    def add(self, name: str, schema: JsonValue) -> dict[str, JsonValue]:
        """Add a schema's definitions, their names beginning with `name`, and return the schema itself.

        Raises RequestError for a schema that isn't valid or refers to what it doesn't have.
        """
        self.left_out[name] = []
        if isinstance(schema, bool):
            return {} if schema else {"enum": []}
        as_json(schema)
        draft = draft_of(schema)
        dialect = str(draft.META_SCHEMA.get("$schema") or draft.META_SCHEMA.get("$id"))
        specification: Any = specification_with(dialect)
        resource = specification.create_resource(schema)
        resolver = EMPTY_REGISTRY.resolver_with_root(resource)
        writer = _Writer(self, name, old=any(each in dialect for each in _OLD_DRAFTS), specification=specification)
        written = writer.write(schema, resolver, "", closes=True)
        return written if isinstance(written, dict) else {} if written else {"enum": []}


class _Writer:
    """Writes one schema document."""

    def __init__(self, result: Constrainable, name: str, *, old: bool, specification: Any) -> None:
        self._result, self._name, self._old, self._specification = result, name, old, specification
        self._names: dict[tuple[int, bool], str] = {}

    def write(self, schema: JsonValue, resolver: Any, where: str, *, closes: bool) -> JsonValue:
        """Return the schema; `closes` says whether its objects may be closed."""
        if not isinstance(schema, Mapping):
            return schema
        if where and ("$id" in schema or "id" in schema) and isinstance(schema.get("$id", schema.get("id")), str):
            resolver = resolver.in_subresource(self._specification.create_resource(schema))
        if self._old and "$ref" in schema:
            schema = {"$ref": schema["$ref"]}
        written = {key: value for key, value in schema.items() if key in PLAIN}
        self._note_what_is_left_out(schema, where)
        inner = closes and not (HOLD_PROPERTIES & schema.keys())
        self._write_numbers(schema, written, where)
        conditions = self._text_conditions(schema, where)
        self._write_array(schema, written, resolver, where, closes=closes)
        self._write_object(schema, written, resolver, where, closes=closes)
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                written[keyword] = [
                    self.write(part, resolver, f"{where}/{keyword}/{at}", closes=inner)
                    for at, part in enumerate(schema[keyword])
                ]
        parts = [
            self.write(part, resolver, f"{where}/allOf/{at}", closes=False)
            for at, part in enumerate(schema.get("allOf", ()))
        ]
        parts += conditions[1:]
        written |= conditions[0] if conditions else {}
        if "$ref" in schema:
            alone = not written and not parts
            reference = {"$ref": self._definition(schema["$ref"], resolver, closes=closes and alone)}
            if alone:
                return reference
            parts.append(reference)
        return {**written, "allOf": parts} if parts else written

    def _note(self, keyword: str, where: str) -> None:
        place = where.replace("/properties/", ".").replace("/items", "[]").lstrip("./")
        self._result.left_out[self._name].append(f"{keyword} of {place}" if place else keyword)

    def _note_what_is_left_out(self, schema: Mapping[str, JsonValue], where: str) -> None:
        for keyword in schema:
            harmless = schema[keyword] in (False, {}, []) and not keyword.startswith("unevaluated")
            if keyword in CHECKED and keyword not in ("then", "else", "minContains", "maxContains") and not harmless:
                self._note(keyword, where)

    def _definition(self, reference: JsonValue, resolver: Any, *, closes: bool) -> str:
        try:
            found = resolver.lookup(reference)
        except (Unresolvable, NoSuchAnchor, PointerToNowhere, Unretrievable, AttributeError, TypeError):
            inside = isinstance(reference, str) and reference.startswith("#")
            raise RequestError(
                f"the schema refers to {reference!r:.80}, which it doesn't have"
                + ("" if inside else ": only references inside it can be followed")
            ) from None
        key = (id(found.contents), closes)
        if key not in self._names:
            self._names[key] = f"{self._name}{len(self._names)}"
            written = self.write(found.contents, found.resolver, f" {reference}", closes=closes)
            self._result.definitions[self._names[key]] = written
        return f"#/$defs/{self._names[key]}"

    def _text_conditions(self, schema: Mapping[str, JsonValue], where: str) -> list[dict[str, JsonValue]]:
        """Return `pattern` and `format` as conditions that have all to hold, one an object."""
        conditions: list[dict[str, JsonValue]] = []
        if "pattern" in schema:
            compiled(schema["pattern"])
            conditions.append({"pattern": translated(schema["pattern"], "rust")})
            if not self._result.compiles({"type": "string", **conditions[0]}):
                conditions.clear()
                self._note("pattern", where)
        named = str(schema.get("format", ""))
        if named in NATIVE:
            conditions.append({"format": named})
        elif named in PATTERNS:
            conditions.append({"pattern": PATTERNS[named]})
        elif named == "regex":
            self._note("format regex", where)
        elif named and schema.get("type") not in ("integer", "number"):
            self._note(f"format {named} (unknown, not checked)", where)
        return conditions

    def _write_numbers(self, schema: Mapping[str, JsonValue], written: dict[str, JsonValue], where: str) -> None:
        bounds = {key: schema[key] for key in BOUNDS if key in schema}
        for exclusive, inclusive, step in (
            ("exclusiveMinimum", "minimum", _BESIDE_BOUND),
            ("exclusiveMaximum", "maximum", -_BESIDE_BOUND),
        ):
            if isinstance(bounds.get(exclusive), bool) and bounds.pop(exclusive) and inclusive in bounds:
                bounds[exclusive] = bounds.pop(inclusive)
            bound = bounds.get(exclusive)
            if bound is not None and inclusive not in bounds and _takes_fractions(schema) and abs(bound) < 1e5:
                del bounds[exclusive]
                bounds[inclusive] = round(bound + step, 12)
        if bounds and not self._result.compiles({"type": schema.get("type", "number"), **bounds}):
            self._note(" and ".join(bounds), where)
            bounds = {}
        written |= bounds

    def _write_array(
        self, schema: Mapping[str, JsonValue], written: dict[str, JsonValue], resolver: Any, where: str, *, closes: bool
    ) -> None:
        first, rest = schema.get("prefixItems"), schema.get("items")
        if isinstance(rest, Sequence) and not isinstance(rest, str):
            first, rest = rest, schema.get("additionalItems")
        if first is not None:
            written["prefixItems"] = [
                self.write(part, resolver, f"{where}/items/{at}", closes=closes) for at, part in enumerate(first)
            ]
        if rest is not None:
            written["items"] = self.write(rest, resolver, f"{where}/items", closes=closes)

    def _write_object(
        self, schema: Mapping[str, JsonValue], written: dict[str, JsonValue], resolver: Any, where: str, *, closes: bool
    ) -> None:
        if "properties" in schema:
            written["properties"] = {
                name: self.write(part, resolver, f"{where}/properties/{name}", closes=True)
                for name, part in schema["properties"].items()
            }
        patterns = {translated(pattern, "rust"): part for pattern, part in schema.get("patternProperties", {}).items()}
        others = schema.get("additionalProperties")
        anything: dict[str, JsonValue] = {pattern: {} for pattern in patterns}
        if patterns and not self._result.compiles({"type": "object", "patternProperties": anything}):
            self._note("patternProperties", where)
            patterns, others = {}, None
        if patterns:
            written["patternProperties"] = {
                pattern: self.write(part, resolver, f"{where}/patternProperties/{pattern}", closes=True)
                for pattern, part in patterns.items()
            }
        if others is not None:
            written["additionalProperties"] = self.write(others, resolver, f"{where}/additionalProperties", closes=True)
        elif closes and can_be_closed(schema):
            written["additionalProperties"] = False


def _takes_fractions(schema: Mapping[str, JsonValue]) -> bool:
    kinds = schema.get("type", "number")
    return "number" in ([kinds] if isinstance(kinds, str) else kinds)
