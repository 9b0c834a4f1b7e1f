"""Image lists: what one task's output costs, and how a whole run grows with the number of images."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from measuring import Row, Settings, fresh, new_folder, script

MERGED = 20_000
ROUNDS = 2
SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)


def measure(settings: Settings) -> Iterator[Row]:
    """First the engine's steps by themselves, then runs of several sizes, each in a fresh interpreter."""
    for name, seconds in fresh("merge_images.py", {"images": MERGED}).items():
        counts = not name.startswith("validating")
        yield Row(f"{MERGED:,} images {name}", seconds, "s", 0.5 if counts else None)
    walls = []
    for size in SIZES:
        answers = []
        for _ in range(settings.rounds or ROUNDS):
            with new_folder(settings.folder) as folder:
                answers.append(fresh("run_backend.py", _request(size, folder)))
        answer = min(answers, key=lambda one: float(one["wall_s"]))
        walls.append(answer["wall_s"])
        last = size == SIZES[-1]
        yield Row(f"{size:,} images, a run of two tasks", answer["wall_s"], "s", 60 if last else None)
        yield Row(f"{size:,} images, peak memory", answer["peak_mb"], "MB", 3_000 if last else None)
    yield Row("growth: the exponent of the number of images", _exponent(SIZES, walls), "", 1.1)


def _request(size: int, folder: Path) -> dict[str, Any]:
    """A run that makes images and then changes all of them; the tasks copy prepared outputs."""
    made = folder / "made.json"
    changed = folder / "changed.json"
    with made.open("w") as file:
        json.dump({"image_list_updates": [_new(number) for number in range(size)]}, file)
    with changed.open("w") as file:
        updates = [{"zarr_url": _url(number), "attributes": {"seen": True}} for number in range(size)]
        json.dump({"image_list_updates": updates}, file)
    make, change = (script(folder, path.stem, f'exec cp {path} "$4"') for path in (made, changed))
    tasks = [
        {"name": "Make", "type": "converter_non_parallel", "command_non_parallel": make},
        {
            "name": "Change",
            "type": "non_parallel",
            "command_non_parallel": change,
            "output_types": {"changed": True},
        },
    ]
    return {
        "workflow": {"task_list": [{"task": task} for task in tasks]},
        "dataset": {"zarr_dir": "/data"},
        "folder": f"{folder}/run",
    }


def _url(number: int) -> str:
    return f"/data/plate.zarr/{number % 16}/{number // 16 % 24}/{number}"


def _new(number: int) -> dict[str, Any]:
    attributes = {"plate": "plate.zarr", "well": f"{number // 16}", "field": number}
    return {"zarr_url": _url(number), "attributes": attributes, "types": {"is_3D": True}}


def _exponent(sizes: Sequence[int], walls: Sequence[float]) -> float:
    """The slope of a straight line through the logarithms: 1 is linear growth."""
    x, y = [math.log(size) for size in sizes], [math.log(wall) for wall in walls]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum(
        (a - mean_x) ** 2 for a in x
    )
