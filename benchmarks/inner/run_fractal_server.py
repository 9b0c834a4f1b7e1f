"""Run a workflow of one parallel task on the local backend of fractal-server; what it took.

Runs in fractal-server's own environment: its models, its runner, no database and no web server around them.
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from fractal_server.app.models.v2 import TaskV2, WorkflowTaskV2  # type: ignore[import-not-found]
from fractal_server.app.runner.v2._local import process_workflow  # type: ignore[import-not-found]


def main() -> None:
    request = json.load(sys.stdin)
    folder = Path(request["folder"])
    (item,) = request["workflow"]["task_list"]
    task = TaskV2(id=1, source="benchmark", input_types={}, output_types={}, **item["task"])
    workflow_task = WorkflowTaskV2(
        id=1,
        workflow_id=1,
        task_id=1,
        order=0,
        meta_parallel=item["meta_parallel"],
        args_parallel={},
        input_filters={"types": {}, "attributes": {}},
    )
    workflow_task.task = task
    dataset = SimpleNamespace(
        zarr_dir=request["dataset"]["zarr_dir"],
        images=[
            {"zarr_url": image["zarr_url"], "origin": None, "attributes": {}, "types": {}}
            for image in request["dataset"]["images"]
        ],
        filters={"types": {}, "attributes": {}},
    )
    (folder / "0_task").mkdir(parents=True)  # the server makes it before the run
    begin = time.perf_counter()
    result = asyncio.run(
        process_workflow(
            workflow=SimpleNamespace(task_list=[workflow_task]),
            dataset=dataset,
            workflow_dir_local=folder,
            logger_name="benchmark",
        )
    )
    wall = time.perf_counter() - begin
    assert len(result["images"]) == len(dataset.images)
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    json.dump({"wall_s": wall, "peak_mb": int(line.split()[1]) / 1024}, sys.stdout)


if __name__ == "__main__":
    main()
