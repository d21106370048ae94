"""JSON objects as Python has them: of any values, since each protocol's own types say what is in them."""

from collections.abc import Mapping
from typing import Any

JsonObject = dict[str, Any]
JsonMapping = Mapping[str, Any]
