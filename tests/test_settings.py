"""Settings: one declaration, one validator, and what is derived from it."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from llama3_mlx.bench.options import BenchOptions
from llama3_mlx.convert.options import ConversionOptions
from llama3_mlx.errors import ConfigError, RequestError
from llama3_mlx.finetune.settings import DpoSettings, GrpoSettings, KtoSettings, OrpoSettings, TrainSettings
from llama3_mlx.generation.options import GenerationOptions
from llama3_mlx.kv_cache import CacheOptions
from llama3_mlx.server.settings import ServerSettings
from llama3_mlx.settings import make, setting, settings_of, validate

KINDS = [
    *(BenchOptions, CacheOptions, ConversionOptions, GenerationOptions, ServerSettings),
    *(TrainSettings, DpoSettings, OrpoSettings, KtoSettings, GrpoSettings),
]


@dataclass(frozen=True, kw_only=True)
class Oven:
    """Settings of every kind of value."""

    count: int = setting(2, "whole", low=1, high=9)
    heat: float | None = setting(None, "number", above=0)
    label: str = setting("x", "text", choices=("x", "y"))
    fan: bool = setting(False, "switch")
    book: Path | None = setting(None, "path")
    notes: tuple[str, ...] = setting((), "texts")
    own: object = setting({}, "checked by itself", check=lambda name, value: f"{name}?" if value == 3 else None)
    internal: int = field(default=0)

    def __post_init__(self) -> None:
        validate(self)


def test_values_are_brought_into_their_types() -> None:
    made = make(Oven, {"notes": ["a", "b"], "book": "a/b.txt", "heat": 3})
    assert (made.notes, made.book, made.heat) == (("a", "b"), Path("a/b.txt"), 3)
    assert Oven(notes="one").notes == ("one",)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "count must be from 1 to 9, not 0"),
        ({"count": 1.5}, "count must be a whole number, not 1.5"),
        ({"count": True}, "count must be a whole number, not True"),
        ({"count": None}, "count must be a whole number, not None"),
        ({"heat": 0}, "heat must be more than 0, not 0"),
        ({"heat": float("nan")}, "heat must be more than 0, not nan"),
        ({"heat": "hot"}, "heat must be a number, not 'hot'"),
        ({"label": "z"}, "label must be one of x, y, not 'z'"),
        ({"label": ""}, "label must be text that isn't empty, not ''"),
        ({"fan": 1}, "fan must be true or false, not 1"),
        ({"book": 1}, "book must be a path, not 1"),
        ({"notes": ["a", ""]}, "notes must be one or several texts that aren't empty, not ('a', '')"),
        ({"own": 3}, "own?"),
        ({"count": 0, "fan": 2}, "count must be from 1 to 9, not 0; fan must be true or false, not 2"),
        ({"cuont": 1}, "unknown option cuont (did you mean count?); known are count, heat, label, fan, book, notes"),
    ],
)
def test_what_does_not_fit_is_named_with_what_is_accepted(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        make(Oven, values)
    assert str(caught.value).startswith(message)


def test_each_kind_of_settings_raises_its_own_error() -> None:
    with pytest.raises(ConfigError, match="unknown key x"):
        make(Oven, {"x": 1}, error=ConfigError, what="key")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_field_of_every_kind_of_settings_is_declared_with_a_help_text(kind: Callable[[], Any]) -> None:
    assert is_dataclass(kind)
    declared = settings_of(kind)
    assert list(declared) == list(kind.__dataclass_fields__)
    assert all(entry.help and not entry.help.endswith(".") for entry in declared.values())
    for entry in declared.values():
        assert entry.problem(entry.coerced(entry.default)) is None


def test_the_keyword_arguments_that_type_checkers_see_are_up_to_date() -> None:
    script = Path(__file__).parents[1] / "scripts" / "keywords"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
