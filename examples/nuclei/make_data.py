"""Make a small raw Yokogawa CellVoyager acquisition, flat-field profiles and the workflow for them.

Writes `raw/plate1/` (TIFF images, `MeasurementData.mlf`, `MeasurementDetail.mrf`), `illum/`, `workflow.json`
and `expected.json`, the number of nuclei in each well. The same arguments give the same bytes.
Needs only numpy.
"""

from __future__ import annotations

import argparse
import json
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from arguments import add_data_arguments, add_more_data_arguments
from cells import FloatArray, Tissue, grow_tissue

NAMESPACE = "http://www.yokogawa.co.jp/BTS/BTSSchema/1.0"
PLATE = "plate1"
ROWS, COLUMNS = 16, 24
PIXEL_SIZE, PLANE_DISTANCE = 0.325, 2.0  # micrometres
CAMERA_OFFSET, CAMERA_NOISE = 100, 8
CHANNELS = (1, 2)  # DAPI, Actin


@dataclass(frozen=True)
class Acquisition:
    """What is to be imaged."""

    wells: list[str]
    fields: int
    size: int
    planes: int
    seed: int

    @property
    def columns(self) -> int:
        """Fields side by side."""
        return math.ceil(math.sqrt(self.fields))

    @property
    def rows(self) -> int:
        """Fields one above the other; the last row may be incomplete."""
        return math.ceil(self.fields / self.columns)

    def window(self, field: int) -> tuple[slice, slice]:
        """The part of the well that a field (counted from 0) shows."""
        row, column = divmod(field, self.columns)
        top, left = row * self.size, column * self.size
        return slice(top, top + self.size), slice(left, left + self.size)

    def stage(self, field: int) -> tuple[float, float]:
        """The field's centre, in micrometres: x to the right, y upwards."""
        row, column = divmod(field, self.columns)
        x = (column - (self.columns - 1) / 2) * self.size * PIXEL_SIZE
        return x, -(row - (self.rows - 1) / 2) * self.size * PIXEL_SIZE


@dataclass(frozen=True)
class Record:
    """One image, as the microscope's measurement data describes it."""

    well: str
    field: int
    plane: int
    channel: int
    x: float
    y: float

    @property
    def file_name(self) -> str:
        """The vendor's naming scheme; fields and planes are counted from 1."""
        place = f"T0001F{self.field:03d}L01A{self.channel:02d}Z{self.plane:02d}C{self.channel:02d}"
        return f"{PLATE}_{self.well}_{place}.tif"

    def as_xml(self, index: int) -> str:
        """One line of `MeasurementData.mlf`; `index` stands in for the clock."""
        row, column = _row_and_column(self.well)
        time = f"2024-01-01T10:00:{(index // 60) % 60:02d}.{index % 60:03d}+01:00"
        z = (self.plane - 1) * PLANE_DISTANCE
        return (
            f'<bts:MeasurementRecord bts:Time="{time}"'
            f' bts:Column="{column}" bts:Row="{row}" bts:FieldIndex="{self.field}" bts:TimePoint="1"'
            f' bts:TimelineIndex="1" bts:X="{self.x:.4f}" bts:Y="{self.y:.4f}" bts:Type="IMG"'
            f' bts:ZIndex="{self.plane}" bts:ActionIndex="{self.channel}" bts:Action="3D" bts:Z="{z:.1f}"'
            f' bts:Ch="{self.channel}">{self.file_name}</bts:MeasurementRecord>'
        )


def _row_and_column(well: str) -> tuple[int, int]:
    """`B03` is 2, 3."""
    return ord(well[0]) - ord("A") + 1, int(well[1:])


def write_tiff(path: Path, image: FloatArray) -> None:
    """An uncompressed 16-bit TIFF of one strip."""
    pixels = np.clip(np.round(image), 0, 65535).astype("<u2")
    height, width = pixels.shape
    data = pixels.tobytes()
    short, long = 3, 4
    header_size = 8
    tags = [
        (256, long, width),
        (257, long, height),
        (258, short, 16),  # bits per sample
        (259, short, 1),  # no compression
        (262, short, 1),  # black is zero
        (273, long, header_size),  # where the strip begins
        (277, short, 1),  # samples per pixel
        (278, long, height),  # rows per strip
        (279, long, len(data)),
        (339, short, 1),  # unsigned integers
    ]
    header = struct.pack("<2sHI", b"II", 42, header_size + len(data))
    # A short value is left-justified in its four bytes, which little-endian order does by itself.
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    path.write_bytes(header + data + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0))


def make_shading(size: int) -> dict[int, FloatArray]:
    """For each channel, the share of light that reaches each pixel."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / (size - 1)

    def fall_off(strength: float, centre_y: float, centre_x: float) -> FloatArray:
        shade: FloatArray = 1 - strength * ((y - centre_y) ** 2 + (x - centre_x) ** 2) / 0.5
        return shade

    return {1: fall_off(0.6, 0.5, 0.5), 2: fall_off(0.5, 0.35, 0.6)}


def grow_well(acquisition: Acquisition, rng: np.random.Generator) -> Tissue:
    """The tissue in one well; no nucleus reaches beyond what the fields show."""
    size = acquisition.size
    present = np.zeros((acquisition.rows * size, acquisition.columns * size), dtype=bool)
    for field in range(acquisition.fields):
        present[acquisition.window(field)] = True
    return grow_tissue(rng, present, acquisition.planes)


def image_well(
    acquisition: Acquisition,
    well: str,
    shading: dict[int, FloatArray],
    save: Callable[[Record, FloatArray], None],
) -> int:
    """Image all fields of a well, planes and channels of each; the number of nuclei."""
    # Seeded by its place on the plate, a well does not depend on which others are imaged.
    rng = np.random.default_rng([acquisition.seed, *_row_and_column(well)])
    tissue = grow_well(acquisition, rng)
    for field in range(acquisition.fields):
        x, y = acquisition.stage(field)
        for plane in range(acquisition.planes):
            for channel in CHANNELS:
                light = tissue.at(channel, plane, acquisition.window(field)) * shading[channel]
                noise = rng.normal(CAMERA_OFFSET, CAMERA_NOISE, light.shape).astype(np.float32)
                save(Record(well, field + 1, plane + 1, channel, x, y), light + noise)
    return tissue.cells


def write_measurement_data(path: Path, records: list[Record]) -> None:
    """The `.mlf` file: which image shows what."""
    lines = "\n".join(record.as_xml(index) for index, record in enumerate(records))
    path.write_text(
        f'<?xml version="1.0" encoding="utf-8"?>\n'
        f'<bts:MeasurementData xmlns:bts="{NAMESPACE}" bts:Version="1.0">\n'
        f"{lines}\n</bts:MeasurementData>\n"
    )


def write_measurement_detail(path: Path, acquisition: Acquisition) -> None:
    """The `.mrf` file: the plate and the camera's channels."""
    path.write_text(
        f'<?xml version="1.0" encoding="utf-8"?>\n'
        f'<bts:MeasurementDetail xmlns:bts="{NAMESPACE}" bts:Version="1.0"'
        f' bts:OperatorName="example" bts:Title="{PLATE}" bts:Application="CellVoyager"'
        f' bts:BeginTime="2024-01-01T10:00:00.000+01:00" bts:EndTime="2024-01-01T10:05:00.000+01:00"'
        f' bts:MeasurementSettingFileName="m.mes" bts:ColumnCount="{COLUMNS}" bts:RowCount="{ROWS}"'
        f' bts:TimePointCount="1" bts:FieldCount="{acquisition.fields}" bts:ZCount="{acquisition.planes}"'
        f' bts:TargetSystem="CV8000" bts:ReleaseNumber="R1">\n'
        f'<bts:MeasurementSamplePlate bts:Name="384" bts:WellPlateFileName="p.wpi"'
        f' bts:WellPlateProductFileName="p.wpp"/>\n'
        + "\n".join(_channel_xml(channel, acquisition.size) for channel in CHANNELS)
        + "\n</bts:MeasurementDetail>\n"
    )


def _channel_xml(channel: int, size: int) -> str:
    return (
        f'<bts:MeasurementChannel bts:Ch="{channel}" bts:HorizontalPixelDimension="{PIXEL_SIZE}"'
        f' bts:VerticalPixelDimension="{PIXEL_SIZE}" bts:CameraNumber="1" bts:InputBitDepth="16"'
        f' bts:InputLevel="65535" bts:HorizontalPixels="{size}" bts:VerticalPixels="{size}"'
        f' bts:FilterWheelPosition="1" bts:FilterPosition="{channel}" bts:ShadingCorrectionSource="none"/>'
    )


def make_data(acquisition: Acquisition, out: Path) -> tuple[dict[str, int], int]:
    """Write everything; the number of nuclei in each well, and of images."""
    raw, profiles = out / "raw" / PLATE, out / "illum"
    for folder in (raw, profiles):
        folder.mkdir(parents=True, exist_ok=True)
    shading = make_shading(acquisition.size)
    for channel, profile in shading.items():
        write_tiff(profiles / f"C{channel:02d}.tif", profile / profile.max() * 60000)
    records: list[Record] = []

    def save(record: Record, image: FloatArray) -> None:
        records.append(record)
        write_tiff(raw / record.file_name, image)

    nuclei = {well: image_well(acquisition, well, shading, save) for well in acquisition.wells}
    write_measurement_data(raw / "MeasurementData.mlf", records)
    write_measurement_detail(raw / "MeasurementDetail.mrf", acquisition)
    (out / "expected.json").write_text(json.dumps({"nuclei_per_well": nuclei}, indent=2) + "\n")
    return nuclei, len(records)


def write_workflow(out: Path) -> None:
    """The workflow, as Fractal exports it, with the place of this data filled in."""
    template = Path(__file__).with_name("workflow.template.json").read_text()
    place = json.dumps(str(out.resolve()))[1:-1]
    (out / "workflow.json").write_text(template.replace("${DATA}", place))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    add_data_arguments(parser)
    add_more_data_arguments(parser)
    args = parser.parse_args()
    acquisition = Acquisition(args.wells, args.fields, args.size, args.planes, args.seed)
    nuclei, images = make_data(acquisition, args.out)
    write_workflow(args.out)
    wells = f"{len(nuclei)} well{'s' if len(nuclei) > 1 else ''}"
    print(f"{images} images of {wells}, {sum(nuclei.values())} nuclei")


if __name__ == "__main__":
    main()
