"""The applications' settings as Briefcase itself reads them, and their icons."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from examples.mac_app.llama_desk import app as desk_app
from examples.menu_bar.llama_bar import app as bar_app
from scripts.icons import SIZES

from .running import ROOT

APPS = {"mac_app": ("llama_desk", desk_app.APP_ID), "menu_bar": ("llama_bar", bar_app.APP_ID)}


@pytest.mark.parametrize("folder", APPS)
@pytest.mark.parametrize(("platform", "form"), [("macOS", "app"), ("linux", "system")])
def test_briefcase_reads_the_settings(folder: str, platform: str, form: str) -> None:
    config: Any = pytest.importorskip("briefcase.config")
    console: Any = pytest.importorskip("briefcase.console")
    warned: list[str] = []

    class Console(console.Console):  # type: ignore[misc]
        def warning_banner(self, title: str, *_: object, **__: object) -> None:
            warned.append(title)

    place = ROOT / "examples" / folder
    shared, apps = config.parse_config(place / "pyproject.toml", platform, form, console=Console())
    assert warned == []
    config.GlobalConfig(**shared)
    name, app_id = APPS[folder]
    app = config.DraftAppConfig(**apps[name])
    # What the program calls itself decides where a Mac keeps its files, and has to be what the bundle is called.
    assert app.bundle_identifier == app_id
    assert all((place / source / "__main__.py").exists() for source in app.sources)
    assert (place / app.requires[0]).resolve() == ROOT
    for icon in (app.icon, *(each["icon"] for each in app.document_types.values())):
        check_icon(place / icon)


def check_icon(place: Path) -> None:
    """The forms that Briefcase wants: https://briefcase.beeware.org, "macOS .app bundle" and "Linux system package"."""
    with Image.open(place.with_suffix(".icns")) as picture:
        # Points, and pixels a point: what a Mac shows from lists to the Dock.
        sizes = {(width, scale) for width, _, scale in picture.info["sizes"]}
    assert {(16, 2), (32, 2), (128, 1), (128, 2), (256, 1), (256, 2), (512, 1), (512, 2)} <= sizes
    for size in SIZES:
        with Image.open(place.with_name(f"{place.name}-{size}.png")) as picture:
            assert picture.size == (size, size)
            assert picture.mode == "RGBA"


@pytest.mark.parametrize("folder", APPS)
def test_a_bundle_is_made_as_mlx_needs_it(folder: str) -> None:
    """Source: the wheels of mlx-metal, which are for macOS 14 and later on Apple silicon alone."""
    settings = tomllib.loads((ROOT / "examples" / folder / "pyproject.toml").read_text())
    mac = settings["tool"]["briefcase"]["app"][APPS[folder][0]]["macOS"]
    assert mac["min_os_version"] == "14.0"
    assert mac["universal_build"] is False
