"""Draw the plate: each well's projection with its nuclei outlined, a part enlarged, and what was measured."""

from __future__ import annotations

import argparse
import csv
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lettering import write
from PIL import Image, ImageDraw
from wells import CHANNELS, OUTLINE, Colour, Contrast, Well, crowded_part, render, render_part

WIDTH, MARGIN, GAP = 1600, 48, 24
TOP = 172  # of the wells
CAPTION, STRIP = 86, 250
ROW_LABEL = 40
GRID_WIDTH, GRID_HEIGHT = 1060, 900
INSET_SCALE = 2.0  # picture pixels per image pixel
PLATE_ROWS, PLATE_COLUMNS = 16, 24

BACKGROUND: Colour = (13, 16, 23)
PANEL: Colour = (22, 27, 37)
FAINT: Colour = (52, 60, 76)
GREY: Colour = (150, 160, 178)
WHITE: Colour = (238, 242, 248)
GREEN: Colour = (120, 220, 150)
RED: Colour = (255, 95, 95)

SCALE_BARS = (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)  # micrometres


@dataclass(frozen=True)
class Grid:
    """Where on the picture the wells go: only rows and columns of the plate that have data."""

    rows: list[str]
    columns: list[str]
    cell: tuple[int, int]

    @classmethod
    def for_wells(cls, wells: list[Well]) -> Grid:
        """As large as fits."""
        rows, columns = sorted({well.row for well in wells}), sorted({well.column for well in wells})
        height, width = wells[0].shape
        room_x = (GRID_WIDTH - GAP * (len(columns) - 1)) / len(columns)
        room_y = (GRID_HEIGHT - CAPTION * (len(rows) - 1)) / len(rows)
        scale = min(room_x / width, room_y / height, 640 / width)
        return cls(rows, columns, (max(8, int(width * scale)), max(8, int(height * scale))))

    @property
    def left(self) -> int:
        """Where the first column begins."""
        return MARGIN + ROW_LABEL

    @property
    def right(self) -> int:
        """Where the last column ends."""
        return self.left + len(self.columns) * (self.cell[0] + GAP) - GAP

    @property
    def bottom(self) -> int:
        """Where the last row ends, its captions left out."""
        return TOP + len(self.rows) * (self.cell[1] + CAPTION) - CAPTION

    def corner(self, row: str, column: str) -> tuple[int, int]:
        """The top left corner of a well."""
        x = self.left + self.columns.index(column) * (self.cell[0] + GAP)
        return x, TOP + self.rows.index(row) * (self.cell[1] + CAPTION)


class Canvas:
    """A picture to write on."""

    def __init__(self, height: int) -> None:
        self.image = Image.new("RGB", (WIDTH, height), BACKGROUND)
        self.pen = ImageDraw.Draw(self.image)

    def text(
        self, place: tuple[float, float], text: str, size: int, colour: Colour = WHITE, anchor: str = "la"
    ) -> float:
        """Write, and say how wide it became."""
        return write(self.pen, place, text, size, colour, anchor)

    def panel(self, box: tuple[int, int, int, int], title: str) -> None:
        """A box with a title, for the strip at the bottom."""
        self.pen.rounded_rectangle(box, radius=10, fill=PANEL)
        self.text((box[0] + 20, box[1] + 16), title, 18, GREY)

    def scale_bar(self, box: tuple[int, int, int, int], pixels_per_um: float) -> None:
        """In the lower right corner of a box: a round length, at most a quarter of its width."""
        left, _, right, bottom = box
        fitting = [um for um in SCALE_BARS if um * pixels_per_um <= 0.25 * (right - left)]
        if not fitting:
            return
        end, start = right - 16, right - 16 - fitting[-1] * pixels_per_um
        self.pen.rectangle((start - 10, bottom - 44, end + 10, bottom - 8), fill=BACKGROUND)
        self.pen.rectangle((start, bottom - 18, end, bottom - 14), fill=WHITE)
        self.text(((start + end) / 2, bottom - 23), f"{fitting[-1]} µm", 16, WHITE, "ms")


def read_wells(zarr_dir: Path, placed: dict[str, int], measured: Counter[str]) -> list[Well]:
    """All wells that have a projection with nuclei."""
    wells = []
    for labels in sorted(zarr_dir.glob("*_mip.zarr/*/*/*/labels/nuclei")):
        image = labels.parent.parent
        row, column = image.parts[-3:-1]
        name = f"{row}{column}"
        wells.append(Well(row, column, image, placed.get(name, 0), measured[name]))
    return wells


def draw_header(canvas: Canvas, wells: list[Well]) -> None:
    """Title and what is to be seen."""
    nuclei = sum(well.measured for well in wells)
    plate = wells[0].path.parts[-4].removesuffix("_mip.zarr")
    several = "wells" if len(wells) > 1 else "well"
    canvas.text((MARGIN, 34), f"{plate}: {nuclei} nuclei in {len(wells)} {several}", 42)
    canvas.text(
        (MARGIN, 88),
        "From raw CellVoyager images to measured nuclei: converted, shading corrected, projected, segmented",
        20,
        GREY,
    )


def draw_grid(canvas: Canvas, grid: Grid, wells: list[Well], contrast: Contrast) -> None:
    """The wells, with the plate's row letters and column numbers."""
    width, height = grid.cell
    for column in grid.columns:
        canvas.text(
            (grid.corner(grid.rows[0], column)[0] + width / 2, TOP - 12), str(int(column)), 24, GREY, "ms"
        )
    for row in grid.rows:
        canvas.text((MARGIN, grid.corner(row, grid.columns[0])[1] + height / 2), row, 24, GREY, "lm")
        for column in grid.columns:
            x, y = grid.corner(row, column)
            canvas.pen.rectangle((x, y, x + width, y + height), outline=FAINT)
    line = min(1.3, max(0.5, width / 400))
    for well in wells:
        corner = grid.corner(well.row, well.column)
        canvas.image.paste(render(well, contrast, grid.cell, line), corner)
        draw_caption(canvas, grid, well)
    x, y = grid.corner(wells[0].row, wells[0].column)
    canvas.scale_bar((x, y, x + width, y + height), width / (wells[0].shape[1] * wells[0].pixel_size))


def draw_caption(canvas: Canvas, grid: Grid, well: Well) -> None:
    """The well's name, and whether what was measured is what was placed."""
    x, y = grid.corner(well.row, well.column)
    width, height = grid.cell
    y += height + 10
    if width >= 300:
        used = canvas.text((x, y), well.name, 28)
        x, size = x + int(used) + 18, 20
    elif width >= 90:
        canvas.text((x, y), well.name, 22)
        y, size = y + 26, 14 if width < 170 else 18
    else:
        return
    right = well.measured == well.placed
    words = ("measured", "placed") if width >= 170 else ("", "")
    text = f"{well.measured} {words[0]} / {well.placed} {words[1]}".replace("  ", " ").strip()
    canvas.text((x, y + (7 if width >= 300 else 0)), text, size, GREEN if right else RED)


def draw_inset(canvas: Canvas, grid: Grid, wells: list[Well], contrast: Contrast) -> None:
    """A crowded part of the fullest well, enlarged; a frame shows where it is."""
    well = max(wells, key=lambda each: each.measured)
    left, right, bottom = grid.right + 2 * GAP, WIDTH - MARGIN, max(grid.bottom, TOP + 300)
    width, height = right - left, bottom - TOP
    scale = max(INSET_SCALE, height / well.shape[0], width / well.shape[1])
    box = crowded_part(well, int(height / scale), int(width / scale))
    canvas.image.paste(render_part(well, contrast, box, (width, height), 2.4), (left, TOP))
    canvas.pen.rectangle((left, TOP, right, bottom), outline=WHITE, width=2)
    canvas.text((left, TOP - 12), f"part of {well.name}, enlarged", 20, GREY, "ls")
    canvas.scale_bar((left, TOP, right, bottom), scale / well.pixel_size)
    shrink = grid.cell[0] / well.shape[1]
    x, y = grid.corner(well.row, well.column)
    top, start, end, stop = (value * shrink for value in box)
    canvas.pen.rectangle((x + start, y + top, x + stop, y + end), outline=WHITE, width=2)


def draw_legend(canvas: Canvas, box: tuple[int, int, int, int]) -> None:
    """What the colours mean."""
    canvas.panel(box, "Colours")
    x, y = box[0] + 20, box[1] + 56
    entries = [("DAPI", "nuclei"), ("Actin", "cell bodies")]
    for name, meaning in entries:
        canvas.pen.ellipse((x, y, x + 26, y + 26), fill=CHANNELS[name])
        used = canvas.text((x + 42, y + 1), name, 20)
        canvas.text((x + 52 + used, y + 1), meaning, 20, GREY)
        y += 44
    canvas.pen.ellipse((x, y, x + 26, y + 26), outline=OUTLINE, width=3)
    used = canvas.text((x + 42, y + 1), "label", 20)
    canvas.text((x + 52 + used, y + 1), "segmented nuclei", 20, GREY)
    canvas.pen.rectangle((x + 2, y + 46, x + 24, y + 68), outline=WHITE, width=2)
    canvas.text((x + 42, y + 45), "enlarged part", 20, GREY)


def draw_plate_map(canvas: Canvas, box: tuple[int, int, int, int], wells: list[Well]) -> None:
    """The whole plate, the wells that have data lit."""
    canvas.panel(box, f"{PLATE_ROWS * PLATE_COLUMNS}-well plate")
    pitch = min((box[2] - box[0] - 40) / PLATE_COLUMNS, (box[3] - box[1] - 70) / PLATE_ROWS)
    used = {(ord(well.row) - ord("A"), int(well.column) - 1) for well in wells}
    x0, y0 = box[0] + 20, box[1] + 50
    for row in range(PLATE_ROWS):
        for column in range(PLATE_COLUMNS):
            x, y = x0 + column * pitch, y0 + row * pitch
            colour = OUTLINE if (row, column) in used else FAINT
            canvas.pen.ellipse((x + 1, y + 1, x + pitch - 1.5, y + pitch - 1.5), fill=colour)


def draw_histogram(canvas: Canvas, box: tuple[int, int, int, int], areas: list[float]) -> None:
    """How large the nuclei are."""
    median = f", median {np.median(areas):.0f} µm²" if areas else ""
    canvas.panel(box, f"Area of the nuclei{median}")
    if not areas:
        return
    limit = float(np.ceil(np.max(areas) / 20) * 20)
    counts, edges = np.histogram(areas, bins=32, range=(0, limit))
    left, right, top, bottom = box[0] + 24, box[2] - 24, box[1] + 56, box[3] - 40
    for count, start, end in zip(counts, edges, edges[1:], strict=False):
        x0, x1 = (left + (right - left) * edge / limit for edge in (start, end))
        if count:
            y = bottom - (bottom - top) * count / counts.max()
            canvas.pen.rectangle((x0 + 1, y, x1 - 1, bottom), fill=CHANNELS["DAPI"])
    canvas.pen.line((left, bottom + 1, right, bottom + 1), fill=GREY)
    for share in (0, 0.25, 0.5, 0.75, 1):
        label = f"{limit * share:.0f}" + (" µm²" if share == 1 else "")
        anchor = "la" if share == 0 else "ra" if share == 1 else "ma"
        canvas.text((left + (right - left) * share, bottom + 8), label, 16, GREY, anchor)


def draw_overview(wells: list[Well], areas: list[float]) -> Image.Image:
    """The whole picture."""
    grid = Grid.for_wells(wells)
    contrast = Contrast(wells)
    strip = max(grid.bottom, TOP + 300) + CAPTION
    canvas = Canvas(strip + STRIP + MARGIN)
    draw_header(canvas, wells)
    draw_grid(canvas, grid, wells, contrast)
    draw_inset(canvas, grid, wells, contrast)
    draw_legend(canvas, (MARGIN, strip, MARGIN + 350, strip + STRIP))
    draw_plate_map(canvas, (MARGIN + 374, strip, MARGIN + 684, strip + STRIP), wells)
    draw_histogram(canvas, (MARGIN + 708, strip, WIDTH - MARGIN, strip + STRIP), areas)
    return canvas.image


def reduce_colours(picture: Image.Image) -> Image.Image:
    """256 colours: a quarter of the size, and no difference to be seen."""
    kept = [channel for colour in (BACKGROUND, PANEL, FAINT, GREY, WHITE, OUTLINE) for channel in colour]
    found = picture.quantize(256 - len(kept) // 3, Image.Quantize.MAXCOVERAGE).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette(kept + found)
    return picture.quantize(palette=palette, dither=Image.Dither.NONE)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("expected", type=Path, help="expected.json of the raw data")
    parser.add_argument("zarr_dir", type=Path)
    parser.add_argument("table", type=Path, help="the CSV file of all nuclei")
    parser.add_argument("out", type=Path, help="the PNG file to write")
    args = parser.parse_args()
    placed = json.loads(args.expected.read_text())["nuclei_per_well"]
    with args.table.open(newline="") as lines:
        nuclei = list(csv.DictReader(lines))
    wells = read_wells(args.zarr_dir, placed, Counter(nucleus["well"] for nucleus in nuclei))
    if not wells:
        parser.error(f"no projected image with nuclei in {args.zarr_dir}")
    picture = draw_overview(wells, [float(nucleus["area"]) for nucleus in nuclei])
    reduce_colours(picture).save(args.out, optimize=True)
    print(f"{picture.width} x {picture.height} pixels")


if __name__ == "__main__":
    main()
