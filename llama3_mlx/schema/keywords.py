"""The keywords of JSON Schema, of all drafts: what grammars hold, what is checked, what says nothing of values."""

# Keywords of all drafts that grammars hold as they are.
PLAIN = frozenset(
    [
        "type",
        "enum",
        "const",
        "required",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "minProperties",
        "maxProperties",
    ]
)
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
HELD = PLAIN.union(
    BOUNDS,
    [
        "pattern",
        "format",
        "items",
        "additionalItems",
        "prefixItems",
        "properties",
        "patternProperties",
        "additionalProperties",
    ],
    ["allOf", "anyOf", "oneOf", "$ref"],
)

"""Keywords that grammars hold, all or in part: what can't be held of one is noted and checked afterwards."""

CHECKED = frozenset(
    [
        "not",
        "if",
        "then",
        "else",
        "contains",
        "minContains",
        "maxContains",
        "uniqueItems",
        "propertyNames",
        "dependentRequired",
        "dependentSchemas",
        "dependencies",
        "unevaluatedProperties",
        "unevaluatedItems",
        "$dynamicRef",
        "$recursiveRef",
        "disallow",
        "extends",
        "divisibleBy",
    ]
)
"""Keywords that grammars can't hold: a finished answer is checked against them."""

ANNOTATIONS = frozenset(
    [
        "$schema",
        "$id",
        "id",
        "$anchor",
        "$dynamicAnchor",
        "$recursiveAnchor",
        "$defs",
        "definitions",
        "$comment",
        "$vocabulary",
        "title",
        "description",
        "default",
        "examples",
        "deprecated",
        "readOnly",
        "writeOnly",
        "contentEncoding",
        "contentMediaType",
        "contentSchema",
    ]
)
"""Keywords that say nothing about which values are accepted."""
