"""Read what the workflow made of a plate, the projections and the label image `nuclei`, and draw it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import zarr
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter
from skimage.measure import find_contours, regionprops

FloatArray: TypeAlias = NDArray[np.float32]
Colour: TypeAlias = tuple[int, int, int]
Contour: TypeAlias = NDArray[np.float64]

CHANNELS: dict[str, Colour] = {"DAPI": (70, 150, 255), "Actin": (255, 110, 40)}
OUTLINE: Colour = (236, 255, 120)
PERCENTILES = (10.0, 99.7)
SUPERSAMPLING = 4


@dataclass(frozen=True)
class Well:
    """One well's projected image."""

    row: str
    column: str
    path: Path
    placed: int
    measured: int

    @property
    def name(self) -> str:
        """Such as `B03`."""
        return f"{self.row}{self.column}"

    @cached_property
    def group(self) -> zarr.Group:
        """The OME-Zarr image."""
        return zarr.open_group(self.path, mode="r")

    @cached_property
    def levels(self) -> list[str]:
        """The resolutions' paths, finest first."""
        return [dataset["path"] for dataset in self._multiscale["datasets"]]

    @property
    def pixel_size(self) -> float:
        """Micrometres at the finest level."""
        scale = self._multiscale["datasets"][0]["coordinateTransformations"][0]["scale"]
        return float(scale[-1])

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width at the finest level."""
        height, width = self.array(self.levels[0]).shape[-2:]
        return height, width

    @property
    def _metadata(self) -> dict[str, Any]:
        attributes: dict[str, Any] = dict(self.group.attrs)
        ome: dict[str, Any] = attributes.get("ome", attributes)
        return ome

    @property
    def _multiscale(self) -> dict[str, Any]:
        multiscale: dict[str, Any] = self._metadata["multiscales"][0]
        return multiscale

    def array(self, path: str) -> zarr.Array[Any]:
        """The pixels of one level."""
        array = self.group[path]
        if not isinstance(array, zarr.Array):
            raise TypeError(f"{self.path / path} is not an array")
        return array

    def level_for(self, height: float) -> str:
        """The coarsest level that is still twice as fine as a picture of this height."""
        fine = [level for level in self.levels if self.array(level).shape[-2] >= 1.9 * height]
        return fine[-1] if fine else self.levels[0]

    def channel(self, name: str, level: str) -> FloatArray:
        """One channel's pixels."""
        names = [channel["label"] for channel in self._metadata["omero"]["channels"]]
        return np.asarray(self.array(level)[names.index(name), 0], dtype=np.float32)

    def labels(self, level: str) -> NDArray[np.uint32]:
        """The segmented nuclei: 0 is background."""
        return np.asarray(self.array(f"labels/nuclei/{level}")[0])


class Contrast:
    """The same limits for all wells, so that they can be compared."""

    def __init__(self, wells: list[Well]) -> None:
        self._limits = {name: self._find(name, wells) for name in CHANNELS}

    @staticmethod
    def _find(name: str, wells: list[Well]) -> tuple[float, float]:
        pixels = np.concatenate([well.channel(name, well.levels[-1]).ravel() for well in wells])
        low, high = np.percentile(pixels[pixels > 0], PERCENTILES)
        return float(low), max(float(high), float(low) + 1)

    def blend(self, channels: dict[str, FloatArray]) -> Image.Image:
        """Each channel in its colour, as light on light."""
        dark = np.float32(1.0)
        for name, pixels in channels.items():
            low, high = self._limits[name]
            light = np.clip((pixels - low) / (high - low), 0, 1)[..., None] ** 0.8
            dark = dark * (1 - light * np.array(CHANNELS[name], dtype=np.float32) / 255)
        return Image.fromarray(np.round(255 * (1 - dark)).astype(np.uint8))


def render(well: Well, contrast: Contrast, size: tuple[int, int], line: float) -> Image.Image:
    """The whole well, nuclei outlined, as a picture of this width and height."""
    level = well.level_for(size[1])
    labels = well.labels(level)
    return _render(well, contrast, level, labels, (0, 0, *labels.shape), size, line)


def render_part(
    well: Well, contrast: Contrast, box: tuple[int, int, int, int], size: tuple[int, int], line: float
) -> Image.Image:
    """The part between (top, left) and (bottom, right), at the finest level."""
    level = well.levels[0]
    top, left, bottom, right = box
    labels = well.labels(level)
    shown = np.zeros(labels.max() + 1, dtype=bool)
    shown[labels[top:bottom, left:right]] = True
    return _render(well, contrast, level, np.where(shown[labels], labels, 0), box, size, line)


def _render(
    well: Well,
    contrast: Contrast,
    level: str,
    labels: NDArray[np.uint32],
    box: tuple[int, int, int, int],
    size: tuple[int, int],
    line: float,
) -> Image.Image:
    top, left, bottom, right = box
    channels = {name: well.channel(name, level)[top:bottom, left:right] for name in CHANNELS}
    picture = contrast.blend(channels).resize(size, Image.Resampling.LANCZOS)
    scale = size[0] / (right - left)
    contours = [(contour - (top, left)) * scale for contour in outlines(labels)]
    return _draw(picture, contours, line)


def outlines(labels: NDArray[np.uint32]) -> Iterator[Contour]:
    """For each label a smooth closed line of (y, x), where (0, 0) is the image's corner."""
    margin = 4
    for region in regionprops(labels.astype(np.int32)):
        mask = np.pad(region.image, margin).astype(np.float32)
        corner = np.array(region.bbox[:2]) - margin + 0.5
        for contour in find_contours(gaussian_filter(mask, 0.9), 0.5):
            yield contour + corner


def _draw(picture: Image.Image, contours: list[Contour], line: float) -> Image.Image:
    width, height = picture.size
    mask = Image.new("L", (width * SUPERSAMPLING, height * SUPERSAMPLING))
    pen = ImageDraw.Draw(mask)
    for contour in contours:
        points = [(float(x), float(y)) for y, x in contour * SUPERSAMPLING]
        pen.line(points, fill=255, width=round(line * SUPERSAMPLING), joint="curve")
    picture.paste(
        Image.new("RGB", picture.size, OUTLINE), mask=mask.resize(picture.size, Image.Resampling.BOX)
    )
    return picture


def crowded_part(well: Well, height: int, width: int) -> tuple[int, int, int, int]:
    """Where in the well the most nuclei lie within a window of this size: top, left, bottom, right."""
    labels = well.labels(well.levels[0])
    boxes = np.array([region.bbox for region in regionprops(labels.astype(np.int32))]).reshape(-1, 4)
    tall, wide = labels.shape
    best = (-1, 0, 0)
    step = max(8, tall // 64)
    for top in range(0, tall - height + 1, step):
        for left in range(0, wide - width + 1, step):
            whole = (boxes >= (top, left, 0, 0)).all(1) & (boxes[:, 2:] <= (top + height, left + width)).all(
                1
            )
            best = max(best, (int(whole.sum()), -top, -left))
    top, left = -best[1], -best[2]
    return top, left, top + height, left + width
