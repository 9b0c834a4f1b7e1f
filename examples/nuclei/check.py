"""Were the nuclei found that were put into the raw data?

Compares the number of nuclei measured in each well with the number placed there, and the image list with what
the five tasks should have made of it. Prints a table; exit status 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TABLES = "*_mip.zarr/*/*/*/tables/nuclei_features/table.csv"


def read_nuclei(zarr_dir: Path) -> Iterator[dict[str, str]]:
    """One row for each measured nucleus, with its well."""
    for table in sorted(zarr_dir.glob(TABLES)):
        row, column = table.parts[-6:-4]
        with table.open(newline="") as lines:
            for nucleus in csv.DictReader(lines):
                nucleus.pop("region", None)  # The whole well, in words whose order changes from run to run.
                yield {"well": f"{row}{column}", **nucleus}


def write_table(path: Path, nuclei: list[dict[str, str]]) -> None:
    """All wells' nuclei in one file."""
    with path.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, fieldnames=list(nuclei[0]) if nuclei else ["well"])
        writer.writeheader()
        writer.writerows(nuclei)


def check_wells(placed: dict[str, int], measured: Counter[str]) -> bool:
    """Print a line for each well; whether all are right."""
    print(f"  {'well':<6}{'placed':>8}{'measured':>10}")
    wells = sorted(placed.keys() | measured.keys())
    for well in wells:
        verdict = "ok" if measured[well] == placed.get(well, 0) else "WRONG"
        print(f"  {well:<6}{placed.get(well, 0):>8}{measured[well]:>10}  {verdict}")
    total = (sum(placed.values()), sum(measured.values()))
    print(f"  {'all':<6}{total[0]:>8}{total[1]:>10}")
    return all(measured[well] == placed.get(well, 0) for well in wells)


def check_images(images: list[dict[str, Any]], wells: int) -> bool:
    """Each well has a converted image, a corrected one, and the corrected one's projection."""

    def count(**types: bool) -> int:
        return sum(all(image["types"].get(k, False) is v for k, v in types.items()) for image in images)

    found = {
        "converted": count(is_3D=True, illumination_corrected=False),
        "corrected": count(is_3D=True, illumination_corrected=True),
        "projected": count(is_3D=False, illumination_corrected=True),
    }
    right = len(images) == 3 * wells and all(number == wells for number in found.values())
    kinds = ", ".join(f"{number} {kind}" for kind, number in found.items())
    verdict = "ok" if right else f"WRONG, {wells} of each expected"
    print(f"  {len(images)} images in the list: {kinds}  {verdict}")
    return right


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("expected", type=Path, help="expected.json of the raw data")
    parser.add_argument("zarr_dir", type=Path)
    parser.add_argument("images", type=Path, help="images.json of the run")
    parser.add_argument("--table", type=Path, help="write all nuclei to this CSV file")
    args = parser.parse_args()
    placed = json.loads(args.expected.read_text())["nuclei_per_well"]
    nuclei = list(read_nuclei(args.zarr_dir))
    if args.table:
        write_table(args.table, nuclei)
    wells_right = check_wells(placed, Counter(nucleus["well"] for nucleus in nuclei))
    images_right = check_images(json.loads(args.images.read_text()), len(placed))
    return 0 if wells_right and images_right else 1


if __name__ == "__main__":
    sys.exit(main())
