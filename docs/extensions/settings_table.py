"""The directive `settings-table`: the settings that a dataclass declares, with their defaults and help texts."""

import importlib
from collections.abc import Mapping

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from llama3_mlx.settings import Setting, settings_of

HEADINGS = {"Setting": 22, "Default": 14, "Meaning": 64}


class SettingsTable(SphinxDirective):
    """`{settings-table} package.module.Class`: one row a setting; with `:extends:`, those that another class hasn't."""

    required_arguments = 1
    option_spec = {"extends": directives.unchanged}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        declared = _settings(self.arguments[0])
        if "extends" in self.options:
            base = _settings(self.options["extends"])
            declared = {name: each for name, each in declared.items() if base.get(name) != each}
        group = nodes.tgroup(cols=len(HEADINGS))
        group += [nodes.colspec(colwidth=width) for width in HEADINGS.values()]
        group += nodes.thead("", _row(*(nodes.Text(heading) for heading in HEADINGS)))
        group += nodes.tbody("", *(_setting_row(each) for each in declared.values()))
        return [nodes.table("", group)]


def _settings(path: str) -> Mapping[str, Setting]:
    module, _, name = path.rpartition(".")
    return settings_of(getattr(importlib.import_module(module), name))


def _setting_row(declared: Setting) -> nodes.row:
    choices = f" ({', '.join(map(str, declared.choices))})" if declared.choices else ""
    text = nodes.Text(declared.help.replace("%%", "%") + choices)
    return _row(nodes.literal(text=declared.name), nodes.literal(text=repr(declared.default)), text)


def _row(*cells: nodes.Node) -> nodes.row:
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", cell)) for cell in cells))


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive to Sphinx."""
    app.add_directive("settings-table", SettingsTable)
    return {"parallel_read_safe": True}
