"""What the request bodies of all protocols share: null counts as absent, wrong types are refused.

Fields that can't change the answer are accepted; which ones a request sent stands in the header
`x-ignored-parameters`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from ...generation.options import GenerationOptions
from ...settings import settings_of

KeepAlive = float | str | None


def refusal(name: str, message: str) -> PydanticCustomError:
    """Return the error of a body in which the field `name` can't be honoured."""
    return PydanticCustomError("refused", "{message}", {"name": name, "message": message})


class Body(BaseModel):
    """A request's body, or a part of it."""

    model_config = ConfigDict(strict=True, extra="allow")
    refused: ClassVar[Mapping[str, str]] = {}
    """Fields that would change the answer and can't be honoured, each with what to do instead."""

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        for name, advice in self.refused.items():
            if (self.model_extra or {}).get(name) not in (None, False, []):
                raise refusal(name, f"{name} is not supported: {advice}")
        return self

    def ignored(self) -> list[str]:
        """Return the fields that were sent and mean nothing here, by their paths."""
        extra = [name for name, value in (self.model_extra or {}).items() if value is not None]
        inner = (path for name in type(self).model_fields for path in _ignored(getattr(self, name), name))
        return sorted([*extra, *inner])


def _ignored(value: object, path: str) -> Iterator[str]:
    """Yield the paths of ignored fields inside a field's value; of the items of a list all have one path."""
    if isinstance(value, Body):
        yield from (f"{path.rstrip('_')}.{inner}" for inner in value.ignored())
    elif isinstance(value, list):
        yield from {inner for item in value for inner in _ignored(item, path)}


def option(name: str) -> Any:
    """Return the field of a generation setting, its text and limits taken from GenerationOptions."""
    declared = settings_of(GenerationOptions)[name]
    return Field(default=None, description=declared.help, ge=declared.low, le=declared.high)
