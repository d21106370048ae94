"""Runs a checkpoint's Jinja chat template, in a sandbox, as transformers does.

Source of the environment: transformers `utils/chat_template_utils.py` (trim_blocks, lstrip_blocks, loop controls,
`tojson` that keeps all characters, `raise_exception`, `strftime_now`, the `generation` block).
"""

import json
import re
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from ..errors import DialogError
from ..json_types import JsonMapping, JsonValue

_MAX_CHARACTERS = 50_000_000
_MAX_ROUNDS = 2_000_000
_MAX_POWER = 4096


class ChatTemplate:
    """A compiled template, and what it says about itself."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.marks_generation = re.search(r"\{%-?\s*generation\s*-?%\}", source) is not None
        self._template, undeclared = _compile(source)
        self.variables = frozenset(undeclared)
        self.takes_tools = "tools" in undeclared or "custom_tools" in undeclared
        self.takes_calls = "tool_calls" in source
        self.writes_date = "strftime_now" in undeclared

    def render(self, values: JsonMapping, marks: tuple[str, str] = ("", ""), today: datetime | None = None) -> str:
        """Return the text; `marks` stand before and after what the template says the assistant wrote.

        `today` is what the template takes for the present, by default the clock's. Raises DialogError where the
        template refuses the dialog or fails.
        """
        from jinja2 import TemplateError

        pieces: list[str] = []
        size = 0
        given = {**values, "_marks": marks, "range": _bounded_range()}
        given["strftime_now"] = lambda form: (today or datetime.now()).strftime(form)
        try:
            for piece in self._template.generate(given):
                pieces.append(piece)
                size += len(piece)
                if size > _MAX_CHARACTERS:
                    raise DialogError(f"the chat template wrote over {_MAX_CHARACTERS} characters")
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise DialogError(f"the chat template can't render this dialog: {' '.join(str(error).split())}") from None
        except (RecursionError, MemoryError):
            raise DialogError("the chat template can't render this dialog: it is nested too deeply or huge") from None
        return "".join(pieces)


@lru_cache(maxsize=8)
def _compile(source: str) -> tuple[Any, set[str]]:
    from jinja2 import TemplateError, meta

    try:
        environment = _environment()
        return environment.from_string(source), meta.find_undeclared_variables(environment.parse(source))
    except (TemplateError, RecursionError) as error:
        raise DialogError(f"the chat template is not valid Jinja: {' '.join(str(error).split())}") from None


def _environment() -> Any:
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}…{% endgeneration %}`: puts the marks around what the assistant wrote."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            marks = nodes.ContextReference()
            return nodes.CallBlock(self.call_method("_marked", [marks]), [], [], body).set_lineno(line)

        def _marked(self, context: Any, caller: Callable[[], str]) -> str:
            before, after = context["_marks"]
            return f"{before}{caller()}{after}"

    class Bounded(ImmutableSandboxedEnvironment):
        """A sandbox in which a product or a sum of texts can't grow without bounds either."""

        intercepted_binops = frozenset(("*", "**", "+"))

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            _check_size(operator, left, right)
            return super().call_binop(context, operator, left, right)

    environment = Bounded(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    return environment


def _check_size(operator: str, left: Any, right: Any) -> None:
    sized = [len(side) if isinstance(side, str | list | tuple) else None for side in (left, right)]
    if operator == "**":
        grows = any(isinstance(side, int) and abs(side) > _MAX_POWER for side in (left, right))
    elif operator == "+":
        grows = sum(size or 0 for size in sized) > _MAX_CHARACTERS
    elif all(isinstance(side, int) for side in (left, right)):
        grows = left.bit_length() + right.bit_length() > _MAX_POWER
    else:
        factors = [side if size is None else size for side, size in zip((left, right), sized, strict=True)]
        grows = any(sized) and all(isinstance(side, int) for side in factors)
        grows = grows and factors[0] * factors[1] > _MAX_CHARACTERS
    if grows:
        raise ValueError(f"{operator} makes something too large")


def _bounded_range() -> Callable[..., range]:
    """Return a `range` whose calls have a bounded number of rounds together, so that nested loops end."""
    left = _MAX_ROUNDS

    def bounded(*limits: int) -> range:
        nonlocal left
        rounds = range(*limits)
        left -= len(rounds) + 1
        if left < 0:
            raise OverflowError(f"its loops take over {_MAX_ROUNDS} rounds")
        return rounds

    return bounded


def _tojson(
    value: JsonValue,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)
