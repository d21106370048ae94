"""The directive `settings-table`: the fields of a settings dataclass with their defaults and help texts."""

import importlib
from dataclasses import MISSING, Field, fields
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

HEADINGS = ("Setting", "Default", "Meaning")


class SettingsTable(SphinxDirective):
    """`{settings-table} package.module.Class`: one row a field."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        module, _, name = self.arguments[0].rpartition(".")
        rows = [_row(entry) for entry in fields(getattr(importlib.import_module(module), name))]
        group = nodes.tgroup(cols=len(HEADINGS))
        group += [nodes.colspec(colwidth=width) for width in (22, 14, 64)]
        group += nodes.thead("", _table_row([nodes.Text(heading) for heading in HEADINGS]))
        group += nodes.tbody("", *[_table_row(row) for row in rows])
        return [nodes.table("", group)]


def _row(entry: "Field[Any]") -> list[nodes.Node]:
    default = entry.default if entry.default is not MISSING else entry.default_factory()  # type: ignore[misc]
    text = str(entry.metadata.get("help", "")).replace("%%", "%")
    return [nodes.literal(text=entry.name), nodes.literal(text=repr(default)), nodes.Text(text)]


def _table_row(cells: list[nodes.Node]) -> nodes.row:
    return nodes.row("", *[nodes.entry("", nodes.paragraph("", "", cell)) for cell in cells])


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive to Sphinx."""
    app.add_directive("settings-table", SettingsTable)
    return {"parallel_read_safe": True}
