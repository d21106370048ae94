"""Dates and times of JSON schemas as patterns that hold only dates that there are.

llguidance's own formats let 29 February of a common year through, and second 60 at any time,
which neither Python nor most other readers accept. Source of the formats: RFC 3339, section 5.6.
"""

from collections.abc import Mapping
from typing import Any

_YEAR = r"(000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})"
_LEAP_YEAR = r"([0-9]{2}(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)"
_DAY = r"((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
_DATE = rf"({_YEAR}-{_DAY}|{_LEAP_YEAR}-02-29)"
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_PATTERNS = {"date": rf"^{_DATE}$", "time": rf"^{_TIME}$", "date-time": rf"^{_DATE}T{_TIME}$"}
_VALUES = ("enum", "const", "default", "examples")


def with_strict_dates(schema: Any) -> Any:
    """Return the schema with patterns in the place of the formats date, time and date-time."""
    if isinstance(schema, list):
        return [with_strict_dates(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    strict = {key: value if key in _VALUES else with_strict_dates(value) for key, value in schema.items()}
    form = schema.get("format")
    if isinstance(form, str) and form in _PATTERNS and "pattern" not in schema:
        strict["pattern"] = _PATTERNS[strict.pop("format")]
    return strict
