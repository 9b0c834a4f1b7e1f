"""Synthetic cells: nuclei (DAPI) that never touch, each in a body with a cortex and fibres (Actin)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float32]

NUCLEUS_RADIUS = (12.0, 18.0)  # pixels
BODY_RADIUS = 2.6  # of a nucleus radius
GAP = 8.0  # pixels between any two nuclei, at least
PIXELS_PER_CELL = 5400
OUT_OF_FOCUS = 0.35
HARMONICS = np.array([2.0, 3.0, 5.0])


@dataclass(frozen=True)
class Cell:
    """Where a cell is and what it looks like."""

    y: float
    x: float
    radius: float
    stretch: float
    angle: float
    waves: FloatArray
    phases: FloatArray
    dapi: float
    actin: float
    plane: int

    @property
    def reach(self) -> float:
        """No part of the nucleus is farther from its centre than this."""
        return self.radius * self.stretch / (1.0 - float(self.waves.sum()))


@dataclass(frozen=True)
class Tissue:
    """A whole well in focus, and which plane each place of it is in focus in."""

    dapi: FloatArray
    actin: FloatArray
    plane: NDArray[np.uint8]
    cells: int

    def at(self, channel: int, plane: int, window: tuple[slice, slice]) -> FloatArray:
        """What the camera sees of channel 1 or 2 in one plane, before shading and noise."""
        image = (self.dapi if channel == 1 else self.actin)[window]
        return np.where(self.plane[window] == plane, image, OUT_OF_FOCUS * image)


def grow_tissue(rng: np.random.Generator, present: NDArray[np.bool_], planes: int) -> Tissue:
    """Cells at random places; every nucleus lies wholly where `present` is true."""
    cells = _place_cells(rng, present, planes)
    shape = present.shape
    nearest = np.full(shape, 2.0, dtype=np.float32)
    second = np.full(shape, 2.0, dtype=np.float32)
    dapi, fibres, light = (np.zeros(shape, dtype=np.float32) for _ in range(3))
    plane = np.zeros(shape, dtype=np.uint8)
    for cell in cells:
        window, y, x = _window(cell, shape)
        distance = _distance(cell, y, x)
        _add_nucleus(dapi[window], cell, distance)
        body = distance / (BODY_RADIUS * cell.radius)
        owned = body < nearest[window]
        second[window] = np.where(owned, nearest[window], np.minimum(second[window], body))
        nearest[window] = np.where(owned, body, nearest[window])
        fibres[window] = np.where(owned, _fibres(cell, y, x), fibres[window])
        light[window] = np.where(owned, cell.actin * (1 - 0.6 * (distance < cell.radius)), light[window])
        plane[window] = np.where(owned, cell.plane, plane[window])
    grain = _smooth_noise(rng, shape, 5)
    dapi *= 0.75 + 0.4 * grain
    inside = 1 / (1 + np.exp((nearest - 1) / 0.04))
    cortex = np.exp(-(((np.minimum(second, 1.0) - nearest) / 0.07) ** 2))
    actin = light * inside * (0.12 + 0.4 * fibres * grain + 0.9 * cortex)
    return Tissue(dapi, actin.astype(np.float32), plane, len(cells))


def _place_cells(rng: np.random.Generator, present: NDArray[np.bool_], planes: int) -> list[Cell]:
    """Try random places, keep those that are free."""
    wanted = max(3, round(rng.uniform(0.6, 1.0) * present.sum() / PIXELS_PER_CELL))
    cells: list[Cell] = []
    for _ in range(40 * wanted):
        cell = _random_cell(rng, present.shape, planes)
        if _fits(cell, present) and all(_apart(cell, other) for other in cells):
            cells.append(cell)
        if len(cells) == wanted:
            break
    return cells


def _random_cell(rng: np.random.Generator, shape: tuple[int, ...], planes: int) -> Cell:
    return Cell(
        y=rng.uniform(0, shape[0]),
        x=rng.uniform(0, shape[1]),
        radius=rng.uniform(*NUCLEUS_RADIUS),
        stretch=rng.uniform(1.0, 1.25),
        angle=rng.uniform(0, np.pi),
        waves=rng.uniform(0, 0.05, len(HARMONICS)).astype(np.float32),
        phases=rng.uniform(0, 2 * np.pi, len(HARMONICS)).astype(np.float32),
        dapi=rng.uniform(2800, 4200),
        actin=rng.uniform(1500, 2800),
        plane=int(rng.integers(planes)),
    )


def _fits(cell: Cell, present: NDArray[np.bool_]) -> bool:
    reach = cell.reach + GAP / 2
    top, left, bottom, right = cell.y - reach, cell.x - reach, cell.y + reach, cell.x + reach
    if top < 0 or left < 0 or bottom >= present.shape[0] or right >= present.shape[1]:
        return False
    return bool(present[int(top) : int(bottom) + 1, int(left) : int(right) + 1].all())


def _apart(one: Cell, other: Cell) -> bool:
    return bool(np.hypot(one.y - other.y, one.x - other.x) > one.reach + other.reach + GAP)


def _window(
    cell: Cell, shape: tuple[int, ...]
) -> tuple[tuple[slice, slice], NDArray[np.float32], NDArray[np.float32]]:
    """The part of the well that a cell can change, and the offsets of its pixels from the centre."""
    half = 1.2 * BODY_RADIUS * cell.reach
    top, bottom = max(0, int(cell.y - half)), min(shape[0], int(cell.y + half) + 1)
    left, right = max(0, int(cell.x - half)), min(shape[1], int(cell.x + half) + 1)
    y, x = np.mgrid[top:bottom, left:right].astype(np.float32)
    return (slice(top, bottom), slice(left, right)), y - np.float32(cell.y), x - np.float32(cell.x)


def _distance(cell: Cell, y: FloatArray, x: FloatArray) -> FloatArray:
    """Distance from the centre, bent so that the nucleus' outline is where it equals the radius."""
    along = np.cos(cell.angle) * x + np.sin(cell.angle) * y
    across = np.cos(cell.angle) * y - np.sin(cell.angle) * x
    theta = np.arctan2(across, along)
    outline = np.ones_like(theta)
    for harmonic, wave, phase in zip(HARMONICS, cell.waves, cell.phases, strict=True):
        outline += wave * np.cos(harmonic * theta + phase)
    return (np.hypot(along / cell.stretch, across * cell.stretch) / outline).astype(np.float32)


def _add_nucleus(dapi: FloatArray, cell: Cell, distance: FloatArray) -> None:
    """A disc with a soft edge and a faint glow."""
    disc = 1 / (1 + np.exp(np.clip((distance - cell.radius) / 1.2, -40, 40)))
    glow = 0.06 * np.exp(-((distance / (1.8 * cell.radius)) ** 2))
    np.maximum(dapi, cell.dapi * (0.94 * disc + glow), out=dapi)


def _fibres(cell: Cell, y: FloatArray, x: FloatArray) -> FloatArray:
    """Stripes along the cell's long axis, slightly bent."""
    along = np.cos(cell.angle) * x + np.sin(cell.angle) * y
    across = np.cos(cell.angle) * y - np.sin(cell.angle) * x
    bend = 2.0 * np.sin(along / 17.0 + cell.phases[0])
    stripes: FloatArray = (0.5 + 0.5 * np.cos((across + bend) * 1.1 + cell.phases[1])) ** 3
    return stripes


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], scale: int) -> FloatArray:
    """Noise between 0 and 1 whose grains are about `scale` pixels wide."""
    coarse = rng.random((shape[0] // scale + 2, shape[1] // scale + 2), dtype=np.float32)
    y, x = (np.arange(n, dtype=np.float32) / scale for n in shape)
    rows, columns = y.astype(int), x.astype(int)
    fy, fx = (y - rows)[:, None], (x - columns)[None, :]
    top, bottom = coarse[rows], coarse[rows + 1]
    upper = top[:, columns] * (1 - fx) + top[:, columns + 1] * fx
    lower = bottom[:, columns] * (1 - fx) + bottom[:, columns + 1] * fx
    noise: FloatArray = upper * (1 - fy) + lower * fy
    return noise
