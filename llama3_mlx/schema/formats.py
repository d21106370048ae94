"""Formats of JSON Schema as patterns, for grammars and for checks.

llguidance's own dates let 29 February of a common year through, and second 60 at any time, which neither Python nor
most other readers accept; other formats it doesn't know at all. Sources: RFC 3339, section 5.6 (dates and times),
RFC 6901 (JSON pointers), RFC 3986 and 3987 (URIs and IRIs), RFC 6570 (URI templates), RFC 5890 (international names).
"""

from collections.abc import Mapping
from types import MappingProxyType

_YEAR = r"(000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})"
_LEAP_YEAR = r"([0-9]{2}(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)"
_DAY = r"((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
_DATE = rf"({_YEAR}-{_DAY}|{_LEAP_YEAR}-02-29)"
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_POINTER = r"(/([^~/]|~[01])*)*"
_NO_URI = r" \"<>\\^`{|}\x00-\x1f"
_LABEL = r"[^\x00-\x2c\x2e-\x2f\x3a-\x40\x5b-\x60\x7b-\x7f]{1,63}"

PATTERNS: Mapping[str, str] = MappingProxyType(
    {
        "date": rf"^{_DATE}$",
        "time": rf"^{_TIME}$",
        "date-time": rf"^{_DATE}T{_TIME}$",
        "json-pointer": rf"^{_POINTER}$",
        "relative-json-pointer": rf"^(0|[1-9][0-9]*)(#|{_POINTER})$",
        "idn-email": r"^[^@ \x00-\x1f]+@[^@ \x00-\x1f]+$",
        "idn-hostname": rf"^{_LABEL}(\.{_LABEL})*$",
        "iri": rf"^[A-Za-z][A-Za-z0-9+.-]*:[^{_NO_URI}]*$",
        "iri-reference": rf"^[^{_NO_URI}]*$",
        "uri-reference": rf"^[^{_NO_URI}\x7f-\U0010ffff]*$",
        "uri-template": rf"^([^{_NO_URI}]|\{{[^{_NO_URI}]+\}})*$",
    }
)
"""Formats that grammars hold as these patterns."""

NATIVE = frozenset(("duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"))
"""Formats that llguidance knows by itself."""
