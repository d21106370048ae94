"""Flags for structured output and tools."""

import argparse
import functools
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import RequestError
from .flags import Values

ToolFunction = Callable[..., Any]


def add_structured_flags(parser: argparse.ArgumentParser) -> None:
    """Add --schema, --grammar and --tool."""
    group = parser.add_argument_group("structured output and tools")
    group.add_argument(
        "--schema", metavar="FILE", help="JSON schema that constrains the answer: a file, or the JSON itself"
    )
    group.add_argument("--grammar", metavar="FILE", help="Lark or GBNF grammar that constrains the answer")
    group.add_argument(
        "--tool",
        action="append",
        metavar="FILE.py:NAME",
        help="Python function that the model may call, with type hints and a docstring; repeatable",
    )


def structured_settings(args: argparse.Namespace) -> Values:
    """Return the settings that --schema and --grammar stand for."""
    settings: Values = {}
    if args.schema is not None:
        settings["schema"] = _schema(args.schema)
    if args.grammar is not None:
        settings["grammar"] = _text(Path(args.grammar))
    return settings


def load_tools(places: list[str] | None) -> list[ToolFunction]:
    """Return the functions that FILE.py:NAME texts name. This runs the files: they are the user's own."""
    return [_load_tool(place) for place in places or []]


def schema_text(text: str) -> str:
    """Return the schema that --schema gives as it is or by its file."""
    return text if text.lstrip().startswith("{") else _text(Path(text))


def _schema(text: str) -> Any:
    try:
        return json.loads(schema_text(text))
    except ValueError as error:
        raise RequestError(f"--schema isn't JSON: {error}") from None


def _text(path: Path) -> str:
    try:
        return path.expanduser().read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise RequestError(f"{path} isn't UTF-8 text") from None


def _load_tool(place: str) -> ToolFunction:
    file, _, name = place.rpartition(":")
    path = Path(file).expanduser()
    if not file or path.suffix != ".py" or not path.is_file():
        raise RequestError(f"--tool takes FILE.py:NAME, and {place!r} names no Python file that exists")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise RequestError(f"{path} can't be run: {type(error).__name__}: {error}") from None
    tool = getattr(module, name, None)
    if not callable(tool):
        raise RequestError(f"{path} has no function {name!r}")
    return _told(tool)


def _told(function: ToolFunction) -> ToolFunction:
    """Return the function with what it raises as its result, so that the model is told and the dialog goes on."""

    def failure(error: Exception) -> dict[str, str]:
        sys.stderr.write(f"{function.__name__} raised {type(error).__name__}: {error}\n")
        return {"error": f"{type(error).__name__}: {error}"}

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def arun(*arguments: Any, **named: Any) -> Any:
            try:
                return await function(*arguments, **named)
            except Exception as error:
                return failure(error)

        return arun

    @functools.wraps(function)
    def run(*arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except Exception as error:
            return failure(error)

    return run
