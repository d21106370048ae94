"""Durations as Ollama's clients write them: seconds, or Go's "5m", "1h30m", "500ms"; negative means for ever.

Source: https://github.com/ollama/ollama/blob/main/docs/faq.md (keep_alive); https://pkg.go.dev/time#ParseDuration.
"""

import re

from ..http.errors import ApiError

_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?)(ns|us|µs|ms|s|m|h)", re.ASCII)
FOR_EVER_S = -1.0
_LONGEST_S = 1e9


def duration_s(value: float | str | None) -> float | None:
    """Return the seconds of a duration, -1 for for ever, None for none given; raises ApiError 400."""
    if value is None or value == "":
        return None
    if isinstance(value, int | float):
        return _checked(float(value))
    sign, text = (-1, value[1:]) if value.startswith("-") else (1, value)
    if re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
        return _checked(sign * float(text))
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ApiError(400, f"{value[:40]!r} is not a duration: write seconds, or a text like '5m', '1h30m', '-1'")
    return _checked(sign * sum(float(number) * _UNITS_S[unit] for number, unit in parts))


def _checked(seconds: float) -> float:
    return FOR_EVER_S if seconds < 0 or seconds > _LONGEST_S else seconds
