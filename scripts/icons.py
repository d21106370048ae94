"""Draws the icons of the example applications and writes them where Briefcase and Toga look for them.

`python scripts/icons.py`: for a Mac one `.icns` with every size, for Linux a PNG of each size that Briefcase wants, and
one without a size in its name for Toga's window.
"""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

ROOT = Path(__file__).parents[1]
SIZES = (16, 32, 64, 128, 256, 512)
# All is drawn on a square of this size, four times as large as the largest icon needs, and made smaller.
_SIDE, _LARGEST = 4096, 1024
_WHITE = (255, 255, 255, 255)
Color = tuple[int, int, int]
# Of the side, as Apple's grid for icons has it: the margin around the plate, and the radius of its corners.
_MARGIN, _RADIUS = 100 / 1024, 185 / 1024
# A llama's head and neck, seen from its right side, in hundredths of the side; ellipses and boxes by their bounds.
_HEAD, _MUZZLE = (34, 32, 61, 54), (49, 38, 73, 54)
_NECK = ((34.2, 43), (53, 43), (57, 90.3), (29, 90.3))
_EARS = (((36.5, 38), (38, 18), (46, 34)), ((45, 35), (49.5, 18), (54, 36)))
_EYE, _NOSTRIL = (52, 39, 55.5, 42.5), (67.5, 42, 69.5, 44)


def plate(top: Color, bottom: Color) -> Image.Image:
    """Return a plate with round corners, shaded from one color to another."""
    shade = Image.linear_gradient("L").resize((_SIDE, _SIDE))
    filled = Image.composite(Image.new("RGB", shade.size, bottom), Image.new("RGB", shade.size, top), shade)
    mask = Image.new("L", shade.size)
    edge = round(_SIDE * _MARGIN)
    ImageDraw.Draw(mask).rounded_rectangle((edge, edge, _SIDE - edge, _SIDE - edge), _SIDE * _RADIUS, fill=255)
    picture = Image.new("RGBA", shade.size)
    picture.paste(filled, mask=mask)
    return picture


def sheet() -> Image.Image:
    """Return a sheet of paper with a folded corner."""
    picture = Image.new("RGBA", (_SIDE, _SIDE))
    draw = ImageDraw.Draw(picture)
    draw.polygon(
        _points(((20, 6), (62, 6), (80, 24), (80, 94), (20, 94))), fill=_WHITE, outline=(150, 160, 170), width=40
    )
    draw.polygon(_points(((62, 6), (62, 24), (80, 24))), fill=(214, 222, 228), outline=(150, 160, 170), width=40)
    return picture


def draw_llama(picture: Image.Image, color: Color, ground: Color) -> None:
    """Draw the head onto a picture; eye and nostril have the color of the ground."""
    draw = ImageDraw.Draw(picture)
    draw.polygon(_points(_NECK), fill=color)
    draw.ellipse(_scaled(_HEAD), fill=color)
    draw.rounded_rectangle(_scaled(_MUZZLE), 0.075 * _SIDE, fill=color)
    for ear in _EARS:
        draw.polygon(_points(ear), fill=color)
    for spot in (_EYE, _NOSTRIL):
        draw.ellipse(_scaled(spot), fill=ground)


def _scaled(values: Sequence[float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = (value * _SIDE / 100 for value in values)
    return left, top, right, bottom


def _points(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x * _SIDE / 100, y * _SIDE / 100) for x, y in places]


def save(picture: Image.Image, place: Path) -> None:
    """Write an icon in all its forms; `place` has no suffix."""
    place.parent.mkdir(parents=True, exist_ok=True)
    largest = picture.resize((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
    largest.save(place.with_suffix(".icns"))
    for size in SIZES:
        small = picture.resize((size, size), Image.Resampling.LANCZOS)
        small.save(place.with_name(f"{place.name}-{size}.png"), optimize=True)
    largest.resize((512, 512)).save(place.with_suffix(".png"), optimize=True)


def main() -> None:
    """Write the icons of both applications, and of the documents that one of them opens."""
    for folder, name, top, bottom in (
        ("mac_app", "llama_desk", (46, 134, 193), (21, 67, 96)),
        ("menu_bar", "llama_bar", (230, 126, 34), (135, 54, 0)),
    ):
        icon = plate(top, bottom)
        draw_llama(icon, (255, 255, 255), bottom)
        save(icon, ROOT / "examples" / folder / name / "resources" / name)
    document = sheet()
    draw_llama(document, (46, 134, 193), (255, 255, 255))
    save(document, ROOT / "examples" / "mac_app" / "llama_desk" / "resources" / "document")


if __name__ == "__main__":
    main()
