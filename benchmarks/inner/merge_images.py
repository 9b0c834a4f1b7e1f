"""The engine's steps on one output of many images: validation; merging, taking it in and selecting."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from fractal_backends.engine.image_list import ImageList
from fractal_backends.engine.outputs import merge_outputs
from fractal_backends.models import Dataset, Filters, Image, TaskOutput


def _attributes(number: int) -> dict[str, Any]:
    return {"plate": "plate.zarr", "well": f"{number // 16}", "field": number}


def _outputs(old: list[str]) -> dict[str, dict[str, Any]]:
    """What the one unit says, by what it does to the images."""
    new = [f"{url}-new" for url in old]
    return {
        "updated": {
            "image_list_updates": [
                {"zarr_url": url, "attributes": {"seen": number}, "types": {"done": True}}
                for number, url in enumerate(old)
            ]
        },
        "replaced by new ones": {
            "image_list_updates": [
                {"zarr_url": fresh, "origin": url, "attributes": {"seen": True}}
                for fresh, url in zip(new, old, strict=True)
            ],
            "image_list_removals": old,
        },
        "built anew from another origin": {
            "image_list_updates": [
                {"zarr_url": url, "origin": other, "attributes": {"seen": True}}
                for url, other in zip(old, old[1:] + old[:1], strict=True)
            ]
        },
        "removed": {"image_list_removals": old},
    }


def main() -> None:
    count = json.load(sys.stdin)["images"]
    old = [f"/data/plate.zarr/{number}" for number in range(count)]
    start = {
        "zarr_dir": "/data",
        "images": [
            {"zarr_url": url, "attributes": _attributes(number), "types": {"is_3D": True}}
            for number, url in enumerate(old)
        ],
    }
    images: list[Image] = Dataset.model_validate(start).images
    answer = {}
    for name, output in _outputs(old).items():
        text = json.dumps(output)
        begin = time.perf_counter()
        valid = TaskOutput.model_validate_json(text)
        answer[f"validating: {name}"] = time.perf_counter() - begin
        image_list = ImageList(images)
        begin = time.perf_counter()
        changed, _ = image_list.updated(merge_outputs([valid]), {"processed": True}, "/data")
        selected = changed.select(Filters(types={"processed": True}, attributes={"plate": "plate.zarr"}))
        answer[name] = time.perf_counter() - begin
        assert len(selected) == len(changed) == (0 if name == "removed" else count)
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
