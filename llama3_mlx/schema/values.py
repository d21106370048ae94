"""What the modules of this package pass around, and Python has no closer type for."""

from typing import Any, TypeAlias

Json: TypeAlias = Any
"""A value of JSON, a schema included."""
