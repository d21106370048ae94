"""Values of JSON as they are parsed: of any type that JSON has, until whoever reads them has checked them."""

from collections.abc import Mapping
from typing import Any

JsonValue = Any
JsonObject = dict[str, JsonValue]
JsonMapping = Mapping[str, JsonValue]
