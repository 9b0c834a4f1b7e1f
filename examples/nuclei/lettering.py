"""Text on a picture in Pillow's own font, with two signs that the font lacks: µ and ²."""

from __future__ import annotations

import re
from collections.abc import Iterator

from PIL import ImageDraw, ImageFont

Colour = tuple[int, int, int]
STEM = 0.085  # the thickness of a letter's stem, of the font's size


def write(
    pen: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    size: int,
    colour: Colour,
    anchor: str = "la",
) -> float:
    """Write, and say how wide it became.

    The anchor: `l`, `m` or `r` (of the width), then `a` (top), `m` (middle) or `s` (baseline).
    """
    parts = list(_parts(text, size))
    width = sum(font.getlength(part) for part, font, _ in parts)
    x = place[0] - {"l": 0.0, "m": width / 2, "r": width}[anchor[0]]
    ascent, descent = _font(size).getmetrics()
    y = place[1] + {"a": ascent, "m": (ascent - descent) / 2, "s": 0}[anchor[1]]
    for part, font, sign in parts:
        rise = 0.36 * size if sign == "²" else 0.0
        pen.text((x, y - rise), part, fill=colour, font=font, anchor="ls")
        if sign == "µ":
            stem, top, _, _ = font.getbbox(part, anchor="ls")
            pen.rectangle((x + stem, y + top, x + stem + STEM * size, y + 0.22 * size), fill=colour)
        x += font.getlength(part)
    return width


def _parts(text: str, size: int) -> Iterator[tuple[str, ImageFont.FreeTypeFont, str]]:
    """What to draw, in which font, and the sign that it stands for."""
    for part in re.split("([µ²])", text):
        drawn = {"µ": "u", "²": "2"}.get(part, part)
        yield drawn, _font(round(0.65 * size) if part == "²" else size), part


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType")
    return font
