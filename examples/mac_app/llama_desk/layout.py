"""Rows and columns of widgets."""

from typing import Literal

import toga


def row(*children: toga.Widget, flex: int = 0) -> toga.Box:
    """Return the widgets beside one another."""
    return toga.Box(children=children, direction="row", align_items="center", gap=6, flex=flex)


def column(*children: toga.Widget, flex: int = 0, margin: int = 0, width: int | Literal["none"] = "none") -> toga.Box:
    """Return the widgets below one another; `width` in points, by default what they need."""
    return toga.Box(children=children, direction="column", gap=6, flex=flex, margin=margin, width=width)
