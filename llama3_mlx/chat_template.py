"""Runs a checkpoint's Jinja chat template, in a sandbox, as transformers does.

Source of the environment: transformers `utils/chat_template_utils.py` (trim_blocks, lstrip_blocks, loop controls,
`tojson` that keeps all characters, `raise_exception`, `strftime_now`, the `generation` block).
"""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from .errors import DialogError

_MAX_CHARACTERS = 50_000_000


class ChatTemplate:
    """A compiled template."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.marks_generation = "generation" in source and "endgeneration" in source
        self._template = _compile(source)

    def render(self, values: Mapping[str, Any], marks: tuple[str, str] = ("", "")) -> str:
        """Return the text; `marks` stand before and after what the template says the assistant wrote.

        Raises DialogError where the template refuses the dialog or fails.
        """
        from jinja2 import TemplateError

        pieces: list[str] = []
        size = 0
        try:
            for piece in self._template.generate(**values, _marks=marks):
                pieces.append(piece)
                size += len(piece)
                if size > _MAX_CHARACTERS:
                    raise DialogError(f"the chat template wrote over {_MAX_CHARACTERS} characters")
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise DialogError(f"the chat template can't render this dialog: {error}") from None
        except RecursionError:
            raise DialogError("the chat template can't render this dialog: it is nested too deeply") from None
        return "".join(pieces)


@lru_cache(maxsize=8)
def _compile(source: str) -> Any:
    from jinja2 import TemplateError

    try:
        return _environment().from_string(source)
    except TemplateError as error:
        raise DialogError(f"the chat template is no valid Jinja: {error}") from None


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

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)
